"""From the words on the command line to a plan: read, observe, discover, resolve.

The only part of planning that looks at the world; what it saw goes to `resolve`, which is pure.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import ProbeRunner, admit, recorded
from sd3tune.backends.decide.probes import IMPORT
from sd3tune.backends.observe import probing, recorded_machine, this_machine
from sd3tune.backends.observe.facts import Facts, TorchReport
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.datasets.listing import Datasets, load_datasets
from sd3tune.config.files.lycoris_config import load_lycoris
from sd3tune.data import run_folders
from sd3tune.data.discover import (
    Discovery,
    RejectedFile,
    Sample,
    check_minimum,
    check_vae_batch,
    discover,
    within,
    without,
)
from sd3tune.data.order import Schedule, schedule
from sd3tune.data.sources import Source, source_of
from sd3tune.errors import CheckpointError, ConfigError, DataError, HardwareError
from sd3tune.filesystem import temporary
from sd3tune.formats import manifest
from sd3tune.plan.describe import describe
from sd3tune.plan.resolve import Plan, resolve
from sd3tune.processes.environment import ALONE, Processes, processes
from sd3tune.report import metrics
from sd3tune.report.progress import say, stage
from sd3tune.sd3 import finite, models, variants

PROBING = "probing the device (about 10 s, once per machine and set of packages)"


@dataclass(frozen=True)
class Found:
    """The datasets of a run as they are on their storage."""

    config: Config
    datasets: Datasets
    sources: Mapping[str, Source]  # by dataset id, masks included
    discoveries: Mapping[str, Discovery]  # by dataset id; without those that are never drawn

    def dataset(self, name: str) -> ImageDataset:
        return next(d for d in self.datasets.all if d.id == name)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What is trained on."""
        return self._of(self.datasets.images)

    @property
    def evals(self) -> tuple[Sample, ...]:
        """What the evaluation loss is measured on, when there are datasets for it."""
        return self._of(self.datasets.evals)

    def _of(self, datasets: Sequence[ImageDataset]) -> tuple[Sample, ...]:
        found = (self.discoveries[d.id] for d in datasets if d.id in self.discoveries)
        return tuple(s for discovery in found for s in discovery.samples)


@dataclass(frozen=True)
class Prepared(Found):
    """A plan, and the datasets it was made for."""

    plan: Plan
    run_probes: ProbeRunner  # for another plan of the same run

    @cached_property
    def schedule(self) -> Schedule:
        plan = self.plan
        longest = plan.model.transformer.longest_side
        size = plan.processes.size
        made = schedule(
            self.samples, self.datasets.images, plan.config, plan.batch_size, longest, size
        )
        made.begin(plan.steps * plan.batches_per_step - 1)  # refuses gaps
        return made

    def without(self, bad: Sequence[RejectedFile]) -> "Prepared":
        """The same without files that turned out to be unusable, planned again."""
        if not bad:
            return self
        discoveries = {}
        for name, found in self.discoveries.items():
            kept = without(found, [r for r in bad if r.dataset == name])
            if not kept.samples:
                raise DataError(
                    f"dataset `{name}`: no image is left: {kept.rejected[-1].reason}",
                    hint=f"look at `{kept.rejected[-1].path}` first",
                )
            discoveries[name] = kept
        left = Found(self.config, self.datasets, self.sources, discoveries)
        plan = self.plan
        return planned(left, plan.model, plan.facts, plan.processes, self.run_probes)


def this_run(path: Path, overrides: Sequence[str], chip: str | None = None) -> Prepared:
    """The plan of a configuration file for this machine. Raises Sd3tuneError.

    chip: another machine, as `elsewhere` takes it. What is wrong with the settings and the datasets
    is said before any device is asked.
    """
    config = Config.load(path, overrides)
    found, model = read(config)
    who = asked_for(config)
    if chip is not None:
        facts = elsewhere(chip)
        return planned(found, model, facts, who, recorded(facts.smoke))
    run_probes = probing.on_this_machine(several=who.size > 1, before=partial(say, PROBING))
    return planned(found, model, observe(who), who, run_probes)


