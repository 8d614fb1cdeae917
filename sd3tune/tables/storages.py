"""The storages: where the files of a dataset are (`type`), one row each. Names are SimpleTuner's,
but `huggingface` and `csv` are read as they are instead of being copied first.
"""

from dataclasses import dataclass
from typing import Any

from sd3tune.tables.table import Table


@dataclass(frozen=True)
class Storage:
    """One storage.

    open: "module:function" that makes a `data/sources.py` Source of a dataset. key: the setting
    that it cannot do without. keys: settings that mean nothing with most other storages, `key`
    included. shown: where a human finds the dataset `d`, as a format. captions: caption_strategy
    when it is left out. without: values of caption_strategy that it cannot serve.
    """

    name: str
    about: str
    open: str
    key: str
    keys: tuple[str, ...]
    shown: str
    aliases: tuple[str, ...] = ()
    key_as_written: str = ""
    captions: str = ""
    without: tuple[str, ...] = ()

    def place(self, dataset: Any) -> str:
        """Where a human finds a dataset of this storage."""
        return self.shown.format(d=dataset)


LOCAL = Storage(
    "local", "a folder with its sub-folders",
    "sd3tune.data.folder:open_source", "instance_data_dir", ("instance_data_dir",),
    "{d.instance_data_dir}",
)  # fmt: skip
AWS = Storage(
    "aws", "an S3 bucket, of Amazon or of any server that speaks its protocol",
    "sd3tune.data.s3:open_source", "aws_bucket_name", ("aws_bucket_name",),
    "s3://{d.aws_bucket_name}/{d.aws_data_prefix}",
)  # fmt: skip
HUGGINGFACE = Storage(
    "huggingface", "the rows of a Hugging Face dataset",
    "sd3tune.data.hub_rows:open_source", "dataset_name", ("dataset_name",),
    "{d.dataset_name} [{d.split}]", captions="huggingface", without=("filename", "textfile"),
)  # fmt: skip
CSV = Storage(
    "csv", "the rows of a .csv, which name files or http(s) addresses",
    "sd3tune.data.rows:open_source", "csv", ("instance_data_dir", "csv_cache_dir"),
    "{d.csv.path}", key_as_written="csv_file", captions="csv", without=("textfile",),
)  # fmt: skip

STORAGES = Table(
    "a storage",
    (LOCAL, AWS, HUGGINGFACE, CSV),
    refused={
        "webshart": "is not supported: shards of the webshart package are not read",
        "memory": "is not supported: what is encoded is kept in a folder, so that a run that "
        "continues need not encode it again",
    },
)


def owners() -> dict[str, tuple[str, ...]]:
    """Setting -> the storages that it means something for."""
    found: dict[str, tuple[str, ...]] = {}
    for storage in STORAGES.rows:
        for key in storage.keys:
            found[key] = (*found.get(key, ()), storage.name)
    return found
