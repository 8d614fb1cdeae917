"""What the blocks of a run keep for the backward pass: as set, or the quickest that fits."""

from dataclasses import replace

from sd3tune.backends.decide import speeds
from sd3tune.backends.decide.speeds import Speed
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import AUTO, Decision
from sd3tune.errors import PlanError
from sd3tune.plan.block_keeping import Keep, at_interval, fastest, mixed, summary
from sd3tune.plan.duration import step_seconds
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load, estimate, gib

NAME = "gradient_checkpointing_keep"
FILLED = 0.92  # of the device's room: the rest is for what an estimate does not see
# Where the device's speed is unknown, only relations count: a card with 16-bit matrix units.
NOMINAL = Speed(
    matmul=4e14, attention=1.5e14, memory=2e12, launch_seconds=1e-5, link=2e10, error=1.0,
    source="nominal",
)  # fmt: skip


def keep_choice(inputs: RunInputs, load: Load) -> Decision[tuple[Keep, ...]]:
    """Raises PlanError where what the user set cannot be kept. load: of one step, with its
    compiler, batch size and precision decided."""
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
    return _chosen(inputs, load, attention=never is None)


def without_outputs(facts: Facts, load: Load) -> str | None:
    """Why the outputs of attention cannot be kept; None where they can."""
    if load.scores:
        return "attention that writes out its scores has no small output to keep"
    if load.compiled:
        return "compiled blocks are computed again as they are"
    return "FSDP gathers the weights of whole blocks" if load.sharded else None


def left_alone(inputs: RunInputs, load: Load) -> str | None:
    """Why nothing beyond the inputs is kept where the user left it open."""
    if load.interval > 1:
        return "gradient_checkpointing_interval says which blocks are computed again"
    if load.inputs_on_host:
        return "gradient_checkpointing_backend=unsloth saves memory"
    if inputs.facts.vendor == "mps":
        return "a Mac's memory is shared with everything else"
    return "the device hides its memory" if inputs.room_bytes is None else None


def _chosen(inputs: RunInputs, load: Load, *, attention: bool) -> Decision[tuple[Keep, ...]]:
    """The quickest that fits. Blocks keep everything only where the user did not ask for
    checkpointing, and swapped blocks never do."""
    shape, room = inputs.model.transformer, inputs.room_bytes or 0
    speed = speeds.speed(inputs.facts) or NOMINAL

    def fits(changed: Load) -> bool:
        return _need(inputs, changed) <= FILLED * room

    def seconds(changed: Load) -> float:
        return step_seconds(shape, changed, speed)

    asked = inputs.config.source("gradient_checkpointing").by == "user"
    everything = not (asked or load.swapped or load.sharded)
    keep = fastest(shape.layers, load, fits, seconds, attention=attention, everything=everything)
    chosen, least = replace(load, keep=keep), replace(load, keep=mixed(shape.layers, 0, 0))
    if chosen == least:
        return Decision(keep, AUTO, f"more would not fit {gib(room)} with room to spare")
    gain = 1 - seconds(chosen) / seconds(least)
    why = (
        f"{summary(keep)}: {gib(_need(inputs, chosen))} of {gib(room)}, and steps take "
        f"about {gain:.0%} less time than with the inputs alone ({gib(_need(inputs, least))})"
    )
    return Decision(keep, AUTO, why)


def _need(inputs: RunInputs, load: Load) -> int:
    return estimate(inputs.model, load).training
