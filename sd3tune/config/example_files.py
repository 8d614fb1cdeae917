"""The example files of a run, which are package data: `config/` of a checkout links to them."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sd3tune.filesystem import disk, drafts

PACKAGE = "sd3tune.config"
FOLDER = "examples"
ENDING = ".example"


@dataclass(frozen=True)
class WrittenExamples:
    """written, kept: files that are new, and files that were there already."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def example_files() -> dict[str, bytes]:
    """Name -> content of each file, in the order of their names."""
    folder = resources.files(PACKAGE) / FOLDER
    files = (file for file in folder.iterdir() if file.name.endswith(ENDING))
    return {file.name: file.read_bytes() for file in sorted(files, key=lambda file: file.name)}


def write_examples(folder: Path) -> WrittenExamples:
    """Writes them below `folder`/config. A file that is there is kept. Raises DiskError."""
    written, kept = [], []
    for name, content in example_files().items():
        path = folder / "config" / name
        if path.exists():
            kept.append(path)
            continue
        with disk.explained("example", path):
            drafts.write(path, content)
        written.append(path)
    return WrittenExamples(tuple(written), tuple(kept))
