"""The rows of a Hugging Face dataset as a source of images."""

import os
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from sd3tune.data import hub_files
from sd3tune.data.roots import Roots
from sd3tune.data.sources import IMAGE_BYTES, Source, Tell
from sd3tune.errors import DataError
from sd3tune.filesystem import opening

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored


def open_source(dataset: "Stored", tell: Tell, own: Sequence[Path]) -> Source:
    """type=huggingface."""
    return HubRows(dataset)


class HubRows(Source):
    """The rows of a Hugging Face dataset; the name of an image is the number of its row."""

    has_files, numbered = False, True

    def __init__(self, dataset: "Stored") -> None:
        self._dataset = dataset
        self._local = Path(dataset.dataset_name or "").is_dir()

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
            hub_files.check(d, self._roots, local=self._local)
            rows = datasets.load_dataset(
                d.dataset_name, d.dataset_config, split=d.split, revision=d.revision
            )
        except DataError:
            raise
        except Exception as e:  # builders can raise anything for broken files
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
                f"dataset `{d.id}`: column `{columns.image_column}` of `{d.dataset_name}` does not "
                f"hold images: {e}",
                hint="set huggingface.image_column",
            ) from None

    @cached_property
    def _texts(self) -> Any:
        """The rows without pixels."""
        return self.rows.remove_columns(self._dataset.huggingface.image_column)

    def names(self) -> list[str]:
        return [f"{i:09d}" for i in range(len(self.rows))]

    def cells(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._texts[int(name)]
        return found

    def where(self, name: str) -> str:
        return f"{self._dataset.dataset_name}:{self._dataset.split}[{int(name)}]"

    def stamp(self, name: str) -> str:
        # The fingerprint of the whole table: after a change every row is hashed again.
        return str(self.rows._fingerprint)

    def open(self, name: str) -> BinaryIO:
        return BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        image = self.rows[int(name)][self._dataset.huggingface.image_column]
        if image is None:
            raise OSError("the row has no image")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        path = os.path.abspath(image["path"])  # the path in the row
        if not self._roots.hold(path):
            raise OSError(self._roots.refusal("the path in its row"))
        with opening.opened(path, IMAGE_BYTES) as f:
            return f.read()

    @cached_property
    def _roots(self) -> Roots:
        """The folders where files may be: the dataset's folder, or the caches of downloads."""
        d = self._dataset
        if self._local:
            return Roots(str(d.dataset_name), d.allowed_roots)
        import datasets
        from huggingface_hub import constants

        caches = [Path(datasets.config.HF_DATASETS_CACHE), *d.allowed_roots]
        return Roots(constants.HF_HUB_CACHE, caches)

    def contacts(self) -> list[str]:
        if self._local:
            return []
        from huggingface_hub import constants

        return [f"{urlsplit(constants.ENDPOINT).netloc} (dataset_name)"]