def prepare(
    config: Config,
    facts: Facts,
    processes: Processes = ALONE,
    run_probes: ProbeRunner | None = None,
) -> Prepared:
    """The plan of a loaded configuration for a machine with these facts. Raises Sd3tuneError.

    run_probes: None takes the answers in `facts.smoke`, and asks no device.
    """
    found, model = read(config)
    return planned(found, model, facts, processes, run_probes)


def read(config: Config) -> tuple[Found, variants.Model]:
    """The datasets and the model's shape: everything but the machine. Raises Sd3tuneError."""
    if config.output_dir.exists() and not config.output_dir.is_dir():
        words = f"`output_dir={config.output_dir}` is a file"
        raise ConfigError(words, hint="choose another name for the folder")
    refuse_missing_files(config)
    datasets = load_datasets(config.data_backend_config, config)
    model = model_of(config)
    return look(config, datasets, model.transformer.longest_side), model


def refuse_missing_files(config: Config) -> None:
    """What would fail after hours of encoding is refused before."""
    if config.init_lora is not None:
        if not config.init_lora.exists():
            words = f"`init_lora={config.init_lora}`: there is no such file"
            raise ConfigError(words, hint="give a .safetensors file of an adapter")
        finite.check(config.init_lora)
    metrics.refuse_strangers(config.output_dir / metrics.FILE)
    asked = config.resume_from_checkpoint
    if asked in ("latest", "never") or checkpoint_folder(config) is not None:
        return
    name = Path(asked).name
    lineages = (manifest.lineage(f).named for f in manifest.folders(config.output_dir))
    if any(named is not None and named.name == name for named in lineages):
        return  # the run went back to it, and has pruned it since
    raise CheckpointError(
        f"`resume_from_checkpoint={asked}`: there is no such folder",
        hint="give a checkpoint's path, its name in output_dir, `latest` or `never`",
    )


def checkpoint_folder(config: Config) -> Path | None:
    """The one that is asked for by its path, or by its path or name in output_dir."""
    path, output = Path(config.resume_from_checkpoint), config.output_dir
    below = output / path.parent.name / path.name  # `earlier-1/checkpoint-500`
    return next((p for p in (path, below, output / path.name) if p.is_dir()), None)


def model_of(config: Config) -> variants.Model:
    """Raises ModelError."""
    return models.find(
        config.pretrained_model_name_or_path,
        config.pretrained_transformer_model_name_or_path,
        config.pretrained_transformer_subfolder,
    )


def look(config: Config, datasets: Datasets, longest: int | None) -> Found:
    """Discovers every dataset that is drawn from. longest: side in pixels where the model ends."""
    run_folders.refuse_own_pictures(config, datasets)
    written = run_folders.folders(config, datasets)
    stored = {d.id: d for d in datasets.all} | dict(datasets.masks)
    sources: dict[str, Source] = {
        name: source_of(d, partial(say_contact, name), written) for name, d in stored.items()
    }
    named: set[str] = set()
    discoveries = {}
    for d in datasets.all:
        if d.trained and d.probability <= 0:
            continue
        masks = sources[d.conditioning_data] if d.conditioning_data else None
        used = {name: sources[name] for name in (d.id, d.conditioning_data) if name}
        for name in used.keys() - named:  # before the first of them is asked
            for host in used[name].contacts():
                say_contact(name, host)
        with stage(f"look at {d.id}", None) as bar:
            found = discover(d, sources[d.id], masks=masks, tick=bar.advance)
        for name in used.keys() - named:
            for warning in used[name].warnings():
                say(f"warning: dataset `{name}`: {warning}")
        named |= used.keys()
        discoveries[d.id] = found if longest is None else within(found, longest, d)
    datasets = replace(datasets, notes=(*datasets.notes, *run_folders.notes(sources)))
    return Found(config, datasets, sources, discoveries)


def say_contact(dataset: str, host: str) -> None:
    """host: with the reason in brackets."""
    say(f"contacts {host} for dataset `{dataset}`")


