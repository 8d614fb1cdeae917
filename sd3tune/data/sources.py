"""Where a dataset's files are: a folder, a bucket, the rows of a Hub dataset or of a .csv.

All of them list names, and open them for reading; nothing is ever written to any of them. A stamp
changes when the content may have changed, so that what is known about a file can be reused.
"""

import http.client
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from sd3tune.errors import DataError

if TYPE_CHECKING:
    from sd3tune.config.dataset import Stored

OUTPUT_MARK = ".sd3tune.lock"  # in every output_dir: train/lock.py holds it
HTTP_SECONDS = 60
HEADER_BYTES = 64 * 1024  # enough for the header of nearly every image


class Source(Protocol):
    """Names are "/"-separated and relative to the dataset; they are its images' identity."""

    ahead: int  # how many names are worth asking for at a time

    def names(self) -> Sequence[str]:
        """Every file, sorted. Raises DataError when the storage cannot be listed."""
        ...

    def where(self, name: str) -> str:
        """Where a human finds it."""
        ...

    def stamp(self, name: str) -> str:
        """Changes when the content may have changed. Raises OSError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Seekable. Raises OSError."""
        ...

    def read(self, name: str) -> bytes:
        """All of it. Raises OSError."""
        ...


class Folder:
    """A local folder with its sub-folders; hidden files and folders are left out, and what runs
    wrote: the folders `own`, and any other that some run has as its output_dir."""

    ahead = 1  # headers come out of the page cache: threads would only contend for the interpreter

    def __init__(self, root: Path, own: Sequence[Path] = ()) -> None:
        self.root = str(root)
        self._own = own
        self.left_out: list[str] = []  # folders, once `listed` has looked

    def names(self) -> list[str]:
        return self.listed()[0]

    def listed(self) -> tuple[list[str], list[OSError]]:
        """Every file, sorted, and what was said of folders that cannot be listed."""
        found: list[str] = []
        lost: list[OSError] = []
        seen: set[tuple[int, int]] = set()
        own = {(s.st_dev, s.st_ino) for s in map(_stat, self._own) if s is not None}
        self.left_out = []
        for root, folders, files in os.walk(self.root, onerror=lost.append, followlinks=True):
            try:
                here = os.stat(root)
            except OSError as e:  # removed meanwhile, with the files it had
                folders.clear()
                lost.append(e)
                continue
            if (here.st_dev, here.st_ino) in seen:  # a link back up
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            if root != self.root and ((here.st_dev, here.st_ino) in own or OUTPUT_MARK in files):
                self.left_out.append(root)
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = os.path.relpath(root, self.root)
            prefix = "" if inside == "." else inside.replace(os.sep, "/") + "/"
            found += [prefix + name for name in files if not name.startswith(".")]
        return sorted(found), lost

    def where(self, name: str) -> str:
        return os.path.join(self.root, name)

    def stamp(self, name: str) -> str:
        s = os.stat(self.where(name))
        # The time of change too: copying with preserved times hides an edit from mtime alone.
        return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"

    def open(self, name: str) -> BinaryIO:
        path = self.where(name)
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise OSError("it is no regular file")
        return open(path, "rb")  # the caller closes it

    def read(self, name: str) -> bytes:
        with self.open(name) as f:
            return f.read()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # not made yet, or nobody may look: then nothing is read there either
        return None


