"""The files of a cache in a bucket, so that another machine need not encode again.

The folder on this machine stays the working copy. Before anything is encoded, the shards in the
bucket that hold a wanted entry are fetched; each shard that is written here is stored there. An
object of S3 is complete or absent, and a fetched shard is checked before it gets its name, so that
neither side ever holds half an entry. Nothing in the bucket is ever removed.
"""

import json
import struct
from collections.abc import Collection, Iterable, Iterator, Set
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sd3tune.data import objects, shards
from sd3tune.data.bucket_server import connected
from sd3tune.data.cache import shard_name
from sd3tune.errors import DataError
from sd3tune.filesystem import drafts
from sd3tune.report.progress import say, stage, waiting, warn

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset, TextEmbeds

FIRST_BYTES = 64 * 1024  # enough for the header of nearly every shard
LARGEST_HEADER = 100_000_000  # bytes, safetensors' own limit


class CacheBucket:
    """The objects of one cache in a bucket. Raises DataError where the bucket cannot be used."""

    def __init__(self, entry: "ImageDataset | TextEmbeds") -> None:
        self._entry = entry
        prefix = (entry.aws_cache_prefix or "").strip("/")
        self.root = "/".join(p for p in (entry.aws_bucket_name, prefix, "shards") if p)

    @cached_property
    def _fs(self) -> Any:
        return connected(self._entry, self._entry.id)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The shards in the bucket, by name, in bytes. Says first which server is asked."""
        address = urlsplit(self._entry.aws_endpoint_url or "//Amazon S3").netloc
        say(f"contacts {address.rpartition('@')[2]} for the cache of dataset `{self._entry.id}`")
        with waiting(f"listing s3://{self.root}"):
            found = self._asked("listed", lambda: self._fs.find(self.root, detail=True))
        names = {path.rpartition("/")[2]: info for path, info in found.items()}
        return {n: int(i.get("size") or 0) for n, i in names.items() if shards.NAME.fullmatch(n)}

    def fetch(self, folder: Path, wanted: Set[str]) -> None:
        """Fetches every shard that holds one of these keys into the folder of shards."""
        new = sorted(name for name in self.sizes if not (folder / name).exists())
        with waiting(f"looking through {len(new)} cache files in s3://{self.root}"):
            needed = [name for name in new if not wanted.isdisjoint(self._keys(name))]
        if not needed:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with stage(f"fetch cache files from s3://{self.root}", len(needed)) as bar:
            for name in needed:
                self._fetch(folder, name)
                bar.advance(1)

    def store(self, paths: Iterable[Path]) -> None:
        """Stores shards under their names; one that the bucket has in this size is left out."""
        for path in paths:
            size = path.stat().st_size
            if self.sizes.get(path.name) != size:
                target = f"{self.root}/{path.name}"
                self._asked("written", lambda p=path, t=target: self._fs.put_file(str(p), t))
                self.sizes[path.name] = size

    def _keys(self, name: str) -> Collection[str]:
        """The keys of a shard in the bucket; none of an object that is not a shard."""
        size, path = self.sizes[name], f"{self.root}/{name}"
        first = self._read(path, min(FIRST_BYTES, size), 0)
        if len(first) < 8:
            return ()
        (count,) = struct.unpack("<Q", first[:8])
        if count > min(size - 8, LARGEST_HEADER):
            return ()
        rest = count + 8 - len(first)
        header = first[8 : 8 + count] + (self._read(path, rest, len(first)) if rest > 0 else b"")
        return set(_listed(header))

    def _fetch(self, folder: Path, name: str) -> None:
        final = folder / name
        with drafts.drafted(final.with_suffix(".draft"), final, wait=True) as descriptor:
            if descriptor is None:  # another process has fetched it
                return
            draft = final.with_suffix(".draft")
            drafts.fill(descriptor, self._read(f"{self.root}/{name}", self.sizes[name], None))
            if _is_whole(draft, final.stem):
                drafts.finish(draft, final, descriptor)
                return
            draft.unlink(missing_ok=True)
        warn(f"s3://{self.root}/{name} is damaged: its entries are encoded again")
        del self.sizes[name]  # so that the next one of this name replaces it

    def _read(self, path: str, count: int, first: int | None) -> bytes:
        part = None if first is None else (first, count)
        data: bytes = self._asked("read", lambda: objects.read(self._fs, path, count, part))
        return data

    def _asked(self, done: str, question: Any) -> Any:
        try:
            return question()
        except DataError:
            raise
        except Exception as e:  # botocore has about forty exception classes
            raise DataError(
                f"dataset `{self._entry.id}`: the cache `s3://{self.root}` cannot be {done}: {e}",
                hint="check aws_bucket_name, aws_endpoint_url and the credentials; what is encoded "
                "stays in the cache on this machine, and the next run stores it",
            ) from None


def _listed(header: bytes) -> Iterator[str]:
    """The keys in the header of a shard: of its entries, and of inputs that have none."""
    try:
        data = json.loads(header)
        about = json.loads(data.pop("__metadata__")[shards.ABOUT])
        yield from about["problems"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    yield from {name.partition(".")[0] for name in data}


def _is_whole(path: Path, stem: str) -> bool:
    """Whether a file is a complete shard with intact entries, under the name of its keys."""
    try:
        entries, problems = shards.contents(path)
        intact = shards.whole(path, set(entries))
    except shards.UNREADABLE:
        return False
    return len(intact) == len(entries) and shard_name([*entries, *problems]) == stem
