"""Whether a run has ended with everything that it writes: a command that is given again says so
instead of loading the model. Reads names and headers; no torch."""

from collections.abc import Iterable
from pathlib import Path

from sd3tune.errors import ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import file_metadata, manifest
from sd3tune.formats.evaluation_history import ended_early

MODEL = "pipeline/transformer/diffusion_pytorch_model.safetensors"  # of full training


def end(output: Path, steps: int, patience: int | None) -> int:
    """The step at which a run of so many steps ends: that of its newest checkpoint where its
    evaluation losses have ended it early. patience: early_stopping_patience."""
    newest = _newest(output)
    if newest is None or patience is None:
        return steps
    try:
        facts = manifest.facts(newest)
    except (OSError, ValueError):
        return steps
    return min(steps, facts.step) if ended_early(facts.evaluations, patience) else steps


def _newest(output: Path) -> Path | None:
    return next((f for f in reversed(manifest.folders(output)) if manifest.is_ours(f)), None)


def result(
    output: Path, file: str, steps: int, asked: str, pictures: Iterable[Path] = ()
) -> Path | None:
    """The result of a run of so many steps; None where the run has something left to do.

    file: the name of an adapter. asked: resume_from_checkpoint. pictures: files that the run
    writes at its end; one that is missing is drawn when the run is continued.
    """
    newest = _newest(output)
    if newest is None or not _continues(newest, asked) or not all(p.is_file() for p in pictures):
        return None
    try:
        if manifest.facts(newest).step != steps:
            return None
    except (OSError, ValueError):
        return None
    written = (output / file, output / MODEL)
    return next((path for path in written if _step(path) == str(steps)), None)


def _continues(newest: Path, asked: str) -> bool:
    """Whether the run goes on from its newest checkpoint."""
    if asked in ("latest", "never"):
        return asked == "latest"
    named = manifest.lineage(newest).named
    return named is not None and named.name == Path(asked).name


def _step(path: Path) -> str | None:
    try:
        return safetensors_header.read(path).metadata.get(file_metadata.STEP)
    except ModelError:
        return None
