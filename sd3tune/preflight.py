"""Files and folders that a run needs or finds: what would fail after hours of encoding is refused
before, from names, sizes and headers."""

from functools import partial
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import Datasets
from sd3tune.config.files.prompts import load_prompts
from sd3tune.errors import CheckpointError, ConfigError, DataError, ModelError, answers
from sd3tune.filesystem import cachedir, disk
from sd3tune.formats import earlier_weights, initial_adapter, manifest
from sd3tune.formats.earlier_weights import TrainedLayers
from sd3tune.plan.plan import Plan
from sd3tune.report import metrics
from sd3tune.sd3 import clip_files, finite
from sd3tune.sd3.linears import linears
from sd3tune.tables.optimizers import OPTIMIZERS


def refuse_missing_files(config: Config) -> None:
    """Raises for an init_lora that is missing, is not an adapter or holds bad numbers, for prompts
    that cannot be read, for a metrics.jsonl or events.jsonl of another program, for a
    resume_from_checkpoint that is missing, and for a folder that holds no CLIP model to score
    pictures with: the error of the one that was found, or a ConfigError with all of them."""
    checks = (_adapter, load_prompts, _metrics, _events, _checkpoint, _clip)
    answers(*(partial(check, config) for check in checks))


def refuse_closed_folders(config: Config, datasets: Datasets | None = None) -> None:
    """Raises for folders of a run in which this machine can write nothing: a ConfigError for
    output_dir, a DataError for a cache."""
    caches = () if datasets is None else (partial(_caches, datasets, config.output_dir),)
    answers(partial(_output, config), *caches)


def refuse_other_weights(plan: Plan) -> None:
    """Raises for an adapter or a checkpoint that the run of this plan cannot begin with, as far as
    headers tell."""
    run = trained_layers(plan)
    checks = []
    if plan.trained.begin_with is not None:
        checks.append(partial(_layers, plan.trained.begin_with, run))
    folder = _continued(plan.checkpoints.resume, plan.output_dir)
    if folder is not None:
        refuse = earlier_weights.refuse_other_checkpoint
        checks.append(partial(refuse, folder, run, plan.steps))
    answers(*checks)


def _layers(path: Path, run: TrainedLayers) -> None:
    with initial_adapter.initial_file(path) as file:
        earlier_weights.refuse_other_layers(file, run)


def trained_layers(plan: Plan) -> TrainedLayers:
    """What the run of a plan trains, as the checks of earlier weights take it."""
    trained, average = plan.trained, plan.optimizer.average is not None
    kind, count = trained.kind.value, trained.count
    optimizer = OPTIMIZERS[plan.optimizer.name.value].kind
    if trained.lora is None:
        return TrainedLayers(kind, count, {}, average=average, optimizer=optimizer)
    layers = plan.model.transformer.targeted(trained.lora.targets.value)
    sizes, every = (
        {layer.name: (layer.inputs, layer.outputs) for layer in found}
        for found in (layers, linears(plan.model.transformer))
    )
    lora = trained.lora
    return TrainedLayers(kind, count, sizes, every, lora.rank, lora.dora, average, optimizer)


def _continued(asked: str, output: Path) -> Path | None:
    """The checkpoint that the run would continue: the one that is named, or the newest whose files
    are there. None where it begins afresh."""
    if asked == "never":
        return None
    if asked != "latest":
        return checkpoint_folder(asked, output)
    ours = (f for f in reversed(manifest.folders(output)) if manifest.is_ours(f))
    return next((f for f in ours if _complete(f)), None)


def _complete(folder: Path) -> bool:
    """Whether every file that the manifest lists is there, and the state can be read."""
    try:
        manifest.facts(folder)
        return all((folder / name).is_file() for name in manifest.listing(folder))
    except (OSError, ValueError):
        return False


def _output(config: Config) -> None:
    folder = config.output_dir
    if folder.is_file():
        words = f"`output_dir={folder}` is a file"
        raise ConfigError(words, hint="choose another name for the folder")
    if (found := disk.unwritable(folder)) is not None:
        raise ConfigError(f"`output_dir={folder}` cannot be written: {found[0]}", hint=found[1])


def _caches(datasets: Datasets, output: Path) -> None:
    """Folders that hold entries already may be read-only: others fill them. Folders below an output
    folder that cannot be written are not named again."""
    refused = disk.unwritable(output) is not None
    vae = {d.cache_dir_vae: f"dataset `{d.id}`: `cache_dir_vae=" for d in datasets.all}
    text = {t.cache_dir: f"dataset `{t.id}`: `cache_dir=" for t in datasets.texts.values()}

    def refuse(folder: Path, named: str) -> None:
        known = cachedir.has_shards(folder) or (refused and folder.is_relative_to(output))
        if not known and (found := disk.unwritable(folder)) is not None:
            raise DataError(f"{named}{folder}` cannot be written: {found[0]}", hint=found[1])

    answers(*(partial(refuse, folder, named) for folder, named in (vae | text).items()))


def _adapter(config: Config) -> None:
    path = config.init_lora
    if path is None:
        return
    if not path.exists():
        words = f"`init_lora={path}`: there is no such file"
        raise ConfigError(words, hint="give a .safetensors file of an adapter, or its folder")
    initial_adapter.refuse_unfit(path, lycoris=config.lora_type == "lycoris", rank=config.lora_rank)
    with initial_adapter.initial_file(path) as file:
        finite.check(file)  # reads everything: only what may be used


def _clip(config: Config) -> None:
    model = config.pretrained_evaluation_model_name_or_path
    if config.evaluation_type == "none" or config.validation_disable:
        return
    if Path(model).is_dir():
        clip_files.check(Path(model))
    elif model.startswith("/"):
        words = f"`{clip_files.SETTING}={model}`: there is no such folder"
        raise ModelError(words, hint=clip_files.HINT)


def _metrics(config: Config) -> None:
    metrics.refuse_strangers(config.output_dir / metrics.FILE)


def _events(config: Config) -> None:
    from sd3tune.report import event_lines  # a plan for another machine has none

    event_lines.refuse_strangers(config.output_dir / event_lines.FILE)


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
