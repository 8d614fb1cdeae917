"""What a plan amounts to, in a terminal: data, pictures, memory, disk and downloads. A figure a
line, with its remark beside it or below it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd3tune.cli.words import Line
    from sd3tune.plan.overview import DatasetSize, Overview
    from sd3tune.plan.picture_plan import PicturePlan
    from sd3tune.plan.plan import Plan

NAMES, AMOUNTS = 24, 10  # characters of the two columns


def data(seen: "Overview", steps: int) -> "list[Line]":
    """Each dataset, and how long an epoch is."""
    shown: list[Line] = ["data"]
    shown += [f"  {d.id}: {_dataset(d)}" for d in seen.datasets]
    epochs = f"{seen.epochs:.2f}".rstrip("0").rstrip(".")
    shown.append(_row("steps per epoch", str(seen.steps_per_epoch)))
    shown.append(_row("epochs", epochs, f"in {steps} steps"))
    if seen.repeated:
        drawn = sum(d.batches * d.batch_size for d in seen.datasets)
        note = f"of {drawn} images of an epoch; each time with other noise"
        shown.append(_row("again in the same step", str(seen.repeated), note))
    return shown


def _dataset(d: "DatasetSize") -> str:
    parts = [_counted(d.images, "image"), _counted(d.captions, "caption")]
    if d.drawn > d.images:
        parts[0] += f", {d.drawn} with repeats"
    parts.append(_counted(d.buckets, "bucket"))
    if d.batches:
        of = "batch" if d.batches == 1 else "batches"
        parts.append(f"{d.batches} {of} of {d.batch_size}")
    kind = "" if d.kind == "image" else f"{d.kind}, "
    return kind + ", ".join(parts)


def pictures(seen: "Overview", how: "PicturePlan") -> "list[Line]":
    """How many, and when; nothing without a prompt."""
    count = seen.pictures
    if not count.at_once:
        return ["pictures", _row("none", "", "no validation prompt is set")]
    sizes = ", ".join(f"{w}x{h}" for w, h in how.sizes)
    prompts = _counted(count.prompts, "prompt")
    shown: list[Line] = ["pictures", _row("at the end", str(count.at_once), f"{prompts}, {sizes}")]
    if count.during:
        every = f", every {count.every_steps} steps" if count.every_steps else ""
        when = f"{_counted(count.during, 'time')}{every}"
        shown.append(_row("during training", str(count.during * count.at_once), when))
    if count.base_model:
        note = "once, before the first step"
        shown.append(
            _row("of the base model", str(count.prompts * len(how.sizes) * how.per_prompt), note)
        )
    return shown


def evaluation(seen: "Overview", plan: "Plan") -> "list[Line]":
    """When the evaluation loss is measured, on which images, and what that costs; and what scores
    pictures."""
    count = seen.evaluation
    whose = "training images: no eval dataset" if count.trained_on else "images never trained on"
    shown: list[Line] = ["evaluation loss"]
    shown.append(_row("before and after", str(count.before_and_after), whose))
    if (during := count.during) is not None:
        every = [f"{during.every_steps} steps"] if during.every_steps else []
        every += [f"{during.every_epochs:g} epochs"] if during.every_epochs else []
        when = f"times, every {' and every '.join(every)}, the first and the last step included"
        shown.append(_row("during training", str(during.times), when))
        images = ", ".join(f"{n} of {name}" for name, n in during.images.items())
        images += ", trained on too" if during.trained_on else ""
        cost = f"images x levels each time ({images}): about {during.share:.1%} of training"
        shown.append(_row("passes", str(during.passes), cost))
        if during.best_checkpoint:
            shown.append(_row("best checkpoint", "kept", "the one with the lowest loss"))
        if during.patience is not None:
            after = f"{_counted(during.patience, 'evaluation')} without a lower loss"
            shown.append(_row("training ends after", "", after))
    if plan.score is not None:
        shown.append(_row("score of pictures", "clip", plan.score.model))
    return shown


STAGES = {
    "start": "starting",
    "captions": "encoding captions",
    "latents": "encoding images",
    "weights": "reading weights",
    "steps": "steps",
    "evaluation": "evaluation",
    "pictures": "pictures",
    "checkpoints": "checkpoints",
}
SHORTEST = 0.01  # share of the run from which on a stage has a line


def time(seen: "Overview", price: float | None = None) -> "list[Line]":
    """Seconds of a step and the time of each stage; with a price of an hour, the cost."""
    if seen.time is None:
        return ["time", _row("unknown", "", "nothing is known of this device's speed")]
    from sd3tune.plan.duration import clock

    step, total = seen.time.step, seen.time.total
    shown: list[Line] = ["time, estimated"]
    shown.append(
        _row("a step", clock(step.seconds), f"within {step.error:.0%}: {seen.time.source}")
    )
    for name, seconds in seen.time.stages.items():
        if seconds >= SHORTEST * total.seconds:
            shown.append(_row(STAGES[name], clock(seconds)))
    shown.append(_row("total", clock(total.seconds), "of a first run, which finds no cache"))
    if price is not None:
        shown.append(_row("cost", f"{seen.time.cost(price):.2f}", f"at {price:g} an hour"))
    return shown


def memory(plan: "Plan", seen: "Overview") -> "list[Line]":
    """The device's memory while training and in the other stages, and the host's."""
    from sd3tune.plan.memory import gib

    available = seen.host_available_bytes
    has = "of unknown" if available is None else f"of {gib(available)}"
    host = _row("host memory, estimated", gib(seen.host_bytes), has)
    return [*device_memory(plan), "", *stage_memory(plan, seen), host]


def device_memory(plan: "Plan") -> "list[Line]":
    """What training takes of the device's memory, beside what the device has."""
    from sd3tune.plan.memory import gib

    m, device = plan.memory.estimate, plan.facts.tightest
    room = device.room_bytes
    parts = {
        "weights": m.weights,
        "adapter": m.adapter,
        "gradients": m.gradients,
        "optimizer": m.optimizer,
        "activations, estimated": m.activations,
        "workspace, estimated": m.workspace,
    }
    shown: list[Line] = ["memory while training"]
    shown += [_row(name, gib(amount)) for name, amount in parts.items()]
    has = device.free or (f"of {gib(room)}" if room is not None else "of unknown")
    return [*shown, _row("total", gib(m.training), has)]


