"""From the words on the command line to a plan: read, observe, discover, resolve.

The only part of planning that looks at the world; what it saw goes to `resolve`, which is pure.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from sd3tune import devices, preflight
from sd3tune.admitted_plan import admit_plan
from sd3tune.backends.decide.admission import ProbeRunner, recorded
from sd3tune.backends.observe import probing
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.facts import Facts
from sd3tune.checked_run import load_checked
from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import Datasets, load_datasets
from sd3tune.data.discover import RejectedFile, without
from sd3tune.data.minimum import check_minimum, check_vae_batch
from sd3tune.data.order import Schedule, schedule
from sd3tune.discovered import Discovered, discover_all
from sd3tune.errors import DataError, Sd3tuneError, answers, with_more
from sd3tune.plan.inputs import Count, not_counted
from sd3tune.plan.plan import Plan
from sd3tune.processes import environment
from sd3tune.processes.environment import ALONE, Processes
from sd3tune.report.progress import waiting
from sd3tune.sd3 import models, variants

PROBING = "probing the device, once per machine and set of packages"


@dataclass(frozen=True)
class Prepared(Discovered):
    """A plan, and the datasets it was made for."""

    plan: Plan
    run_probes: ProbeRunner  # for another plan of the same run

    @cached_property
    def schedule(self) -> Schedule:
        """The order of training."""
        plan, size = self.plan, self.plan.processes.size
        longest = plan.model.transformer.longest_side
        images = self.datasets.images
        return schedule(self.samples, images, plan.config, plan.batch_size, longest, size)

    def refuse_gaps(self) -> None:
        """Raises DataError where no dataset is active in some step of the run."""
        self.schedule.begin(self.plan.steps * self.plan.batches_per_step - 1)

    def without(self, bad: Sequence[RejectedFile]) -> "Prepared":
        """A new plan without the files that turned out to be unusable."""
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
        left = Discovered(self.config, self.datasets, self.sources, discoveries)
        plan = self.plan
        return plan_run(left, plan.model, plan.facts, plan.processes, self.run_probes)


def prepare_run(
    path: Path, overrides: Sequence[str], chip: str | None = None, count: Count = not_counted
) -> Prepared:
    """The plan of a configuration file for this machine. Raises Sd3tuneError.

    chip: another machine, as `devices.facts_of` takes it. count: as RunInputs has it. Errors in
    settings and datasets are reported before a device is asked.
    """
    config, datasets = load_checked(path, overrides, here=chip is None)
    found, model = read_data(config, datasets, here=chip is None)
    processes = asked_for(config)
    if chip is not None:
        facts = devices.facts_of(chip, processes)
        return plan_run(found, model, facts, processes, recorded(facts.smoke), count)
    several, awaited = processes.size > 1, Awaited()
    shown = partial(waiting, awaited.words(PROBING))
    run_probes = probing.on_this_machine(several=several, while_running=shown, awaited=awaited)
    with waiting(awaited.words("looking at the devices")):
        facts = devices.observe(processes, awaited)
    return plan_run(found, model, facts, processes, run_probes, count)


def prepare(
    config: Config,
    facts: Facts,
    processes: Processes = ALONE,
    run_probes: ProbeRunner | None = None,
) -> Prepared:
    """The plan of a loaded configuration for a machine with these facts. run_probes: as in
    `plan_run`. Raises Sd3tuneError."""
    found, model = read_data(config, load_datasets(config.data_backend_config, config))
    return plan_run(found, model, facts, processes, run_probes)


def read_data(
    config: Config, datasets: Datasets, *, here: bool = True
) -> tuple[Discovered, variants.Model]:
    """The datasets and the model's shape: everything but the machine. here: the run is for this
    machine, which must be able to write its folders. Raises Sd3tuneError."""
    folders = partial(preflight.refuse_closed_folders, config, datasets)
    missing = partial(preflight.refuse_missing_files, config)
    try:
        model = answers(*([folders] if here else []), missing, partial(model_of, config))[-1]
    except Sd3tuneError as e:  # what is wrong with the images is reported with it
        raise with_more(e, partial(discover_all, config, datasets, None)) from None
    assert model is not None
    found = discover_all(config, datasets, model.transformer.longest_side)
    found.refuse_empty_caches()
    return found, model


def model_of(config: Config) -> variants.Model:
    """Raises ModelError."""
    return models.find_whole(
        models.ModelRequest(
            config.pretrained_model_name_or_path,
            config.pretrained_transformer_model_name_or_path,
            config.pretrained_transformer_subfolder,
            config.revision,
            config.variant,
        )
    )


def plan_run(
    found: Discovered,
    model: variants.Model,
    facts: Facts,
    processes: Processes = ALONE,
    run_probes: ProbeRunner | None = None,
    count: Count = not_counted,
) -> Prepared:
    """Admits the device, decides, and checks the sizes of the datasets against the decisions.

    run_probes: None takes the answers in `facts.smoke`. Which probes are needed depends on the
    datasets too: weights are quantised where large images would not fit beside them.
    """
    run = recorded(facts.smoke) if run_probes is None else run_probes
    if processes.size == 1:
        plan = admit_plan(found, model, facts, processes, run, count)
    else:
        plan = admit_plan(found, model, facts.unoccupied, processes, run, count)
        devices.refuse_full(plan.memory.estimate.training, facts, processes)
    config = found.config
    discoveries = dict(found.discoveries)
    for dataset in found.datasets.all:
        if dataset.id not in discoveries:
            continue
        asked = found.datasets.source(dataset.id, "vae_batch_size").by == "user"
        check_vae_batch(discoveries[dataset.id], dataset, asked)
        if dataset.trained:
            discoveries[dataset.id] = check_minimum(
                discoveries[dataset.id],
                dataset,
                train_batch_size=plan.batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                processes=processes.size,
                oversubscribe=config.allow_dataset_oversubscription,
            )
    made = Prepared(config, found.datasets, found.sources, discoveries, plan, run)
    preflight.refuse_other_weights(plan)
    made.refuse_gaps()
    return made


def asked_for(config: Config) -> Processes:
    """The processes of the run: those that a launcher started, or those that `sd3tune train` would
    start."""
    if "WORLD_SIZE" in os.environ:
        return environment.processes(os.environ)
    return Processes(size=config.num_processes * config.num_machines,
                     local_size=config.num_processes)  # fmt: skip
