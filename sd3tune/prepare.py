"""From the words on the command line to a plan: read, observe, discover, resolve.

The only part of planning that looks at the world; what it saw goes to `resolve`, which is pure.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from sd3tune.backends.decide import chips
from sd3tune.backends.observe import child, recorded_machine, this_machine
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.datasets.listing import Datasets, load_datasets
from sd3tune.config.files.lycoris_config import load_lycoris
from sd3tune.data import run_folders
from sd3tune.data.discover import (
    Discovery,
    Rejected,
    Sample,
    check_minimum,
    check_vae_batch,
    discover,
    source_of,
    within,
    without,
)
from sd3tune.data.order import Schedule, schedule
from sd3tune.data.sources import Source
from sd3tune.errors import CheckpointError, ConfigError, DataError, HardwareError
from sd3tune.filesystem import temporary
from sd3tune.formats import manifest
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.processes.environment import ALONE, Processes, processes
from sd3tune.report import metrics
from sd3tune.report.progress import say, stage
from sd3tune.sd3 import finite, models, variants

SECONDS = 120.0
KERNEL = {"native": "diffusers", "sageattention": "diffusers"}  # what trains under that name


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

    def without(self, bad: Sequence[Rejected]) -> "Prepared":
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
        return planned(left, self.plan.model, self.plan.facts, self.plan.processes)


def prepare(path: Path, overrides: Sequence[str], chip: str | None) -> Prepared:
    """Raises Sd3tuneError. chip: another machine than this one, as `elsewhere` takes it."""
    config = Config.load(path, overrides)
    if config.output_dir.exists() and not config.output_dir.is_dir():
        words = f"`output_dir={config.output_dir}` is a file"
        raise ConfigError(words, hint="choose another name for the folder")
    refuse_missing_files(config)
    datasets = load_datasets(config.data_backend_config, config)
    model = model_of(config)
    found = look(config, datasets, model.transformer.longest_side)
    who = asked_for(config)
    facts = elsewhere(chip) if chip else observe(config, who)
    return planned(found, model, facts, who)


def refuse_missing_files(config: Config) -> None:
    """What would fail after hours of encoding is refused before."""
    if config.init_lora is not None:
        if not config.init_lora.exists():
            words = f"`init_lora={config.init_lora}`: there is no such file"
            raise ConfigError(words, hint="give a .safetensors file of an adapter")
        finite.check(config.init_lora)
    metrics.refuse_strangers(config.output_dir / metrics.FILE)
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
        if d.dataset_type == "image" and d.probability <= 0:
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


def planned(found: Found, model: variants.Model, facts: Facts, who: Processes = ALONE) -> Prepared:
    """Decides, and checks the sizes of the datasets against the decisions."""
    config = found.config
    lycoris = load_lycoris(config.lycoris_config) if config.lycoris_config else None
    plan = resolve(
        RunInputs(config, facts, model, found.samples, found.datasets.images, who, lycoris)
    )
    discoveries = dict(found.discoveries)
    for dataset in found.datasets.all:
        if dataset.id not in discoveries:
            continue
        own = dataset.id in found.datasets.asked_vae_batch
        asked = own or "vae_batch_size" in config.model_fields_set
        check_vae_batch(discoveries[dataset.id], dataset, asked)
        if dataset.dataset_type == "image":
            discoveries[dataset.id] = check_minimum(
                discoveries[dataset.id],
                dataset,
                train_batch_size=plan.batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                processes=who.size,
                oversubscribe=config.allow_dataset_oversubscription,
            )
    made = Prepared(config, found.datasets, found.sources, discoveries, plan)
    _ = made.schedule
    return made


def asked_for(config: Config) -> Processes:
    """Those that were started, or those that `sd3tune train` would start."""
    if "WORLD_SIZE" in os.environ:
        return processes(os.environ)
    return Processes(size=config.num_processes * config.num_machines,
                     local_size=config.num_processes)  # fmt: skip


def elsewhere(name: str) -> Facts:
    """A catalogued chip, or the machine whose `sd3tune doctor --json` is in a file."""
    if name.endswith(".json"):
        there = recorded_machine.facts(Path(name))
        _refuse_broken(there)
        return there
    return chips.facts(chips.chip(name))


def _refuse_broken(facts: Facts) -> None:
    """A device that cannot be used is an error, and never a silent run on the CPU."""
    if (broken := next((p for p in facts.problems if p.severity == "fail"), None)) is not None:
        hint = f"{broken.fix}; SD3TUNE_BACKEND=cpu trains on the CPU instead"
        raise HardwareError(broken.message, hint=hint)


def observe(config: Config, who: Processes = ALONE) -> Facts:
    """This machine, with the attention of the run admitted or not: its gradients must match math
    attention on this device before it may train."""
    temporary.refuse_none()  # children answer through files
    mechanism = config.attention_mechanism or "diffusers"
    names = [f"attention_{KERNEL.get(mechanism, mechanism)}"]
    if mechanism in ("diffusers", "sageattention"):  # what may be chosen instead
        names.append("attention_sliced")
    with ThreadPoolExecutor(1) as pool:
        admission = pool.submit(child.ask, "probes", ["auto", *names], timeout_seconds=SECONDS)
        _, torch, facts = this_machine.observe()
        answer = admission.result()
    if torch.version is None or torch.error is not None:
        words = f"cannot be imported: {torch.error}" if torch.error else "is not installed"
        hint = "bash scripts/setup installs it; `sd3tune doctor` looks further"
        raise HardwareError(f"PyTorch {words}", hint=hint)
    _refuse_broken(facts)
    # A process for each device, as the user ordered them; the CPU takes any number.
    shared = facts.vendor == "cpu"
    if not shared and len(facts.devices) < who.local_size:
        words = f"{who.local_size} processes, and {len(facts.devices)} devices on this machine"
        raise HardwareError(words, hint=f"start {len(facts.devices)} or fewer with --nproc")
    facts = replace(facts, devices=facts.devices[: 1 if shared else who.local_size])
    nothing = {"ok": False, "words": answer.error}
    results = {name: (answer.data or {}).get(name) or nothing for name in names}
    smoke = {name: "ok" if r["ok"] else str(r["words"]) for name, r in results.items()}
    return replace(facts, smoke=smoke)
