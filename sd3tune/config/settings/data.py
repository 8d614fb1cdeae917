"""The training data: defaults for all datasets, and settings of the whole run."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Count, Flag, Number, Resolution, Settings, Whole


class DataSettings(Settings):
    """The training data: defaults for all datasets, and settings of the whole run."""

    resolution: Resolution = Field(1024, gt=0)
    """Default of every dataset, in the unit of resolution_type."""
    resolution_type: Literal["pixel", "area", "pixel_area"] = "pixel_area"
    """`pixel_area`: edge of a square of that area. `area`: megapixels. `pixel`: shorter edge."""
    minimum_image_size: Number | None = Field(None, ge=0)
    """Smaller images are not used, in the unit of resolution_type."""
    maximum_image_size: Number | None = Field(None, ge=0)
    """With target_downsample_size: crops are taken from images resized to that size first."""
    target_downsample_size: Number | None = Field(None, ge=0)
    """Size to which images are resized before they are cropped."""
    aspect_bucket_rounding: Whole = Field(2, ge=1, le=9)
    """Decimals to which aspect ratios are rounded; each rounded ratio is a bucket."""
    aspect_bucket_alignment: Literal[64] = 64
    """Sides are multiples of 64 pixels for SD3."""
    caption_strategy: Literal[
        "filename", "textfile", "instanceprompt", "parquet", "csv", "huggingface"
    ] = "filename"
    """Default of every dataset: the file's name, a .txt beside it, instance_prompt, or a column of
    a table."""
    caption_dropout_probability: Number = Field(0.1, ge=0, le=1)
    """Share of captions replaced by the blank one, so that the model learns to draw without a
    prompt, as classifier-free guidance needs."""
    vae_batch_size: Count = 4
    """Images encoded at a time."""
    text_encoder_batch_size: Count = 4
    """Captions encoded at a time."""
    write_batch_size: Count = 32
    """Cache entries in a file. An interruption loses at most so many."""
    data_backend_sampling: Literal["uniform", "auto-weighting"] = "auto-weighting"
    """How the dataset of the next batch is drawn: by probability alone, or by probability times
    size."""
    allow_dataset_oversubscription: Flag = False
    """Repeat a dataset that is too small for one optimizer step instead of refusing it."""
    masked_loss_probability: Number = Field(1.0, ge=0, le=1)
    """Share of the batches with masks whose loss is multiplied by the mask."""
    strict: Flag = False
    """A file that cannot be used is an error. Off: it is left out and reported."""
