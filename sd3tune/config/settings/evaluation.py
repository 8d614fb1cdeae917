"""Figures during training: the evaluation loss, what follows from it, and scores of pictures."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Count, Flag, Number, Settings, Whole


class EvaluationSettings(Settings):
    """Figures during training: the evaluation loss, what follows from it, and scores of
    pictures."""

    eval_steps_interval: Whole = Field(0, ge=0)
    """Steps between measurements of the evaluation loss during training. 0: none by steps."""
    eval_epoch_interval: Number = Field(0.0, ge=0)
    """Epochs between measurements of the evaluation loss; 0.5 is twice an epoch. 0: none by
    epochs."""
    num_eval_images: Count = 4
    """Images of each `eval` dataset that the evaluation loss is measured on. Without an `eval`
    dataset, images of each training dataset."""
    eval_timesteps: Count = Field(5, le=1000)
    """Noise levels of the evaluation loss, in the middles of as many equal parts of 0 to 1; with 5
    they are 0.1, 0.3, 0.5, 0.7 and 0.9."""
    eval_dataset_id: str | None = None
    """Dataset that the evaluation loss is measured on. Left out: every `eval` dataset."""
    eval_dataset_pooling: Flag = False
    """One evaluation loss for the images of all datasets, instead of one for each dataset."""
    eval_loss_disable: Flag = False
    """Measure no evaluation loss during training, whatever the intervals are."""
    keep_best_checkpoint: Flag | None = None
    """Keep the checkpoint with the lowest evaluation loss, beside those of checkpoints_total_limit.
    Left out: with early_stopping_patience."""
    early_stopping_patience: Count | None = None
    """Evaluations without a new lowest loss after which training ends. Left out: it never ends
    early."""
    evaluation_type: Literal["none", "clip"] = "none"
    """`clip`: the CLIP score of every validation picture, 100 times the cosine of picture and
    prompt, from 0 to 100."""
    pretrained_evaluation_model_name_or_path: str = "openai/clip-vit-large-patch14-336"
    """The CLIP model of evaluation_type=clip: a folder or a Hugging Face repository."""
