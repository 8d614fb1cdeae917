"""Files that a run needs or finds: what would fail after hours of encoding is refused before."""

from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.files.prompts import load_prompts
from sd3tune.errors import CheckpointError, ConfigError, Sd3tuneError
from sd3tune.formats import manifest
from sd3tune.formats.initial_adapter import initial_file
from sd3tune.report import metrics
from sd3tune.sd3 import finite


def refuse_missing_files(config: Config) -> None:
    """Raises for an init_lora that is missing or holds bad numbers, for prompts that cannot be
    read, for a metrics.jsonl of another program and for a resume_from_checkpoint that is missing:
    the error of the one that was found, or a ConfigError with all of them."""
    found: list[Sd3tuneError] = []
    for check in (_adapter, load_prompts, _metrics, _checkpoint):
        try:
            check(config)
        except Sd3tuneError as e:
            found.append(e)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigError.of([problem for e in found for problem in e.problems])


def _adapter(config: Config) -> None:
    if config.init_lora is None:
        return
    if not config.init_lora.exists():
        words = f"`init_lora={config.init_lora}`: there is no such file"
        raise ConfigError(words, hint="give a .safetensors file of an adapter, or its folder")
    with initial_file(config.init_lora) as file:
        finite.check(file)


def _metrics(config: Config) -> None:
    metrics.refuse_strangers(config.output_dir / metrics.FILE)


def _checkpoint(config: Config) -> None:
    asked = config.resume_from_checkpoint
    if asked in ("latest", "never") or checkpoint_folder(asked, config.output_dir) is not None:
        return
    name = Path(asked).name
    lineages = (manifest.lineage(f).named for f in manifest.folders(config.output_dir))
    if any(named is not None and named.name == name for named in lineages):
        return  # the run went back to it, and has pruned it since
    raise CheckpointError(
        f"`resume_from_checkpoint={asked}`: there is no such folder",
        hint="give a checkpoint's path, its name in output_dir, `latest` or `never`",
    )


def checkpoint_folder(asked: str, output: Path) -> Path | None:
    """The checkpoint that resume_from_checkpoint names: by its path, or by its path or name in
    output_dir."""
    path = Path(asked)
    below = output / path.parent.name / path.name  # `earlier-1/checkpoint-500`
    return next((p for p in (path, below, output / path.name) if p.is_dir()), None)
