"""The adapter that a folder holds: of a run, of a checkpoint, of peft's save_pretrained, or the one
safetensors file in it. No torch here.
"""

from collections.abc import Sequence
from pathlib import Path

from sd3tune.errors import ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import file_metadata, manifest
from sd3tune.tables.dialects import DIALECTS

PEFT = "adapter_model.safetensors"  # as peft's save_pretrained names it
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
OURS = (manifest.TRAINED, manifest.AVERAGE, manifest.OPTIMIZER)  # state of a checkpoint
MOST_NAMED = 4


def adapter_of(source: Path) -> Path:
    """The file itself, or the adapter file in a folder. Raises ModelError for a folder that holds
    none or several."""
    if not source.is_dir():
        return source
    try:
        return _inside(source)
    except OSError as e:
        raise ModelError(
            f"`{source}` cannot be read: {e.strerror}", hint="check its permissions"
        ) from None


def adapters_in(folder: Path) -> list[Path]:
    """The files in a folder that may be its adapter: several, where results of two names lie in
    it. Raises OSError."""
    files = sorted(p for p in folder.glob("*.safetensors") if p.name not in OURS)
    files = [p for p in files if not _exported(p, files)]
    for name in (file_metadata.FILE, PEFT):
        if folder / name in files:
            # Two results are there where output_name changed: which one is meant is unknown.
            files = [p for p in files if p.name == name or _is_result(p)]
            break
    if not files:  # peft writes an adapter of another name than `default` one folder below
        files = sorted(folder.glob(f"*/{PEFT}"))
    return files


def _inside(folder: Path) -> Path:
    files = adapters_in(folder)
    if len(files) == 1:
        return files[0]
    if files:
        listed = ", ".join(str(p.relative_to(folder)) for p in files[:MOST_NAMED])
        more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
        raise ModelError(
            f"`{folder}` holds {len(files)} safetensors files: {listed}{more}",
            hint="give the path of one of them",
        )
    if pickle := next((p for kind in PICKLES for p in sorted(folder.glob(kind))), None):
        raise ModelError(
            f"`{pickle}` is a PyTorch pickle, which can run code",
            hint="convert it to safetensors first: peft's save_pretrained writes safetensors "
            "unless safe_serialization=False",
        )
    raise ModelError(
        f"`{folder}` holds no adapter: neither {file_metadata.FILE} nor another safetensors file",
        hint="give an adapter file, a checkpoint folder, or the output folder of a finished run",
    )


def _exported(path: Path, files: Sequence[Path]) -> bool:
    """Whether `sd3tune export` wrote it beside its source: NAME.DIALECT.safetensors."""
    name, _, dialect = path.stem.rpartition(".")
    return dialect in DIALECTS and path.with_name(f"{name}.safetensors") in files


def _is_result(path: Path) -> bool:
    """Whether a run of sd3tune wrote it as its result."""
    try:
        return file_metadata.STEP in safetensors_header.read(path).metadata
    except ModelError:
        return False
