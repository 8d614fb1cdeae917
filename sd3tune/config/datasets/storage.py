"""Where the files of a dataset are: the keys of its storage and of its tables.

Docstrings are the help and the reference.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sd3tune.config import values
from sd3tune.config.fields import Count, Flag, OneOf, Settings
from sd3tune.errors import ErrorAndHint
from sd3tune.tables.storages import STORAGES, owners


class Columns(Settings):
    """The columns of a table."""

    path: Path
    """The .csv, .tsv, .jsonl or .parquet file."""
    filename_column: str = "filename"
    """Path of the image, relative to the dataset."""
    caption_column: Annotated[tuple[str, ...], BeforeValidator(values.names)] = ("caption",)
    """The caption; several columns, or lists in one, are several captions."""
    fallback_caption_column: str | None = None
    """Column that is read where caption_column is empty."""
    width_column: str | None = None
    """Width in pixels; with height_column and metadata_backend no header is read."""
    height_column: str | None = None
    """Height in pixels."""
    identifier_includes_extension: Flag = True
    """false: filename_column leaves out the .jpg."""

    @model_validator(mode="after")
    def fits_together(self) -> "Columns":
        """Width and height are read together. Raises ValueError."""
        if (self.width_column is None) != (self.height_column is None):
            raise ValueError("width_column and height_column need each other; set both or neither")
        return self


class HubColumns(Settings):
    """The columns of a Hugging Face dataset."""

    image_column: str = "image"
    """The image."""
    caption_column: Annotated[tuple[str, ...], BeforeValidator(values.names)] = ("caption",)
    """The caption; several columns, or lists in one, are several captions."""
    fallback_caption_column: str | None = None
    """Column that is read where caption_column is empty."""
    width_column: str | None = None
    """Width in pixels; with height_column no header is read."""
    height_column: str | None = None
    """Height in pixels."""

    @model_validator(mode="after")
    def fits_together(self) -> "HubColumns":
        """Width and height are read together. Raises ValueError."""
        if (self.width_column is None) != (self.height_column is None):
            raise ValueError("width_column and height_column need each other; set both or neither")
        return self


class FolderKeys(Settings):
    """A dataset's name, the kind of its storage, and its folder."""

    id: str = Field(min_length=1)
    """Name of the dataset, unique in the file."""
    type: Annotated[str, OneOf(STORAGES, explained=True)] = "local"
    """Where the files are."""
    instance_data_dir: Path | None = None
    """local: the folder, searched with its sub-folders, never written to. csv: where relative
    paths start."""


class BucketKeys(Settings):
    """An S3 bucket, of Amazon or of any server that speaks its protocol."""

    aws_bucket_name: str | None = None
    """aws: the bucket."""
    aws_data_prefix: str = ""
    """aws: only keys below this prefix."""
    aws_endpoint_url: Annotated[str | None, AfterValidator(values.address)] = None
    """aws: the server, when it is not Amazon's, as http(s)://HOST:PORT."""
    aws_region_name: str | None = None
    """aws: the region."""
    aws_access_key_id: str | None = None
    """aws: `{env:NAME}` of a variable named like AWS_ACCESS_KEY_ID. Left out: the environment's
    credentials are used."""
    aws_secret_access_key: SecretStr | None = None
    """aws: best written as `{env:NAME}`."""


class Stored(FolderKeys, BucketKeys):
    """Where the files of a dataset are."""

    dataset_name: str | None = None
    """huggingface: a dataset repository, or a folder in its layout."""
    dataset_config: str | None = None
    """huggingface: the configuration of the dataset."""
    split: str = "train"
    """huggingface: the split."""
    revision: str | None = None
    """huggingface: branch, tag or commit."""
    huggingface: HubColumns = HubColumns()
    """huggingface: the names of the columns."""
    csv: Columns | None = None
    """A .csv with captions or sizes, and the names of its columns."""
    csv_cache_dir: Path | None = None
    """csv: where images behind http(s) addresses are kept. Left out: beside the latents; masks in
    output_dir/cache/masks."""
    read_batch_size: Count = 25
    """Files read at a time from a bucket or over http."""
    allowed_roots: tuple[Path, ...] = ()
    """Other folders that rows of tables, caption files and links may lead to. Without them, files
    outside the dataset are not used, except images behind links, with a warning."""
    allow_private_hosts: Flag = False
    """csv: fetch from this machine and private networks too, and through proxies."""
    max_download_mib: Count = 64
    """csv: largest fetched file in MiB; larger ones are not used."""
    max_download_seconds: Count = 120
    """csv: seconds for a fetched file, redirects and tries included."""

    @property
    def fetched_dir(self) -> Path:
        """Where images behind http(s) addresses are kept."""
        assert self.csv_cache_dir is not None  # load_datasets sets it for masks
        return self.csv_cache_dir

    def storage_problems(self) -> Iterator[ErrorAndHint]:
        """Each kind of storage has its own keys."""
        storage = STORAGES[self.type]
        if not getattr(self, storage.key):
            written = storage.key_as_written or storage.key
            yield ErrorAndHint(f"type={self.type} needs {written}", "add it")
        if self.type == "csv" and self.csv and not self.csv.identifier_includes_extension:
            yield ErrorAndHint(
                "csv.identifier_includes_extension=false leaves no file to open with type=csv",
                "write whole names in the table",
            )
        for key, kinds in owners().items():
            if getattr(self, key) and self.type not in kinds:
                owner = " or ".join(kinds)
                what = f"{key} belongs to type={owner}, this dataset has type={self.type}"
                yield ErrorAndHint(what, "leave one of them out")
