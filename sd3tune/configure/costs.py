"""What an answer takes on this machine, as the interview shows it. Figures are the planner's."""

from sd3tune.configure.draft import PlannedDraft
from sd3tune.plan.duration import spoken
from sd3tune.plan.memory import gib

UNITS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))
ESTIMATED = (
    "Memory and time are estimates. The time is of the whole run, from the rates of this machine "
    "or from data sheets; compared with one H200 and one CPU, and untested on other hardware."
)
NO_RATE = (
    "How fast this device computes is unknown: answers show the operations of the run instead of "
    "its time (1 EFLOP = 1000 PFLOP = 1000000 TFLOP)."
)


def cost(draft: PlannedDraft) -> str:
    """Memory while training, and the time of all steps."""
    plan = draft.prepared.plan
    room = plan.facts.tightest.room_bytes
    of = "" if room is None else f" of {gib(room)}"
    return f"memory {gib(plan.memory.estimate.training)}{of}, {time(draft)}"


def time(draft: PlannedDraft) -> str:
    """The range of the whole run's time. Without a rate: the operations, to compare answers."""
    if draft.duration is not None:
        return f"time {spoken(draft.duration)}"
    size, unit = next((u for u in UNITS if draft.operations >= u[0]), UNITS[-1])
    return f"{draft.operations / size:.1f} {unit}"


def picture_cost(draft: PlannedDraft) -> str:
    """How often pictures are drawn, and how long that takes in steps."""
    plan, count = draft.prepared.plan, draft.overview.pictures
    if not count.at_once:
        return "no pictures are drawn"
    when = plan.pictures.times.every_steps
    every = f"every {when.value} steps, " if when.value else ""
    return f"{count.at_once} pictures at a time, {every}{when.reason}"


def disk_cost(draft: PlannedDraft) -> str:
    """What is written, and what the disk has."""
    seen = draft.overview
    free = "" if seen.free_bytes is None else f" of {gib(seen.free_bytes)} that are free"
    kept = f"{seen.disk.kept} checkpoint" + "s" * (seen.disk.kept != 1)
    return f"about {gib(seen.disk.total)}{free}: latents, captions, {kept}, the result"