def stage_memory(plan: "Plan", seen: "Overview") -> "list[Line]":
    """The peak of each stage by the formula and, where it was counted, under fake tensors."""
    from sd3tune.counted.counting import kept
    from sd3tune.plan.memory import gib
    from sd3tune.plan.stage_loads import CAPTIONS

    shape, workspace = plan.model.transformer, plan.memory.estimate.workspace
    largest = max(seen.stages, key=lambda stage: stage.by_formula)
    shown: list[Line] = ["peak of each stage, estimated"]
    if all(stage.name != CAPTIONS for stage in seen.stages):
        shown.append(_row(CAPTIONS, "0 KiB", "encoded in host memory"))
    for stage in seen.stages:
        counted = kept(shape, stage.load)
        notes = [] if counted is None else [f"{gib(counted + workspace)} counted"]
        notes += [stage.about, "the largest" if stage is largest else ""]
        shown.append(_row(stage.name, gib(stage.by_formula), ", ".join(filter(None, notes))))
    return shown


def disk(seen: "Overview") -> "list[Line]":
    """What is written, and what is downloaded."""
    from sd3tune.plan.memory import gib

    need, kept = seen.disk, _counted(seen.disk.kept, "checkpoint")
    shown: list[Line] = ["disk, estimated"]
    parts = {
        "latents": (need.latents, ""),
        "captions": (need.captions, ""),
        "quantised weights": (need.quantised, ""),
        "checkpoints": (need.checkpoints, kept),
        "result": (need.result, ""),
    }
    shown += [_row(name, gib(size), note) for name, (size, note) in parts.items() if size]
    free = "" if seen.free_bytes is None else f"of {gib(seen.free_bytes)} free at output_dir"
    shown.append(_row("total", gib(need.total), free))
    download = seen.download_bytes
    note = "about, into the hub's cache" if download else "the model is on this disk"
    return [*shown, _row("download", gib(download) if download else "none", note)]


def _row(name: str, amount: str, note: str = "") -> str:
    return f"  {name:<{NAMES}}{amount:>{AMOUNTS}}  {note}".rstrip()


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + "s" * (count != 1)
