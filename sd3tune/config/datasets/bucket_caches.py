"""Caches that are kept in a bucket: where in it, and what is said about them.

In an entry of type=aws a relative cache_dir or cache_dir_vae is a place in the bucket, as in
SimpleTuner. The folder of that name on this machine stays the working copy.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds


def prefix(asked: Mapping[str, Any], *, keeps_captions: bool) -> dict[str, Any]:
    """aws_cache_prefix where it follows from other keys. asked: the keys of an entry as written,
    with their placeholders filled in."""
    if asked.get("type") != "aws" or "aws_cache_prefix" in asked:
        return {}
    folder = asked.get("cache_dir" if keeps_captions else "cache_dir_vae")
    relative = _relative(folder)
    if keeps_captions:
        return {"aws_cache_prefix": joined(str(asked.get("aws_data_prefix", "")), relative)}
    return {"aws_cache_prefix": joined(relative)} if relative else {}


def _relative(folder: Any) -> str:
    """A relative path with slashes; nothing for another one, or for one that leaves its folder."""
    if not isinstance(folder, str) or folder.startswith("~") or Path(folder).is_absolute():
        return ""
    parts = Path(folder).parts
    return "" if ".." in parts else "/".join(parts)


def joined(*parts: str) -> str:
    """Prefixes in a bucket one below the other."""
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


def kept_in_bucket(entry: ImageDataset | TextEmbeds) -> bool:
    """Whether the cache of an entry is stored in a bucket too."""
    return entry.type == "aws" and entry.aws_cache_prefix is not None


def notes(dataset: ImageDataset | Masks | TextEmbeds) -> Iterator[str]:
    """What leaves this machine, and where it goes."""
    if isinstance(dataset, Masks) or not kept_in_bucket(dataset):
        return
    what = "encoded captions" if isinstance(dataset, TextEmbeds) else "encoded images"
    place = joined(dataset.aws_bucket_name or "", dataset.aws_cache_prefix or "")
    yield f"{what} are stored in s3://{place} too, and fetched from there"
