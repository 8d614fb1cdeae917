"""What will happen: a pure function of the configuration, the machine's facts and the dataset.

`sd3tune plan` and `train --dry-run` print a Plan, the trainer reads nothing else, and every
checkpoint carries one. Nothing is observed here, and no weight is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sd3tune.backends.decide import limits
from sd3tune.backends.decide.decisions import SETTING, decide_all
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Device, Facts
from sd3tune.config import rules
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.data.discover import Sample
from sd3tune.decision import AUTO, DEFAULT, Decision
from sd3tune.errors import ConfigError, PlanError
from sd3tune.plan import blocks, products
from sd3tune.plan.length import as_set, scaled_rate, several, steps
from sd3tune.plan.memory import Load, Memory, estimate, gib
from sd3tune.plan.sizes import Sizes, attention_asked
from sd3tune.plan.trainable import Trainable
from sd3tune.plan.warnings import of_optimisation
from sd3tune.processes.environment import ALONE, Processes
from sd3tune.sd3.variants import Model

ASKED = (  # settings of the same name as their axis
    "mixed_precision",
    "base_model_default_dtype",
    "base_model_precision",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
    "quantize_via",
    "gradient_checkpointing_backend",
    "optimizer",
    "dynamo_backend",
)


@dataclass(frozen=True)
class Plan:
    """Everything train/run reads. `decisions` holds an entry for every choice that was made."""

    config: Config
    model: Model
    facts: Facts
    device: Device
    decisions: Mapping[str, Decision[str]]
    memory: Memory
    warnings: tuple[str, ...]
    load: Load  # what `memory` was reckoned from
    processes: Processes = ALONE
    lycoris: Lycoris | None = None  # with lora_type=lycoris

    def value(self, axis: str) -> str:
        return self.decisions[axis].value

    @property
    def batch_size(self) -> int:
        return int(self.value("train_batch_size"))

    @property
    def steps(self) -> int:
        return int(self.value("max_train_steps"))

    @property
    def batches_per_step(self) -> int:
        """Of all processes together."""
        return int(self.value("gradient_accumulation_steps")) * self.processes.size

    @property
    def learning_rate(self) -> float:
        """The schedule's peak, scaled."""
        return float(self.value("learning_rate"))

    @property
    def lora_targets(self) -> tuple[str, ...]:
        return tuple(self.value("peft_lora_target_modules").split(","))


def resolve(
    config: Config,
    facts: Facts,
    model: Model,
    samples: Sequence[Sample],
    datasets: Sequence[ImageDataset] = (),
    processes: Processes = ALONE,
    lycoris: Lycoris | None = None,
) -> Plan:
    """Raises PlanError when what is asked cannot run here, ConfigError when it makes no sense."""
    _refuse_impossible_pictures(config, model)
    products.refuse(config, facts, model, samples, datasets, attention_asked(config) or "sliced")
    device = facts.devices[min(processes.local_rank, len(facts.devices) - 1)]
    trained = Trainable.of(config, model, lycoris)
    sizes = Sizes(config, facts, model, samples, datasets, processes, trained)
    request = replace(
        _request(config),
        processes=processes.size,
        sharded=config.fsdp_enable and processes.size > 1,
        whole_weights=_whole_weights(config, lycoris),
    )
    hardware, decided = decide_all(facts, request, sizes.too_big)
    attention = decided.attention_mechanism or "diffusers"  # slices may have failed their probe
    products.refuse(config, facts, model, samples, datasets, attention)
    batch = sizes.batch(decided)
    load = sizes.load(decided, int(batch.value), decided.base_model_precision or "no_change")
    memory = estimate(model, load)
    decisions = {
        "device": Decision(device.torch_device, AUTO, f"{device.name}: {_origin(facts)}"),
        "model": _model(config, model),
        **hardware,
        "offload": _offload(memory, facts),
        **blocks.decisions(config, facts, model.transformer, hardware),
        "train_batch_size": batch,
        "gradient_accumulation_steps": as_set(
            config, "gradient_accumulation_steps", "one batch per optimizer step"
        ),
        "num_processes": several(config, processes, int(batch.value)),
        "learning_rate": scaled_rate(config, int(batch.value), processes.size),
        "max_train_steps": steps(config, samples, datasets, int(batch.value), processes.size),
        **trained.decisions,
    }
    peak = float(decisions["learning_rate"].value)
    warned = of_optimisation(config, model, hardware["optimizer"].value, peak)
    warnings = (*warned, *_warnings(config, facts, datasets, lycoris, processes))
    return Plan(config, model, facts, device, decisions, memory, warnings, load, processes, lycoris)


