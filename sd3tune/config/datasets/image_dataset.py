"""One dataset of config/multidatabackend.json: its keys and their types.

Docstrings are the help and the reference. Rules that join several keys are in config/rules.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sd3tune.config import values
from sd3tune.config.datasets.storage import BucketKeys, Columns, Stored
from sd3tune.config.fields import Alignment, Count, Flag, Number, OneOf, Resolution, Settings, Whole
from sd3tune.config.names import supported
from sd3tune.tables.dataset_types import DATASET_TYPES


class Shuffle(Settings):
    """More captions, with their tags in another order."""

    enable: Flag = True
    """false switches it off."""
    count: Count = 1
    """Shuffled captions made from each."""
    seed: Whole = Field(0, ge=0)
    """The same seed gives the same orders."""
    split_on: Literal["comma", "space", "period"] = "comma"
    """What separates the tags."""
    position_start: Whole = Field(0, ge=0)
    """Tags at the front that stay where they are."""
    include_original: Flag = True
    """Keep the caption as written beside the shuffled ones."""


class ImageDataset(Stored):
    """Images with captions."""

    dataset_type: Annotated[str, OneOf(DATASET_TYPES, explained=True)] = "image"
    """What the entry is for; the last two have settings of their own, below."""
    crop: Flag = False
    """Crop images to crop_aspect. Off: images keep their aspect, in the nearest bucket."""
    crop_aspect: Literal["square", "preserve", "random", "closest"] = "square"
    """`square`; `preserve` the aspect of each image; a `random` or the `closest` one of
    crop_aspect_buckets."""
    crop_aspect_buckets: Annotated[
        tuple[tuple[float, float], ...], BeforeValidator(values.aspects)
    ] = ()
    """Aspects as [0.75, 1.0, 1.5], or weighted as [{"aspect": 1.0, "weight": 0.7}, …]."""
    crop_style: Annotated[
        Literal["random", "center", "corner", "face"],
        BeforeValidator(lambda v: "center" if v == "centre" else v),
    ] = "random"
    """Where the crop is taken. `random` is fixed for each image by its name; `face` is around the
    largest face, or the centre where none is found."""
    resolution: Resolution = Field(gt=0)
    """Training size, in the unit of resolution_type."""
    resolution_type: Literal["pixel", "area", "pixel_area"]
    """`pixel_area`: edge of a square of that area. `area`: megapixels. `pixel`: shorter edge."""
    minimum_image_size: Number | None = Field(None, ge=0)
    """Smaller images are not used."""
    maximum_image_size: Number | None = Field(None, ge=0)
    """With target_downsample_size: crops are taken from images resized to that size first."""
    target_downsample_size: Number | None = Field(None, ge=0)
    """Size to which images are resized before they are cropped."""
    max_upscale_threshold: Number | None = Field(None, ge=0)
    """Images that would be enlarged by more than this share are not used: 0.25 allows a quarter.
    Left out: any enlargement."""
    minimum_aspect_ratio: Number | None = Field(None, ge=0)
    """Images of narrower buckets (width / height) are not used. 0 is no limit."""
    maximum_aspect_ratio: Number | None = Field(None, gt=0)
    """Images of wider buckets (width / height) are not used."""
    aspect_bucket_rounding: Whole = Field(2, ge=1, le=9)
    """Decimals to which aspect ratios are rounded; each rounded ratio is a bucket."""
    aspect_bucket_alignment: Alignment = 64
    """Sides are multiples of 64 pixels for SD3."""
    caption_strategy: Annotated[
        Literal["filename", "textfile", "instanceprompt", "parquet", "csv", "huggingface"],
        BeforeValidator(lambda v: "instanceprompt" if v == "instance_prompt" else v),
        BeforeValidator(supported("caption_strategy")),
    ] = "filename"
    """The file's name, a .txt or .caption beside it, instance_prompt, or a column of a table."""
    instance_prompt: str | None = None
    """The caption of every image, or a text put before each caption."""
    only_instance_prompt: Flag = False
    """instance_prompt is the only caption."""
    prepend_instance_prompt: Flag = False
    """instance_prompt is put before each caption."""
    disable_multiline_split: Flag = False
    """A .txt of several lines is one caption instead of several."""
    caption_shuffle: Shuffle | None = None
    """{"enable": true, "count": 3, "seed": 0, "split_on": "comma", "position_start": 1}: more
    captions, with their tags in other orders."""
    caption_filter_list: Annotated[
        tuple[str, ...] | Path | None, BeforeValidator(values.filters)
    ] = None
    """Texts removed from captions; `/pattern/` removes a regular expression, `s/pattern/new/`
    replaces it. A list, or a .txt or .json holding one."""
    caption_dropout_probability: Number = Field(0.1, ge=0, le=1)
    """Share of captions replaced by the blank one."""
    parquet: Columns | None = None
    """A .parquet with captions or sizes: which columns hold what."""
    metadata_backend: Annotated[
        Literal["discovery", "parquet", "csv", "huggingface"],
        BeforeValidator(lambda v: "discovery" if v in ("json", "filesystem") else v),
        BeforeValidator(supported("metadata_backend")),
    ] = "discovery"
    """Where image sizes are read: from the files' headers, or from columns of a table."""
    metadata_update_interval: Whole = Field(60, ge=60)
    """Seconds between writes of the list of files while they are read for the first time."""
    cache_dir_vae: Path
    """Where encoded images are kept."""
    aws_cache_prefix: str | None = None
    """aws: encoded images are kept in the bucket too, below this prefix, from which another machine
    fetches them. Left out: cache_dir_vae where that is a relative path."""
    vae_cache_clear_each_epoch: Flag = False
    """Take new random crops and aspects in each epoch, and encode them."""
    skip_file_discovery: Annotated[tuple[str, ...], BeforeValidator(values.stages)] = ()
    """`metadata` or `aspect`: use the files and sizes of the last discovery without looking.
    `vae`, `text`: encode nothing; what is not cached is an error before training."""
    preserve_data_backend_cache: Flag = False
    """Use the list of files of the last discovery instead of listing the storage again; files that
    changed are still noticed."""
    repeats: Whole = Field(0, ge=0)
    """Extra passes over each image per epoch."""
    probability: Number = 1.0
    """Weight when the dataset of the next batch is drawn; 0 or less is never drawn."""
    max_num_samples: Count | None = None
    """Train on a fixed subset of this many images."""
    start_epoch: Count = 1
    """First epoch that draws from this dataset."""
    end_epoch: Count | None = None
    """Last epoch that draws from this dataset."""
    start_step: Whole = Field(0, ge=0)
    """Optimizer steps before the dataset is drawn from."""
    end_step: Count | None = None
    """Last optimizer step that draws from this dataset."""
    train_batch_size: Count | None = None
    """Images per forward pass of this dataset. Left out: the run's."""
    vae_batch_size: Count = 4
    """Images encoded at a time."""
    image_processing_batch_size: Count = 32
    """Images decoded ahead of the encoder."""
    write_batch_size: Count = 32
    """Cache entries in a file. An interruption loses at most so many."""
    is_regularisation_data: Flag = False
    """Prior preservation: on these images the target is the prediction of the model without the
    adapter."""
    timestep_sampling_offset: Number = 0.0
    """Added to the normal number behind each logit-normal noise level of these images: above 0
    means more noise (composition), below 0 less (detail)."""
    conditioning_data: Annotated[str | None, BeforeValidator(values.one_id)] = None
    """id of the dataset with a mask for each image."""
    text_embeds: str | None = None
    """id of the text_embeds entry that keeps these captions. Left out: the default one."""
    strict: Flag = False
    """A file that cannot be used is an error. Off: it is left out and reported."""

    @property
    def trained(self) -> bool:
        """Whether these images are trained on, not only measured."""
        return DATASET_TYPES[self.dataset_type].use == "train"

    @property
    def fetched_dir(self) -> Path:
        """Where images behind http(s) addresses are kept."""
        return self.csv_cache_dir or self.cache_dir_vae / "fetched"


