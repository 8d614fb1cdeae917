"""How a run fits the memory: checkpointed and swapped blocks, offloaded encoders, kept files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sd3tune.backends.decide import limits
from sd3tune.config.config import Config
from sd3tune.decision import AUTO, Decision
from sd3tune.errors import ConfigError, PlanError
from sd3tune.plan.arithmetic import Chosen, typed
from sd3tune.plan.batch_split import split_decision
from sd3tune.plan.block_keeping import Keep
from sd3tune.plan.fastest import Fastest
from sd3tune.plan.host_memory import inputs_decision, swap_decision
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load, MemoryEstimate, estimate, gib
from sd3tune.sd3.variants import Transformer

BACKENDS: dict[str, Literal["torch", "unsloth"]] = {"torch": "torch", "unsloth": "unsloth"}


@dataclass(frozen=True)
class MemoryPlan:
    """Where activations and weights are during training: on the device, recomputed, or in host
    memory."""

    estimate: MemoryEstimate
    load: Load  # what `estimate` was reckoned from
    checkpointing: Decision[bool]  # blocks run again in the backward pass
    interval: Decision[int]  # every n-th block is checkpointed
    checkpoint_backend: Decision[Literal["torch", "unsloth"]]  # inputs on the device, on the host
    keep: Decision[tuple[Keep, ...]]  # what each block keeps for the backward pass
    split: Decision[int]  # parts in which a batch is computed
    blocks_to_swap: Decision[int]  # the first n blocks live in host memory
    modulations: Decision[Literal["device", "streamed", "host"]]  # where they are computed
    offload: Decision[Literal["none", "text_encoders"]]  # what runs on the CPU instead
    quantised_cache: Decision[Path | None]  # folder of quantised transformers; None: none is kept


def memory_plan(
    inputs: RunInputs,
    chosen: Chosen,
    picked: Fastest,
    keep: Decision[tuple[Keep, ...]],
    modulations: Decision[Literal["device", "streamed", "host"]],
) -> MemoryPlan:
    """picked: the load that was chosen, and why. Raises ConfigError and PlanError for blocks that
    cannot be swapped or checkpointed, and where no memory holds the text encoders."""
    config, shape, load = inputs.config, inputs.model.transformer, picked.load
    waiting, need = chosen["gradient_checkpointing_backend"], estimate(inputs.model, load)
    return MemoryPlan(
        estimate=need,
        load=load,
        checkpointing=_checkpointing(config, keep),
        interval=_interval(config, shape, keep.value),
        checkpoint_backend=typed(inputs_decision(inputs, load, waiting, picked.reason), BACKENDS),
        keep=keep,
        split=split_decision(inputs, load, picked.reason),
        blocks_to_swap=swap_decision(inputs, load, picked.reason),
        modulations=modulations,
        offload=_offload(inputs, need),
        quantised_cache=_quantised_cache(config, chosen),
    )


def _checkpointing(config: Config, keep: Decision[tuple[Keep, ...]]) -> Decision[bool]:
    value, source = config.gradient_checkpointing, config.source("gradient_checkpointing")
    if value and set(keep.value) == {"everything"}:
        return Decision(False, AUTO, "everything fits, and nothing is computed again")
    reason = "recomputes each block in the backward pass: about a third more time, far less memory"
    return Decision(value, source, reason if value else "every activation is kept")


def _interval(config: Config, shape: Transformer, keep: tuple[Keep, ...]) -> Decision[int]:
    name, interval = "gradient_checkpointing_interval", config.gradient_checkpointing_interval
    if interval > shape.layers:
        raise ConfigError(
            f"`{name}={interval}`: there are {shape.layers} blocks",
            hint="gradient_checkpointing=false checkpoints none",
        )
    checkpointed = sum(what != "everything" for what in keep)
    if not checkpointed:
        return Decision(interval, config.source(name), "no block is checkpointed")
    why = f"{checkpointed} of {shape.layers} blocks are recomputed"
    return Decision(interval, config.source(name), why)


def _offload(inputs: RunInputs, need: MemoryEstimate) -> Decision[Literal["none", "text_encoders"]]:
    """Where the text encoders run while captions are encoded. They are gone before training."""
    most, bytes_ = inputs.room_bytes, need.text_encoders + need.workspace
    why = f"the text encoders take {gib(need.text_encoders)}"
    if most is None or bytes_ <= most:
        return Decision("none", AUTO, why)
    why = f"{why}, {inputs.room_words}"
    host = limits.host_bytes(inputs.facts)
    if host is not None and host < bytes_:
        raise PlanError(
            f"{why}, and host memory has {gib(host)}",
            hint="set text_encoder_3_precision=int8-quanto: T5 is nine tenths of it",
        )
    return Decision("text_encoders", AUTO, f"{why}: captions are encoded on the CPU, once")


def _quantised_cache(config: Config, chosen: Chosen) -> Decision[Path | None]:
    """One CPU core quantises the 8B model in one to six minutes and reads the result in seconds; an
    accelerator takes seconds for either (docs/concepts/quantisation.md)."""
    name, asked = "cache_dir_quantised", config.cache_dir_quantised
    if chosen["base_model_precision"].value == "no_change":
        return Decision(None, AUTO, "nothing is quantised")
    if asked is not None:
        folder = asked if isinstance(asked, Path) else None  # the word `none`
        return Decision(folder, config.source(name), "set in the configuration")
    if chosen["quantize_via"].value == "cpu":
        folder = config.output_dir / "cache" / "quantised"
        return Decision(folder, AUTO, f"quantising on the CPU takes minutes; `{name}=none`")
    return Decision(None, AUTO, "the accelerator quantises in seconds")
