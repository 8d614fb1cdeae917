"""Explains an out-of-memory error: what the plan had estimated, what the run was doing, and which
setting saves most.

`during` marks what the run is doing, `explained` turns any allocator's error into a HardwareError.
The step is not repeated with a smaller batch: that would be another run than the planned one. No
checkpoint is lost, since each is complete before it gets its name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sd3tune.backends.decide.rules import one_memory
from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.data.batch import Batch
from sd3tune.errors import HardwareError, Sd3tuneError
from sd3tune.plan import batch_split
from sd3tune.plan.largest_batch import largest
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.plan.plan import Plan
from sd3tune.sd3.variants import VAE_SCALE
from sd3tune.tables.schemes import SCHEMES

MARK = "while "
MOST = 4  # pieces of advice
STILL_TOO_MUCH = 0.9  # of what ran out of memory
STAGES = {
    "encoding captions": "set text_encoder_3_precision=int8-quanto, or lower "
    "text_encoder_batch_size",
    "encoding images": "lower vae_batch_size in multidatabackend.json",
    "measuring the evaluation loss": "set eval_loss_disable=true",
    "drawing pictures": "lower validation_resolution",
}


@contextmanager
def during(what: str) -> Iterator[None]:
    """Remembers what was being done when memory ran out. The innermost mark counts."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if is_out_of_memory(e) and not _mark(e):
            e.add_note(MARK + what)
        raise


def step_of(batches: Sequence[Batch]) -> str:
    """ "a step on 4 images of 1024x768": what `during` should say of the loop."""
    height, width = batches[0].latents.shape[-2:]
    images = max(len(batch.ids) for batch in batches)
    size = f"{width * VAE_SCALE}x{height * VAE_SCALE}"
    return f"a step on {images} image{'s' if images > 1 else ''} of {size}"


@contextmanager
def explained(plan: Plan) -> Iterator[None]:
    """Raises HardwareError in the place of any allocator's error."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        raise explain_out_of_memory(plan, _mark(e)) from e


def explain_out_of_memory(plan: Plan, doing: str) -> Sd3tuneError:
    """The plan's numbers and the batch in the message; in the hint what saves most, by the
    arithmetic that made the plan. doing: "a step on 4 images of 1024x1024", or one of STAGES."""
    device, memory = plan.hardware.device, plan.memory
    room = device.room_bytes
    has = f"has {gib(room)}" if room is not None else "hides how much it has"
    has = f"had {device.free.replace(' are free', '')} free at the start" if device.free else has
    words = [
        f"out of memory{f' while {doing}' if doing in STAGES else f' in {doing}' if doing else ''}",
        f"the plan estimated {gib(memory.estimate.training)} for training at batch size "
        f"{memory.load.batch} with {plan.precision.transformer.value} weights, "
        f"{device.name} {has}",
    ]
    advice = STAGES.get(doing) or "; ".join(_advice(plan))
    hint = advice or "train a smaller model, or on a device with more memory"
    return HardwareError(
        "; ".join(words),
        hint=f"{hint}. Checkpoints are whole: the same command continues from the newest",
    )


def _advice(plan: Plan) -> Iterator[str]:
    """The batch that should fit, then what saves most."""
    if plan.memory.load.batch > 1:
        most = "largest" if plan.memory.load.sharded else "least"
        yield f"{_fewer_images(plan)[0]} is the {most} that should fit"
    yield from (f"{what} saves {gib(n)}" for n, what in savings(plan))


def savings(plan: Plan) -> list[tuple[int, str]]:
    """(bytes saved, setting), the largest first; only settings that are possible here and not in
    use."""
    load, now = plan.memory.load, plan.memory.estimate.training
    saved = [
        (now - estimate(plan.model, changed).training, what)
        for what, changed in _changes(plan, load).items()
    ]
    return sorted((pair for pair in saved if pair[0] > 0), reverse=True)[:MOST]


def smaller_batch(plan: Plan) -> int:
    """The largest batch that should fit: by the estimate, where it says that the planned one does
    not. Otherwise the estimate was too low or others use the device, and a tenth less is tried."""
    device, load, now = plan.hardware.device, plan.memory.load, plan.memory.estimate.training
    room = device.usable_bytes or device.total_bytes or now
    limit = room if now > room else int(now * STILL_TOO_MUCH)
    fits = largest(plan.facts, plan.model, replace(load, batch=load.batch - 1), limit)
    return max(1, fits)


def _fewer_images(plan: Plan) -> tuple[str, Load]:
    """The setting that computes as many images at once as should fit, and its load: the batch in
    parts, or a smaller one where batches must stay whole."""
    load, smaller = plan.memory.load, smaller_batch(plan)
    if load.sharded:
        return f"train_batch_size={smaller}", replace(load, batch=smaller)
    batch = batch_split.whole(load, plan.data.accumulation.value)
    parts = -(-batch.batch // smaller)
    return f"batch_split={parts}", batch_split.in_parts(batch, parts)


def _changes(plan: Plan, load: Load) -> dict[str, Load]:
    changes = {"three quarters of the resolution": replace(load, tokens=load.tokens * 9 // 16)}
    if load.batch > 1:
        setting, fewer = _fewer_images(plan)
        changes[setting] = fewer
    if load.interval == 0:
        changes["gradient_checkpointing=true"] = replace(load, interval=1, keep=())
    elif load.interval > 1:
        changes["gradient_checkpointing_interval=1"] = replace(load, interval=1, keep=())
    elif set(load.keep) - {"inputs"}:
        changes["gradient_checkpointing_keep=inputs"] = replace(load, keep=())
    if load.scores:
        changes["attention_mechanism=sliced"] = replace(load, scores=False, slices=True)
    precision = plan.precision.transformer
    refused = {r.name for r in precision.rejected}
    current = SCHEMES[precision.value].stored_bytes or float("inf")
    for scheme in SCHEMES.rows:
        size = scheme.stored_bytes
        if scheme.auto and size is not None and scheme.name not in refused and size < current:
            changes[f"base_model_precision={scheme.name}"] = replace(load, precision=scheme.name)
            break
    if one_memory(plan.facts) is None:
        if load.interval and not load.inputs_on_host:
            changes["gradient_checkpointing_backend=unsloth"] = replace(load, inputs_on_host=True)
        if plan.memory.modulations.value == "device" and not load.full and not load.sharded:
            changes["modulations=streamed"] = replace(load, modulations_off=True)
        if load.interval == 1 and not load.full and not load.sharded:
            layers = plan.model.transformer.layers
            if load.swapped < layers // 2:
                changes[f"blocks_to_swap={layers // 2}"] = replace(load, swapped=layers // 2)
    return changes


def _mark(error: BaseException) -> str:
    notes = [n for n in getattr(error, "__notes__", ()) if n.startswith(MARK)]
    return notes[0].removeprefix(MARK) if notes else ""
