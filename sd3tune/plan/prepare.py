"""From the words on the command line to a plan: read, observe, discover, resolve.

The only part of planning that looks at the world; what it saw goes to `resolve`, which is pure.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sd3tune import backends
from sd3tune.backends import catalog, probe, recorded
from sd3tune.backends.facts import Facts
from sd3tune.config.datasets import Datasets, load_datasets
from sd3tune.config.settings import Config
from sd3tune.data.discover import Discovery, Sample, check_minimum, discover, within
from sd3tune.errors import ConfigError, HardwareError
from sd3tune.plan.resolve import Plan, resolve
from sd3tune.sd3 import variants

SECONDS = 120.0
KERNEL = {"native": "diffusers", "sageattention": "diffusers"}  # what trains under that name


@dataclass(frozen=True)
class Prepared:
    """A plan, and the dataset it was made for."""

    plan: Plan
    datasets: Datasets
    discoveries: Mapping[str, Discovery]  # by dataset id

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(s for d in self.discoveries.values() for s in d.samples)


def prepare(path: Path, overrides: Sequence[str], chip: str | None) -> Prepared:
    """Raises Sd3tuneError. chip: another machine than this one, as `elsewhere` takes it."""
    config = Config.load(path, overrides)
    if config.output_dir.exists() and not config.output_dir.is_dir():
        words = f"`output_dir={config.output_dir}` is a file"
        raise ConfigError(words, hint="choose another name for the folder")
    datasets = load_datasets(config.data_backend_config, config)
    model = variants.find(config.pretrained_model_name_or_path or "")
    longest = model.transformer.longest_side
    discoveries = {d.id: within(discover(d), longest, d) for d in datasets.images}
    facts = elsewhere(chip) if chip else observe(config)
    samples = [s for d in discoveries.values() for s in d.samples]
    plan = resolve(config, facts, model, samples)
    for dataset in datasets.images:
        check_minimum(
            discoveries[dataset.id],
            dataset,
            train_batch_size=plan.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
        )
    return Prepared(plan, datasets, discoveries)


def elsewhere(name: str) -> Facts:
    """A catalogued chip, or the machine whose `sd3tune doctor --json` is in a file."""
    if name.endswith(".json"):
        return recorded.facts(Path(name))
    return catalog.facts(catalog.chip(name))


def observe(config: Config) -> Facts:
    """This machine, with the attention kernel of the run admitted or not: its gradients must match
    math attention on this device before it may train."""
    mechanism = config.attention_mechanism or "diffusers"
    name = f"attention_{KERNEL.get(mechanism, mechanism)}"
    with ThreadPoolExecutor(1) as pool:
        admission = pool.submit(probe.ask, "probes", ["auto", name], timeout_seconds=SECONDS)
        _, torch, facts = backends.observe()
        answer = admission.result()
    if torch.version is None or torch.error is not None:
        words = f"cannot be imported: {torch.error}" if torch.error else "is not installed"
        hint = "bash scripts/setup installs it; `sd3tune doctor` looks further"
        raise HardwareError(f"PyTorch {words}", hint=hint)
    if (broken := next((p for p in facts.problems if p.severity == "fail"), None)) is not None:
        hint = f"{broken.fix}; SD3TUNE_BACKEND=cpu trains on the CPU instead"
        raise HardwareError(broken.message, hint=hint)
    # One device trains so far: the first, as the user ordered them.
    facts = replace(facts, devices=facts.devices[:1])
    result = (answer.data or {}).get(name) or {"ok": False, "words": answer.error}
    return replace(facts, smoke={name: "ok" if result["ok"] else str(result["words"])})