def planned(
    found: Found,
    model: variants.Model,
    facts: Facts,
    who: Processes = ALONE,
    run_probes: ProbeRunner | None = None,
) -> Prepared:
    """Admits the device, decides, and checks the sizes of the datasets against the decisions.

    run_probes: as in `prepare`. Which probes are needed depends on the datasets too: weights are
    quantised where large images would not fit beside them.
    """
    run = recorded(facts.smoke) if run_probes is None else run_probes
    plan = admitted_plan(found, model, facts, who, run)
    config = found.config
    discoveries = dict(found.discoveries)
    for dataset in found.datasets.all:
        if dataset.id not in discoveries:
            continue
        own = dataset.id in found.datasets.asked_vae_batch
        asked = own or "vae_batch_size" in config.model_fields_set
        check_vae_batch(discoveries[dataset.id], dataset, asked)
        if dataset.trained:
            discoveries[dataset.id] = check_minimum(
                discoveries[dataset.id],
                dataset,
                train_batch_size=plan.batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                processes=who.size,
                oversubscribe=config.allow_dataset_oversubscription,
            )
    made = Prepared(config, found.datasets, found.sources, discoveries, plan, run)
    _ = made.schedule
    return made


def admitted_plan(
    found: Found, model: variants.Model, facts: Facts, who: Processes, run: ProbeRunner
) -> Plan:
    """Raises HardwareError where nothing can train, PlanError and ConfigError as `resolve` does."""
    config = found.config
    lycoris = load_lycoris(config.lycoris_config) if config.lycoris_config else None

    def decide(facts: Facts) -> Plan:
        images = found.datasets.images
        return resolve(config, facts, model, found.samples, images, who, lycoris)

    needed = [f"{IMPORT}lycoris-lora"] if lycoris is not None else []
    admitted = admit(facts, decide, chosen, run, also=needed)
    refuse_broken(admitted.facts)
    return admitted.decided


def chosen(plan: Plan) -> dict[str, str]:
    """The option of each axis."""
    return {axis: row["value"] for axis, row in describe(plan)["decisions"].items()}


def asked_for(config: Config) -> Processes:
    """Those that were started, or those that `sd3tune train` would start."""
    if "WORLD_SIZE" in os.environ:
        return processes(os.environ)
    return Processes(size=config.num_processes * config.num_machines,
                     local_size=config.num_processes)  # fmt: skip


def elsewhere(name: str) -> Facts:
    """A catalogued chip, or the machine whose `sd3tune doctor --json` is in a file. Raises
    ConfigError for another name, HardwareError for a machine that cannot train."""
    if name.endswith(".json"):
        there = recorded_machine.facts(Path(name))
        refuse_broken(there)
        return there
    return chips.facts(chips.chip(name))


def refuse_broken(facts: Facts) -> None:
    """A device that cannot be used is an error, and never a silent run on the CPU. Raises
    HardwareError."""
    if (broken := next((p for p in facts.problems if p.severity == "fail"), None)) is not None:
        hint = f"{broken.fix}; SD3TUNE_BACKEND=cpu trains on the CPU instead"
        raise HardwareError(broken.message, hint=hint)


def observe(who: Processes = ALONE) -> Facts:
    """This machine, with as many devices as there are processes. No probe is run. Raises
    HardwareError where nothing can train."""
    temporary.refuse_none()  # children answer through files
    _, torch, facts = this_machine.observe()
    return usable(torch, facts, who)


def usable(torch: TorchReport, facts: Facts, who: Processes) -> Facts:
    """One device for each process of this machine, in the order in which the user has them.
    Raises HardwareError where PyTorch is missing or broken, or there are fewer devices."""
    if torch.version is None or torch.error is not None:
        words = f"cannot be imported: {torch.error}" if torch.error else "is not installed"
        hint = "bash scripts/setup installs it; `sd3tune doctor` looks further"
        raise HardwareError(f"PyTorch {words}", hint=hint)
    refuse_broken(facts)
    if facts.takes_any_number_of_processes:
        return replace(facts, devices=facts.devices[:1])
    if len(facts.devices) < who.local_size:
        words = f"{who.local_size} processes, and {len(facts.devices)} devices on this machine"
        raise HardwareError(words, hint=f"start {len(facts.devices)} or fewer with --nproc")
    return replace(facts, devices=facts.devices[: who.local_size])
