"""What the blocks of a run keep for the backward pass: what the user set, and what may be chosen.
plan/fastest.py chooses."""

from collections.abc import Callable, Iterator

from sd3tune.backends.decide.rules import one_memory
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import AUTO, Decision
from sd3tune.errors import PlanError
from sd3tune.plan.block_keeping import Keep, at_interval, choices, mixed
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load

NAME = "gradient_checkpointing_keep"
INPUTS_STAY = "compiled blocks that keep outputs of attention keep their inputs on the device"


def settled(inputs: RunInputs, load: Load) -> Decision[tuple[Keep, ...]] | None:
    """What the user set, or what the device leaves no choice for; None: it is open. Raises
    PlanError where what the user set cannot be kept. load: of one step, with its compiler, batch
    size and precision decided."""
    c, layers = inputs.config, inputs.model.transformer.layers
    plain, source = at_interval(layers, load.interval), c.source(NAME)
    if not load.interval:
        return Decision(plain, c.source("gradient_checkpointing"), "nothing is computed again")
    never = without_outputs(inputs.facts, load)
    if c.gradient_checkpointing_keep == "attention":
        if never is not None:
            raise PlanError(f"`{NAME}=attention`: {never}", hint=f"leave `{NAME}` out")
        keep = tuple[Keep, ...]("attention" if what == "inputs" else what for what in plain)
        return Decision(keep, source, "set in the configuration")
    if c.gradient_checkpointing_keep == "inputs":
        return Decision(plain, source, "set in the configuration")
    if (why := left_alone(inputs, load)) is not None:
        return Decision(plain, AUTO, why)
    return None


def without_outputs(facts: Facts, load: Load) -> str | None:
    """Why the outputs of attention cannot be kept; None where they can."""
    if load.scores:
        return "attention that writes out its scores has no small output to keep"
    if load.compiled and load.swapped:
        return "compiled blocks that keep outputs of attention would keep swapped weights as well"
    if load.compiled and load.inputs_on_host:
        return INPUTS_STAY
    return "FSDP gathers the weights of whole blocks" if load.sharded else None


def left_alone(inputs: RunInputs, load: Load) -> str | None:
    """Why nothing beyond the inputs is kept where the user left it open."""
    if load.interval > 1:
        return "gradient_checkpointing_interval says which blocks are computed again"
    if load.inputs_on_host:
        return "gradient_checkpointing_backend=unsloth saves memory"
    if inputs.facts.accelerated and (shared := one_memory(inputs.facts)) is not None:
        return shared
    return "the device hides its memory" if inputs.room_bytes is None else None


def open_choices(inputs: RunInputs, load: Load, fits: Callable[[Load], bool]) -> Iterator[Load]:
    """The load with each choice that may be the quickest of those that fit. Blocks keep everything
    only where the user did not ask for checkpointing, and swapped blocks never do."""
    yield from choices(
        inputs.model.transformer.layers,
        load,
        fits,
        attention=without_outputs(inputs.facts, load) is None,
        everything=may_keep_everything(inputs, load),
    )


def may_keep_everything(inputs: RunInputs, load: Load) -> bool:
    """Whether blocks may keep everything, where there is room."""
    asked = inputs.config.source("gradient_checkpointing").by == "user"
    return not (asked or load.swapped or load.sharded)


def most_kept(inputs: RunInputs, load: Load) -> tuple[Keep, ...]:
    """As much as the blocks may keep, with room for it: no choice is faster."""
    layers = inputs.model.transformer.layers
    if (decided := settled(inputs, load)) is not None:
        return decided.value
    if may_keep_everything(inputs, load):
        return mixed(layers, layers, 0)
    return mixed(layers, 0, layers if without_outputs(inputs.facts, load) is None else 0)
