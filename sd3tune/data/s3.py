"""Lists and reads the objects of an S3-compatible store; it never writes."""

from collections.abc import Sequence
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from sd3tune.data import objects
from sd3tune.data.bucket_server import connected
from sd3tune.data.sources import CAPTION_BYTES, IMAGE_BYTES, Source, Tell
from sd3tune.errors import DataError

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored

HEADER_BYTES = 64 * 1024  # enough for the header of nearly every image


def open_source(dataset: "Stored", tell: Tell, own: Sequence[Path]) -> Source:
    """type=aws."""
    return S3Bucket(dataset)


class S3Bucket(Source):
    """Objects of an S3-compatible store below a prefix, through s3fs."""

    def __init__(self, dataset: "Stored") -> None:
        self.ahead = dataset.read_batch_size
        self.prefix = dataset.aws_data_prefix.strip("/")
        self.root = "/".join(p for p in (dataset.aws_bucket_name, self.prefix) if p)
        self._dataset = dataset

    @cached_property
    def _fs(self) -> Any:
        return connected(self._dataset, self._dataset.id)

    @cached_property
    def _objects(self) -> dict[str, dict[str, Any]]:
        try:
            found = self._fs.find(self.root, detail=True)
        except DataError:
            raise
        except Exception as e:  # botocore has about forty exception classes
            raise DataError(
                f"dataset `{self._dataset.id}`: `s3://{self.root}` cannot be listed: {e}",
                hint="check aws_bucket_name, aws_endpoint_url and the credentials",
            ) from None
        cut = len(self.root) + 1
        return {path[cut:]: info for path, info in found.items() if len(path) > cut}

    def names(self) -> list[str]:
        visible = (n for n in self._objects if not any(p.startswith(".") for p in n.split("/")))
        return sorted(visible)

    def where(self, name: str) -> str:
        return f"s3://{self.root}/{name}"

    def stamp(self, name: str) -> str:
        info = self._objects.get(name) or self._asked(lambda: self._fs.info(f"{self.root}/{name}"))
        return f"{info.get('size')} {info.get('ETag')} {info.get('LastModified')}"

    def open(self, name: str) -> BinaryIO:
        path, size = self._sized(name, IMAGE_BYTES)

        def fetch(first: int, count: int) -> bytes:
            data: bytes = self._asked(lambda: objects.read(self._fs, path, size, (first, count)))
            return data

        return BufferedReader(objects.Parts(fetch, size), HEADER_BYTES)

    def read(self, name: str) -> bytes:
        return self._read(name, IMAGE_BYTES)

    def caption(self, name: str) -> bytes:
        return self._read(name, CAPTION_BYTES)

    def _read(self, name: str, max_bytes: int) -> bytes:
        path, size = self._sized(name, max_bytes)
        data: bytes = self._asked(lambda: objects.read(self._fs, path, size))
        return data

    def _sized(self, name: str, max_bytes: int) -> tuple[str, int]:
        """The path of an object, and its size as listed. Raises OSError."""
        path = f"{self.root}/{name}"
        info = self._objects.get(name) or self._asked(lambda: self._fs.info(path))
        size = int(info.get("size") or 0)
        if size > max_bytes:
            raise OSError(f"it holds {size} bytes; the limit is {max_bytes}")
        return path, size

    def contacts(self) -> list[str]:
        """The server that the settings, the environment or Amazon's region name."""
        named = self._dataset.aws_endpoint_url
        try:
            self._fs.connect()  # creates a client without a request
            named = str(self._fs.s3.meta.endpoint_url)
        except DataError:
            raise
        except Exception as e:  # as above
            raise DataError(
                f"dataset `{self._dataset.id}`: cannot create a client for `s3://{self.root}`: {e}",
                hint="check aws_endpoint_url, aws_region_name and the credentials",
            ) from None
        parts = urlsplit(named)
        source = "aws_endpoint_url" if self._dataset.aws_endpoint_url else "aws_bucket_name"
        return [f"{parts.netloc.rpartition('@')[2]} ({source})"]

    def _asked(self, question: Any) -> Any:
        try:
            return question()
        except OSError:
            raise
        except Exception as e:  # as above
            raise OSError(str(e)) from None
