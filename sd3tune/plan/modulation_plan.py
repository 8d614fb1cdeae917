"""Where the modulations of the blocks are computed, and so where the AdaLN weights live: a third of
SD3.5 large. `sd3tune/modulations.py` does it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from sd3tune.backends.decide.rules import one_memory
from sd3tune.backends.observe.facts import Device
from sd3tune.decision import AUTO, Decision
from sd3tune.errors import PlanError
from sd3tune.plan import lycoris_size
from sd3tune.plan.host_memory import UNTESTED
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import BYTES, Load, estimate, gib
from sd3tune.sd3.linears import Linear, is_modulating
from sd3tune.sd3.variants import Model
from sd3tune.tables.buses import HOST_BYTES_PER_CORE, bus_bytes_per_second

ModulationPlace: TypeAlias = Literal["device", "streamed", "host"]
NAME = "modulations"
ROOMY = 0.9  # of the device's memory: a run that needs less keeps everything on the device


def why_on_device(inputs: RunInputs) -> str | None:
    """Why the AdaLN weights of this run must stay on the device; None: they may leave it."""
    c = inputs.config
    if c.model_type == "full":
        return "model_type=full trains the AdaLN layers"
    if c.fsdp_enable:
        return "fsdp_enable=true moves the weights of each block itself"
    trained = next((x.name for x in _adapted(inputs) if is_modulating(x.name)), None)
    if trained is not None:
        return f"the adapter trains `{trained}`"
    shared = one_memory(inputs.facts)
    return shared if inputs.facts.accelerated else None


def _adapted(inputs: RunInputs) -> Sequence[Linear]:
    from sd3tune.plan.trainable import LORA_TARGETS

    shape, c = inputs.model.transformer, inputs.config
    if inputs.lycoris is not None:
        return [linear for linear, _ in lycoris_size.matched(shape, inputs.lycoris).values()]
    return shape.targeted(tuple(c.peft_lora_target_modules or LORA_TARGETS))


def may_leave(inputs: RunInputs) -> bool:
    """Whether memory is judged with AdaLN weights in host memory. What the user set holds; left
    open, they leave a card where that makes room."""
    asked = inputs.config.modulations
    if asked == "auto":
        return inputs.facts.accelerated and why_on_device(inputs) is None
    return asked != "device" and one_memory(inputs.facts) is None


def modulation_decision(
    inputs: RunInputs, load: Load, *, pinned: bool
) -> Decision[ModulationPlace]:
    """load: of the run with its precision and batch. pinned: host memory is pinned. Raises
    PlanError."""
    asked, why = inputs.config.modulations, why_on_device(inputs)
    source = inputs.config.source(NAME)
    if asked == "auto":
        return _chosen(inputs, load, why, pinned=pinned)
    if asked == "device":
        return Decision("device", source, "the AdaLN weights stay on the device")
    if why is not None:
        raise PlanError(
            f"`{NAME}={asked}` is not possible: {why}", hint=f"leave `{NAME}` out, or write device"
        )
    if (shared := one_memory(inputs.facts)) is not None:
        return Decision(asked, source, f"{shared}: nothing is gained")
    return Decision(asked, source, f"the AdaLN weights stay in host memory; {UNTESTED}")


def _chosen(
    inputs: RunInputs, load: Load, why: str | None, *, pinned: bool
) -> Decision[ModulationPlace]:
    """What `fastest` chose with the other settings of memory."""
    room = inputs.room_bytes
    why = why or one_memory(inputs.facts)
    if why is not None or room is None:
        return Decision("device", AUTO, why or "the device's memory is unknown")
    if not load.modulations_off:
        stay = estimate(inputs.model, load).training
        fits = f"the run needs {gib(stay)} with the AdaLN weights, {inputs.room_words}"
        return Decision("device", AUTO, fits)
    device, words = inputs.facts.tightest, inputs.room_words
    return off_device(inputs.model, load, device, words, pinned=pinned)


def off_device(
    model: Model, load: Load, device: Device, room_words: str, *, pinned: bool
) -> Decision[ModulationPlace]:
    """In the way that is cheaper, for a card that cannot hold the AdaLN weights as well."""
    stay = estimate(model, replace(load, modulations_off=False)).training
    leave = estimate(model, replace(load, modulations_off=True)).training
    held = model.transformer.modulating * BYTES[load.base_dtype]
    over_bus = held / bus_bytes_per_second(device.arch.name, device.name)
    on_host = held / HOST_BYTES_PER_CORE
    place: ModulationPlace = "streamed" if pinned or over_bus < on_host / 4 else "host"
    seconds = f"{over_bus:.2f} s over the bus a step, {on_host:.1f} s on a core of the host"
    saved = f"the run needs {gib(leave)} instead of {gib(stay)}, {room_words}"
    why = f"{saved}; {gib(held)} of AdaLN weights take {seconds}; {UNTESTED}"
    return Decision(place, AUTO, why)
