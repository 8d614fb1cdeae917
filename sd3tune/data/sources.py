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

IMAGE_BYTES = 2 * 2**30  # the largest image that may be decoded fits, uncompressed and in 16 bits
CAPTION_BYTES = 2**20
Tell = Callable[[str], None]


class Source(ABC):
    """Files of one dataset. Names are "/"-separated and relative to the dataset; they are its
    images' identity."""

    ahead = 1  # how many names are worth asking for at a time
    has_files = True  # names have the suffixes of files, and listing them costs something
    numbered = False  # names are numbers of rows
    left_out: Sequence[str] = ()  # folders that were not looked into, once `listed` has looked

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Every file, sorted. Raises DataError when the storage cannot be listed."""

    def listed(self) -> tuple[Sequence[str], Sequence[OSError]]:
        """Every file, sorted, and what was said of folders that cannot be listed."""
        return self.names(), ()

    @abstractmethod
    def where(self, name: str) -> str:
        """Where a human finds it."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Changes when the content may have changed, so that what is known about a file can be
        used again. Raises OSError."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Seekable. Raises OSError."""

    def read(self, name: str) -> bytes:
        """All of it. Raises OSError."""
        with self.open(name) as f:
            return f.read()

    def caption(self, name: str) -> bytes:
        """The content of a text file beside an image. Raises OSError, also for one that lies
        elsewhere: its text would be shown and stored."""
        raise FileNotFoundError(f"rows have no {name}")  # settings see to it

    def cells(self, name: str) -> Mapping[str, Any]:
        """What the source itself says of an image beside its pixels: the other columns of its
        row."""
        return {}

    def contacts(self) -> Sequence[str]:
        """Hosts that will be asked for files, each with the reason; nobody was asked yet."""
        return ()

    def warnings(self) -> Sequence[str]:
        """What the user should know of the files listed."""
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
