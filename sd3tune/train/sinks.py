"""The stream of a run's events: which sinks it has, and its first and last event."""

from collections.abc import Iterator
from contextlib import contextmanager

from sd3tune.errors import Sd3tuneError
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report.events import RunEnded
from sd3tune.report.stream import Sink, Stream, streaming
from sd3tune.train.conclusion import checkpoint_uploads
from sd3tune.train.state import TrainState


def sinks_of(plan: Plan) -> list[Sink]:
    """What the plan has for trackers, webhooks and files of events, ready to receive."""
    return [*checkpoint_uploads(plan)]


@contextmanager
def told(plan: Plan, world: World, state: TrainState) -> Iterator[Stream]:
    """The stream of a run; only process 0 has sinks. An error that ends the block is its last
    event."""
    with streaming(sinks_of(plan) if world.main else ()) as stream:
        try:
            yield stream
        except BaseException as error:
            reason = str(error) if isinstance(error, Sd3tuneError) else type(error).__name__
            stream.emit(RunEnded(state.step, "failed", reason))
            raise
