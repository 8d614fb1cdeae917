"""The sinks of a run's trackers, each behind a queue."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sd3tune.plan.plan import Plan
from sd3tune.prepare import Prepared
from sd3tune.report import metrics
from sd3tune.report.events import RunStarted
from sd3tune.report.queued_sink import QueuedSink
from sd3tune.report.stream import Sink
from sd3tune.report.tracker_sink import TAKES, Backend, TrackedRun, TrackerSink
from sd3tune.tables.table import load
from sd3tune.tables.trackers import TRACKERS, Tracker

QUEUED_EVENTS = 10_000  # while a library is imported and its server answers


def tracker_sinks(prepared: Prepared) -> list[Sink]:
    """One for each tracker of the plan. Nothing of their libraries is imported here."""
    plan = prepared.plan
    return [
        QueuedSink(
            name,
            partial(
                TrackerSink,
                name,
                partial(opened, plan, TRACKERS[name]),
                epoch_of(prepared),
                plan.output_dir / metrics.FILE,
            ),
            TAKES,
            size=QUEUED_EVENTS,
        )
        for name in plan.reporting.trackers.value
    ]


def opened(plan: Plan, row: Tracker, event: RunStarted) -> Backend:
    """The tracker's run. Raises what its library raises."""
    reporting = plan.reporting
    mode = reporting.wandb_mode
    run = TrackedRun(
        project=reporting.project,
        name=event.name,
        id=event.run,
        step=event.step,
        folder=reporting.folder,
        layout=reporting.layout,
        online=mode is not None and mode.value == "online",
        settings=event.settings,
    )
    backend: Backend = load(row.open)(run)
    return backend


def epoch_of(prepared: Prepared) -> Callable[[int], int]:
    """The epoch, from 1, that holds the last batch of a step. It has a schedule of its own, which
    remembers what it has computed: training uses the other one in another thread."""
    schedule, per_step = replace(prepared.schedule), prepared.plan.batches_per_step
    return lambda step: schedule.begin(max(0, step * per_step - 1))[0] + 1
