"""Where a dataset's files are: a folder, a bucket, the rows of a Hub dataset or of a .csv.

All of them list names, and open them for reading; nothing is ever written to any of them. Which
there are: `sd3tune/tables/storages.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sd3tune.tables.storages import STORAGES
from sd3tune.tables.table import load

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored

IMAGE_BYTES = 2 * 2**30  # enough for the largest allowed image, uncompressed, with 16 bits
CAPTION_BYTES = 2**20
Tell = Callable[[str], None]


class Source(ABC):
    """The files of one dataset. A name is relative to the dataset, with "/" between its parts; it
    identifies the image."""

    ahead = 1  # how many files to request at the same time
    has_files = True  # names are file names with suffixes
    numbered = False  # names are numbers of rows
    left_out: Sequence[str] = ()  # folders that `listed` excluded

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names of all files, sorted. Raises DataError if the storage cannot be listed."""

    def listed(self) -> tuple[Sequence[str], Sequence[OSError]]:
        """The names of all files, sorted; and folder -> reason for folders that cannot be
        listed."""
        return self.names(), ()

    @abstractmethod
    def where(self, name: str) -> str:
        """Where a user finds the file, for messages."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """A text that changes whenever the content may have changed; with an unchanged stamp, what
        is known about the file can be reused. Raises OSError."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The file, opened for reading and seekable. Raises OSError."""

    def read(self, name: str) -> bytes:
        """The whole content. Raises OSError."""
        with self.open(name) as f:
            return f.read()

    def caption(self, name: str) -> bytes:
        """The content of a text file beside an image. Raises OSError, also for a file outside the
        dataset, because its text would be shown and stored."""
        raise FileNotFoundError(f"rows have no {name}")  # settings see to it

    def cells(self, name: str) -> Mapping[str, Any]:
        """The other columns of the image's row, for sources that have rows."""
        return {}

    def contacts(self) -> Sequence[str]:
        """The hosts that will be contacted, each with the reason; none has been contacted yet."""
        return ()

    def notes(self) -> Sequence[str]:
        """Sentences about how the files were found, after all were opened."""
        return ()

    def warnings(self) -> Sequence[str]:
        """Sentences that the user should read about the listed files."""
        return ()


def source_of(
    dataset: "Stored", tell: Tell = lambda host: None, own: Sequence[Path] = ()
) -> Source:
    """The source of a dataset, as the row of its `type` makes it. Opens nothing yet but a table.

    tell: hears of hosts that others redirect to. own: folders that this run writes to; a folder of
    images leaves them out where they lie in it.
    """
    source: Source = load(STORAGES[dataset.type].open)(dataset, tell, own)
    return source
