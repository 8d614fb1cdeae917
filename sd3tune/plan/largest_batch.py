"""A batch that the user set and that does not fit the memory: refused with the one that does."""

from collections.abc import Mapping
from dataclasses import replace

from sd3tune.backends.decide.rules import one_memory
from sd3tune.backends.observe.facts import Facts
from sd3tune.errors import PlanError
from sd3tune.plan import products
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.sd3.variants import Model


def largest(facts: Facts, model: Model, load: Load, room: int) -> int:
    """Images per forward pass, at most those of the load, that fit `room` bytes and are computed
    rightly; 0 where not even one does."""
    attention = "sliced" if load.slices else "native-math" if load.scores else "diffusers"
    right = products.training(facts, model, load.tokens, load.text_tokens, attention).most
    low, high = 0, min(load.batch, right)
    while low < high:  # `low` fits, what is above `high` does not
        middle = (low + high + 1) // 2
        fits = estimate(model, replace(load, batch=middle)).training <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def refusal(inputs: RunInputs, loads: Mapping[str, Load], room: int) -> PlanError | None:
    """The error for a batch that fits with none of the quantisations that may be chosen, and of
    which a smaller one does; None for every other run.

    loads: what the run weighs as it is set, by quantisation, in the order of preference.
    """
    needs = [estimate(inputs.model, load).training for load in loads.values()]
    asked = max((load.batch for load in loads.values()), default=1)
    if asked == 1 or min(needs) <= room:
        return None
    checkpointed = {name: replace(load, interval=1) for name, load in loads.items()}
    now, then = _possible(inputs, loads, room), _possible(inputs, checkpointed, room)
    if not now and not then:
        return None
    hint = _set(now, asked, inputs, several=len(loads) > 1) if now else ""
    if any(load.interval != 1 for load in loads.values()):
        switch = "gradient_checkpointing=true"
        more = f"{switch} makes room for {max(then.values())}"
        instead = f"set {switch} and " + _set(then, asked, inputs, several=len(loads) > 1)[4:]
        hint = f"{hint}; {more}" if now else instead
    if inputs.config.batch_split is not None:
        hint += "; or leave batch_split out, and parts of a batch are computed one after another"
    if one_memory(inputs.facts) is None:
        hint += "; blocks_to_swap keeps blocks in host memory"
    return PlanError(
        f"`{_setting(inputs, asked)}={asked}` does not fit: {inputs.model.name} needs about "
        f"{gib(min(needs))} at batch size {asked}, {inputs.facts.weakest.name} has {gib(room)}",
        hint=hint,
    )


def _possible(inputs: RunInputs, loads: Mapping[str, Load], room: int) -> dict[str, int]:
    """The largest batch with each quantisation that leaves room for one image."""
    batches = {
        name: largest(inputs.facts, inputs.model, load, room) for name, load in loads.items()
    }
    return {name: batch for name, batch in batches.items() if batch}


def _set(possible: Mapping[str, int], asked: int, inputs: RunInputs, *, several: bool) -> str:
    """What to set: the largest batch, with the weights that leave room for it, and how a step
    keeps its images."""
    first, best = next(iter(possible)), max(possible, key=lambda name: possible[name])
    weights = f"{best} weights" if several else "these settings"
    if possible[best] == asked:
        return f"set train_batch_size={asked}, which fits with {weights}"
    hint = f"set train_batch_size={possible[best]}, the largest that fits with {weights}"
    if possible[first] < possible[best]:
        hint += f", or {possible[first]} with {first} weights"
    steps = inputs.config.gradient_accumulation_steps * -(-asked // possible[best])
    return f"{hint}; gradient_accumulation_steps={steps} keeps the images of a step"


def _setting(inputs: RunInputs, asked: int) -> str:
    """What set the size of the largest batch."""
    if inputs.config.train_batch_size == asked:
        return "train_batch_size"
    names = (d.id for d in inputs.datasets if d.train_batch_size == asked)
    return f"dataset `{next(names)}`: train_batch_size"
