"""The stream of a run's events: which sinks it has, its first and last event, and its messages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sd3tune.config.secret_values import SecretValues
from sd3tune.errors import Sd3tuneError
from sd3tune.plan.describe import describe
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report import event_lines
from sd3tune.report.events import MessageSaid, RunEnded, RunStarted
from sd3tune.report.message_events import Level, emitted
from sd3tune.report.stream import Sink, Stream, streaming
from sd3tune.train.state import TrainState
from sd3tune.webhooks.webhook_sink import WebhookSink


def sinks_of(plan: Plan) -> list[Sink]:
    """What the plan has for trackers, webhooks and files of events, ready to receive."""
    lines = event_lines.EventLines(plan.output_dir / event_lines.FILE)
    webhooks = [WebhookSink.of(plan.webhooks)] if plan.webhooks.webhooks else []
    return [lines, *webhooks]


@contextmanager
def told(plan: Plan, world: World, state: TrainState) -> Iterator[Stream]:
    """The stream of a run; only process 0 has sinks. An error that ends the block is its last
    event."""
    secrets = SecretValues.of(os.environ)
    with streaming(sinks_of(plan) if world.main else ()) as stream:

        def message(level: Level, text: str) -> None:
            stream.emit(MessageSaid(state.step, level, secrets.text(text)))

        with emitted(message):
            stream.emit(started(plan, state, secrets))
            try:
                yield stream
            except BaseException as error:
                reason = str(error) if isinstance(error, Sd3tuneError) else type(error).__name__
                stream.emit(RunEnded(state.step, "failed", secrets.text(reason)))
                raise


def started(plan: Plan, state: TrainState, secrets: SecretValues) -> RunStarted:
    """The first event of a run, or of a part of it that continues from a checkpoint."""
    described = describe(plan)
    settings = described.pop("config")
    return RunStarted(
        step=state.step,
        steps=plan.steps,
        name=plan.result.title,
        output_dir=plan.output_dir,
        settings=secrets.settings(settings),
        plan=secrets.data(described),
        run=state.lineage.run,
    )
