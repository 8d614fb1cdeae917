"""The model card of a run, and publishing its result on a hub of Hugging Face."""

from typing import Annotated

from pydantic import BeforeValidator

from sd3tune.config import repositories
from sd3tune.config.fields import Flag, Settings


class PublishingSettings(Settings):
    """The model card, and publishing on a hub of Hugging Face."""

    push_to_hub: Flag = False
    """Upload the result, the model card and its pictures to the hub when the run ends. The login
    (`hf auth login` or HF_TOKEN) is checked before training."""
    hub_model_id: Annotated[str | None, BeforeValidator(repositories.model_id)] = None
    """The repository with push_to_hub: `name` in your own namespace, or `namespace/name`. Left out:
    tracker_project_name, else output_name."""
    push_checkpoints_to_hub: Flag = False
    """With push_to_hub: also upload the adapter of each checkpoint, as `checkpoint-<step>/…`. The
    optimizer's state stays here."""
    push_to_hub_background: Flag = True
    """With push_checkpoints_to_hub: training goes on while a checkpoint is uploaded. false: it
    waits."""
    model_card_private: Flag = True
    """With push_to_hub: a new repository is private. One that exists keeps its visibility."""
    model_card_safe_for_work: Flag = False
    """State in the model card that the model is safe for work. false: the card has the tag
    `not-for-all-audiences`."""
    model_card_note: str | None = None
    """A text for the model card, shown as plain text; an empty line begins a paragraph."""
    modelspec_comment: Annotated[str | None, BeforeValidator(repositories.comment)] = None
    """A text for the result's metadata (`modelspec.comment`), or a list of lines. `{current_step}`
    becomes the step."""