class Masks(Stored):
    """A mask for each image of a dataset: same path and name, any image suffix."""

    dataset_type: Literal["conditioning"] = "conditioning"
    """Marks this entry as masks, used through conditioning_data."""
    conditioning_type: Annotated[
        Literal["mask", "segmentation"], BeforeValidator(supported("conditioning_type"))
    ] = "mask"
    """`mask`: the loss is multiplied by the red channel, black 0, white 1. `segmentation`: brighter
    than middle grey is 1, the rest 0."""


class CaptionFolder(Settings):
    """A folder of encoded captions."""

    id: str = Field(min_length=1)
    """Name of the entry, unique in the file."""
    type: Literal["local", "aws"] = "local"
    """`local`: encoded captions are kept in cache_dir. `aws`: also in a bucket, from which another
    machine fetches them."""
    dataset_type: Literal["text_embeds"] = "text_embeds"
    """Marks this entry as the cache of captions."""
    default: Flag = False
    """The cache of validation prompts, and of every dataset that names no other."""
    cache_dir: Path
    """Folder of the cache."""
    write_batch_size: Count = 32
    """Captions in a file. An interruption loses at most so many."""


class TextEmbeds(CaptionFolder, BucketKeys):
    """The cache of encoded captions."""

    aws_cache_prefix: str | None = None
    """aws: prefix of the cache's files in the bucket. Left out: aws_data_prefix, followed by
    cache_dir where that is a relative path."""
