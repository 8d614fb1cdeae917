"""Which files of output_dir are published, and under which names.

The result (with the last values beside an average), the model card with the pictures it links to,
and the settings of training. Never caches, logs, optimizer states, or whatever else lies there: a
file is published because it is named here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sd3tune.errors import DataError, ModelError
from sd3tune.filesystem import opening, safetensors_header
from sd3tune.formats import file_metadata, manifest
from sd3tune.publish import card, card_pictures, loading_code

LAST = "last"  # below output_dir: the last values, where the result is their average
PIPELINE = "pipeline"  # of full training; its content is at the top of the repository
LYCORIS = "lycoris_config.json"
OF_A_PIPELINE = (".safetensors", ".json", ".txt", ".model")  # tokenizers have the last two


@dataclass(frozen=True)
class PublishedFile:
    """One file. name: in the repository. content: what is uploaded instead of the file's own."""

    path: Path
    name: str
    content: bytes | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.content) if self.content is not None else self.path.stat().st_size


def files_of_run(output: Path, repository: str) -> list[PublishedFile]:
    """The files of a finished run, the model card last. Raises DataError for a folder without a
    result."""
    found = [*_results(output, ""), *_results(output / LAST, f"{LAST}/")]
    if not found:
        raise DataError(
            f"`{output}` holds no result of a run",
            hint="give the output_dir of a run that has ended; `sd3tune train` writes the result "
            "when it ends",
        )
    settings = output / card.SETTINGS
    if opening.is_regular(settings):
        found.append(PublishedFile(settings, card.SETTINGS))
    page = output / card.FILE
    if opening.is_regular(page):
        text = opening.text(page)
        pictures = card_pictures.linked(text, output)
        found += [PublishedFile(p, p.relative_to(output).as_posix()) for p in pictures]
        shown = loading_code.for_repository(text, repository)
        found.append(PublishedFile(page, card.FILE, shown.encode()))
    return found


def files_of_checkpoint(folder: Path) -> list[PublishedFile]:
    """The adapter of a checkpoint, as other programs load it; nothing that only training needs.
    Empty where the checkpoint was removed or holds no adapter."""
    if not manifest.is_ours(folder):
        return []
    return list(_adapters(folder, f"{folder.name}/", set(manifest.WRITTEN)))


def _results(folder: Path, prefix: str) -> Iterator[PublishedFile]:
    yield from _adapters(folder, prefix, set())
    top = folder / PIPELINE
    if not _is_result(top / "transformer" / "diffusion_pytorch_model.safetensors"):
        return
    below = top if not prefix else top / "transformer"  # the other parts are the same
    for path in sorted(below.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(top).parts)
        if path.suffix in OF_A_PIPELINE and not hidden and opening.is_regular(path):
            yield PublishedFile(path, prefix + path.relative_to(top).as_posix())


def _adapters(folder: Path, prefix: str, without: set[str]) -> Iterator[PublishedFile]:
    """Adapter files that a run wrote, with the configuration of LyCORIS beside them."""
    written = [p for p in sorted(folder.glob("*.safetensors"))
               if p.name not in without and _is_result(p)]  # fmt: skip
    beside = folder / LYCORIS
    if written and opening.is_regular(beside):
        written.append(beside)
    for path in written:
        yield PublishedFile(path, prefix + path.name)


def _is_result(path: Path) -> bool:
    """Whether a run of sd3tune wrote the file as its result."""
    try:
        return file_metadata.STEP in safetensors_header.read(path).metadata
    except (ModelError, OSError):
        return False