def _request(config: Config) -> Request:
    asked = {name: getattr(config, name) for name in ASKED}
    if config.attention_mechanism == "sageattention":
        asked |= {"attention_no_grad": "sageattention"}
    elif (attention := attention_asked(config)) is not None:
        asked |= {"attention_mechanism": attention, "attention_no_grad": "as-training"}
    vae = None if config.vae_dtype == "default" else config.vae_dtype
    deterministic = "on" if config.deterministic else None
    names = {name: SETTING.get(name, name) for name in (*asked, "vae_dtype", "deterministic")}
    return Request(
        **asked,
        sources={axis: config.source(name) for axis, name in names.items()},
        vae_dtype=vae,
        deterministic=deterministic,
        model_type=config.model_type,
    )


def _origin(facts: Facts) -> str:
    words = {
        "measured": "observed on this machine",
        "recorded": "from recorded answers",
        "catalog": "from the catalogue, not measured",
    }
    return words[facts.origin]


def _model(config: Config, model: Model) -> Decision[str]:
    shape = model.transformer
    size = (
        f"{shape.parameters / 1e9:.3f} B parameters"
        if shape.parameters > 1e8
        else (f"{shape.parameters / 1e6:.2f} M parameters")
    )
    named = ("pretrained_model_name_or_path", "model_flavour")
    source = next((s for s in map(config.source, named) if s.by == "user"), DEFAULT)
    why = f"{model.source}: {shape.layers} blocks of width {shape.hidden}, {size}"
    return Decision(model.name, source, why)


def _offload(memory: Memory, facts: Facts) -> Decision[str]:
    """Where the text encoders run while captions are encoded. They are gone before training."""
    device = facts.weakest
    room = device.usable_bytes or device.total_bytes
    need = memory.text_encoders + memory.workspace
    if room is None or need <= room:
        return Decision("none", AUTO, f"the text encoders take {gib(memory.text_encoders)}")
    why = f"the text encoders take {gib(memory.text_encoders)}, {device.name} has {gib(room)}"
    host = limits.host_bytes(facts)
    if host is not None and host < need:
        raise PlanError(
            f"{why}, and host memory has {gib(host)}",
            hint="set text_encoder_3_precision=int8-quanto: T5 is nine tenths of it",
        )
    return Decision("text_encoders", AUTO, f"{why}: captions are encoded on the CPU, once")


def _whole_weights(config: Config, lycoris: Lycoris | None) -> str | None:
    """Why the frozen weights may not be quantised."""
    if config.lora_init_type in ("pissa", "olora"):
        return (
            f"`lora_init_type={config.lora_init_type}` takes part of the weights into the adapter"
        )
    if lycoris is not None and lycoris.dora_wd:
        return "`lycoris_config`: dora_wd needs the weights, not packed ones"
    return None


def _refuse_impossible_pictures(config: Config, model: Model) -> None:
    """What would fail after hours of training is refused before."""
    blocks = model.transformer.layers
    beyond = [n for n in config.validation_guidance_skip_layers or () if n >= blocks]
    if beyond:
        raise ConfigError(
            f"`validation_guidance_skip_layers`: block {beyond[0]} does not exist, {model.name} "
            f"has {blocks}",
            hint=f"use numbers from 0 to {blocks - 1}",
        )
    longest = model.transformer.longest_side
    for width, height in config.validation_resolution:
        if max(width, height) > longest:
            raise ConfigError(
                f"`validation_resolution`: {width}x{height} is beyond the positions of "
                f"{model.name}",
                hint=f"no side may be longer than {longest} pixels",
            )


def _warnings(
    config: Config, facts: Facts, datasets: Sequence[ImageDataset], lycoris: Lycoris | None,
    processes: Processes,
) -> tuple[str, ...]:  # fmt: skip
    """What will run, and may disappoint. Recipes: docs/guides/stability.md."""
    found = list(rules.warnings(config, datasets))
    if lycoris is not None and lycoris.dora_wd:
        found.append(
            "ComfyUI divides DoRA by another length than lycoris-lora: of a dora_wd file it draws "
            "something else; `sd3tune export --to comfyui` writes what it draws right"
        )
    if config.fsdp_enable and processes.size == 1:
        found.append("fsdp_enable=true changes nothing: there is one process to hold the weights")
    if facts.untested_on_hardware:
        kind = f"hardware of this kind ({facts.vendor})"
        found.append(f"sd3tune is untested on {kind}; please report what you see")
    return tuple(found)