class Bucket:
    """Objects of an S3-compatible store below a prefix, through s3fs."""

    def __init__(self, dataset: "Stored") -> None:
        self.ahead = dataset.read_batch_size
        self.prefix = dataset.aws_data_prefix.strip("/")
        self.root = "/".join(p for p in (dataset.aws_bucket_name, self.prefix) if p)
        self._dataset = dataset

    @cached_property
    def _fs(self) -> Any:
        d = self._dataset
        try:
            import s3fs
        except ImportError:
            raise DataError(
                f"dataset `{d.id}`: type=aws needs s3fs, which is not installed",
                hint="pip install 'sd3tune[s3]'",
            ) from None
        secret = d.aws_secret_access_key
        region = {"region_name": d.aws_region_name} if d.aws_region_name else {}
        return s3fs.S3FileSystem(
            key=d.aws_access_key_id,
            secret=secret.get_secret_value() if secret else None,
            endpoint_url=d.aws_endpoint_url,
            client_kwargs=region,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    @cached_property
    def _objects(self) -> dict[str, dict[str, Any]]:
        try:
            found = self._fs.find(self.root, detail=True)
        except DataError:
            raise
        except Exception as e:  # botocore raises some forty kinds of its own
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
        path = f"{self.root}/{name}"
        opened: BinaryIO = self._asked(lambda: self._fs.open(path, "rb", block_size=HEADER_BYTES))
        return opened

    def read(self, name: str) -> bytes:
        data: bytes = self._asked(lambda: self._fs.cat_file(f"{self.root}/{name}"))
        return data

    def _asked(self, question: Any) -> Any:
        try:
            return question()
        except OSError:
            raise
        except Exception as e:  # as above
            raise OSError(str(e)) from None


class HubRows:
    """Rows of a Hugging Face dataset; a name is the number of its row."""

    ahead = 1

    def __init__(self, dataset: "Stored") -> None:
        self._dataset = dataset

    @cached_property
    def rows(self) -> Any:
        d, columns = self._dataset, self._dataset.huggingface
        try:
            import datasets
        except ImportError:
            raise DataError(
                f"dataset `{d.id}`: type=huggingface needs datasets, which is not installed",
                hint="pip install 'sd3tune[hub]'",
            ) from None
        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset(
                d.dataset_name, d.dataset_config, split=d.split, revision=d.revision
            )
        except Exception as e:  # builders raise whatever their files make them raise
            raise DataError(
                f"dataset `{d.id}`: `{d.dataset_name}` cannot be loaded: {e}",
                hint="check dataset_name, split and revision; private ones need HF_TOKEN",
            ) from None
        names = [columns.image_column, columns.width_column, columns.height_column]
        if getattr(d, "caption_strategy", None) == "huggingface":
            names += [*columns.caption_column, columns.fallback_caption_column]
        for name in filter(None, names):
            if name not in rows.column_names:
                raise DataError(
                    f"dataset `{d.id}`: `{d.dataset_name}` has no column `{name}`",
                    hint=f"its columns: {', '.join(rows.column_names)}",
                )
        try:
            return rows.cast_column(columns.image_column, datasets.Image(decode=False))
        except Exception as e:  # as above
            raise DataError(
                f"dataset `{d.id}`: column `{columns.image_column}` of `{d.dataset_name}` holds no "
                f"images: {e}",
                hint="set huggingface.image_column",
            ) from None

    @cached_property
    def _texts(self) -> Any:
        """The same rows without pixels."""
        return self.rows.remove_columns(self._dataset.huggingface.image_column)

    def names(self) -> list[str]:
        return [f"{i:09d}" for i in range(len(self.rows))]

    def text(self, name: str) -> dict[str, Any]:
        """The other columns of a row."""
        found: dict[str, Any] = self._texts[int(name)]
        return found

    def where(self, name: str) -> str:
        return f"{self._dataset.dataset_name}:{self._dataset.split}[{int(name)}]"

    def stamp(self, name: str) -> str:
        # A fingerprint of the whole table: one row more and every row is hashed again.
        return str(self.rows._fingerprint)

    def open(self, name: str) -> BinaryIO:
        return BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        image = self.rows[int(name)][self._dataset.huggingface.image_column]
        if image is None:
            raise OSError("the row has no image")
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


class Rows:
    """Files named by the rows of a .csv: paths, or http(s) addresses fetched once."""

    def __init__(self, dataset: "Stored", names: Sequence[str], keep: Path) -> None:
        assert dataset.csv is not None
        self.ahead = dataset.read_batch_size
        self._names = sorted(names)
        self._root = dataset.instance_data_dir or dataset.csv.path.parent
        self._keep = keep

    def names(self) -> list[str]:
        return self._names

    def where(self, name: str) -> str:
        return name if remote(name) else str(self._root / name)

    def stamp(self, name: str) -> str:
        return Folder(Path("/")).stamp(str(self._path(name)))

    def open(self, name: str) -> BinaryIO:
        return Folder(Path("/")).open(str(self._path(name)))

    def read(self, name: str) -> bytes:
        with self.open(name) as f:
            return f.read()

    def _path(self, name: str) -> Path:
        if "\0" in name:
            raise OSError("its name cannot be a path")
        if not remote(name):
            return self._root / name
        path = self._keep / sha256(name.encode()).hexdigest()
        if not path.exists():
            try:
                request = urllib.request.Request(name, headers={"User-Agent": "sd3tune"})
                with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answer:
                    data = answer.read()
            except (urllib.error.URLError, http.client.HTTPException, ValueError) as e:
                raise OSError(f"cannot be fetched: {e}") from None
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_bytes(data)
            draft.replace(path)
        return path


def remote(name: str) -> bool:
    return name.startswith(("http://", "https://"))
