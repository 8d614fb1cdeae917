"""The training data: defaults for all datasets, and settings of the whole run."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sd3tune.config import values
from sd3tune.config.fields import Alignment, Count, Flag, Number, Resolution, Settings, Whole
from sd3tune.config.names import supported


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
    aspect_bucket_alignment: Alignment = 64
    """Sides are multiples of 64 pixels for SD3."""
    caption_strategy: Annotated[
        Literal["filename", "textfile", "instanceprompt", "parquet", "csv", "huggingface"],
        BeforeValidator(supported("caption_strategy")),
    ] = "filename"
    """Default of every dataset: the file's name, a .txt beside it, instance_prompt, or a column of
    a table."""
    instance_prompt: str | None = None
    """Default of every dataset: the caption of every image, or a text put before each caption."""
    prepend_instance_prompt: Flag = False
    """Default of every dataset: put instance_prompt in front of each caption."""
    only_instance_prompt: Flag = False
    """Default of every dataset: use instance_prompt as the caption of every image."""
    disable_multiline_split: Flag = False
    """Default of every dataset: a .txt with several lines is one caption, not one a line."""
    max_upscale_threshold: Number | None = Field(None, ge=0)
    """Default of every dataset: images that would be enlarged by more than this share are not
    used."""
    skip_file_discovery: Annotated[tuple[str, ...], BeforeValidator(values.stages)] = ()
    """Default of every dataset: stages of discovery to skip (`metadata`, `aspect`, `vae`,
    `text`)."""
    preserve_data_backend_cache: Flag = False
    """Default of every dataset: use the list of files of the last discovery."""
    metadata_update_interval: Whole = Field(60, ge=60)
    """Default of every dataset: seconds between writes of the list of files."""
    caption_dropout_probability: Number = Field(0.1, ge=0, le=1)
    """Share of captions replaced by the blank one, so that the model learns to draw without a
    prompt, as classifier-free guidance needs."""
    read_batch_size: Count = 25
    """Default of every dataset: files read at a time from a bucket or over http."""
    image_processing_batch_size: Count = 32
    """Default of every dataset: images decoded ahead of the encoder."""
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
