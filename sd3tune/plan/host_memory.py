"""What may wait in host memory where the user left it open: the frozen weights of blocks
(`blocks_to_swap`) and the inputs of checkpointed blocks (`gradient_checkpointing_backend`).

plan/fastest.py chooses. Quantisation is decided before, without swapped blocks, so that weights
leave the device only where no quantisation makes room, or the user set one.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from sd3tune.backends.decide import limits
from sd3tune.backends.decide.rules import one_memory
from sd3tune.decision import AUTO, Decision
from sd3tune.errors import ConfigError, PlanError
from sd3tune.plan.block_keeping import mixed
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.keep_choice import most_kept
from sd3tune.plan.memory import Load, gib, stored

SWAP, INPUTS = "blocks_to_swap", "gradient_checkpointing_backend"
HOST_SHARE = 0.8  # of the host's memory: what swapped blocks may take of it
UNTESTED = "untested on hardware"
Fits = Callable[[Load], bool]


def apart(inputs: RunInputs, load: Load) -> bool:
    """The device has memory of its own, of a known size, and every block is checkpointed."""
    facts = inputs.facts
    known = inputs.room_bytes is not None
    return known and facts.accelerated and one_memory(facts) is None and load.interval == 1


def may_swap(inputs: RunInputs, load: Load) -> bool:
    """Whether frozen weights may leave the device without being asked."""
    c = inputs.config
    if c.blocks_to_swap is not None or load.full or c.fsdp_enable:
        return False
    if load.compiled and c.gradient_checkpointing_keep == "attention":
        return False
    return apart(inputs, load) and _host_holds(inputs, load)


def _host_holds(inputs: RunInputs, load: Load) -> bool:
    """All blocks, in pinned host memory that other programs cannot have; a host of unknown size
    does."""
    shape, host = inputs.model.transformer, limits.host_bytes(inputs.facts)
    weights = stored(shape.parameters, shape.quantisable, load.base_dtype, load.precision)
    return host is None or weights * inputs.processes.size <= HOST_SHARE * host


def inputs_may_wait(inputs: RunInputs, load: Load) -> bool:
    """Whether inputs of checkpointed blocks may leave the device without being asked."""
    c = inputs.config
    if c.gradient_checkpointing_backend is not None or c.fsdp_enable:
        return False
    return apart(inputs, load) and c.gradient_checkpointing_keep != "attention"


def all_on_host(inputs: RunInputs, load: Load) -> Load:
    """The load with everything in host memory that may be there."""
    swapped = inputs.model.transformer.layers if may_swap(inputs, load) else load.swapped
    waiting = load.inputs_on_host or inputs_may_wait(inputs, load)
    return replace(load, swapped=swapped, inputs_on_host=waiting)


def waiting_inputs(inputs: RunInputs, load: Load, fits: Fits) -> Iterator[Load]:
    """Candidates of a lever: inputs of checkpointed blocks on the device, and in host memory."""
    yield load
    if inputs_may_wait(inputs, load) and not load.inputs_on_host:
        yield replace(load, inputs_on_host=True)


def swapping(inputs: RunInputs, load: Load, fits: Fits) -> Iterator[Load]:
    """Candidates of a lever: no block swapped, as many as are needed where blocks keep their inputs
    alone, and as many as let all of them keep the outputs of attention as well."""
    yield load
    if not may_swap(inputs, load):
        return
    layers, weighed = inputs.model.transformer.layers, {0}
    for keep in dict.fromkeys((mixed(layers, 0, 0), most_kept(inputs, replace(load, swapped=1)))):
        needed = fewest(layers, lambda n, keep=keep: fits(replace(load, swapped=n, keep=keep)))  # type: ignore[misc]
        if needed not in weighed:
            weighed.add(needed)
            yield replace(load, swapped=needed)


def fewest(most: int, fits: Callable[[int], bool]) -> int:
    """The smallest number that fits; `most` where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def swap_decision(inputs: RunInputs, load: Load, reason: str) -> Decision[int]:
    """The number of swapped blocks. reason: of the choice, with its numbers. Raises ConfigError and
    PlanError where what the user set is impossible."""
    facts, layers = inputs.facts, inputs.model.transformer.layers
    asked, source = inputs.config.blocks_to_swap, inputs.config.source(SWAP)
    count = load.swapped if asked is None else asked
    if not count:
        source = AUTO if asked is None else source
        return Decision(0, source, "every block stays on the device")
    if count > layers:
        raise ConfigError(
            f"`{SWAP}={count}`: there are {layers} blocks", hint=f"use at most {layers}"
        )
    shared = one_memory(facts)
    if shared is not None and facts.accelerated:
        raise PlanError(
            f"`{SWAP}={count}` cannot run on {facts.weakest.name}: {shared}",
            hint=f"leave `{SWAP}` out; base_model_precision makes the weights smaller",
        )
    where = "block 0 lives" if count == 1 else f"blocks 0 to {count - 1} live"
    visit = "visits" if count == 1 else "visit"
    why = f"{where} in host memory and {visit} the device; {UNTESTED}"
    if asked is None:
        return Decision(count, AUTO, f"{reason}; {why}")
    return Decision(count, source, f"{why}; {shared}: nothing is gained" if shared else why)


def inputs_decision(
    inputs: RunInputs, load: Load, decided: Decision[str], reason: str
) -> Decision[str]:
    """Where the inputs of checkpointed blocks wait. decided: by the rules alone."""
    if not load.inputs_on_host or decided.value == "unsloth":
        return decided
    values = load.batch * inputs.model.transformer.hidden * inputs.model.transformer.layers
    held = gib(2 * values * load.tokens)
    return Decision("unsloth", AUTO, f"{reason}; about {held} wait in host memory; {UNTESTED}")
