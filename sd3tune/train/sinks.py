"""The stream of a run's events: which sinks it has, its first and last event, and its messages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sd3tune.config.secret_values import SecretValues
from sd3tune.errors import Sd3tuneError
from sd3tune.plan.describe import describe
from sd3tune.plan.plan import Plan
from sd3tune.prepare import Prepared
from sd3tune.processes.world import World
from sd3tune.report import event_lines
from sd3tune.report.events import MessageSaid, RunEnded, RunStarted
from sd3tune.report.message_events import Level, emitted
from sd3tune.report.stream import Sink, Stream, streaming
from sd3tune.train.conclusion import checkpoint_uploads
from sd3tune.train.state import TrainState
from sd3tune.train.tracking import tracker_sinks
from sd3tune.webhooks.webhook_sink import WebhookSink


def sinks_of(prepared: Prepared) -> list[Sink]:
    """What the plan has for trackers, webhooks and files of events, ready to receive."""
    plan = prepared.plan
    file = event_lines.EventLines(plan.output_dir / event_lines.FILE)
    webhooks: list[Sink] = [WebhookSink.of(plan.webhooks)] if plan.webhooks.webhooks else []
    return [file, *webhooks, *tracker_sinks(prepared), *checkpoint_uploads(plan)]


@contextmanager
def event_stream(prepared: Prepared, world: World, state: TrainState) -> Iterator[Stream]:
    """The stream of a run; only process 0 has sinks. An error that ends the block is its last
    event."""
    secrets = SecretValues.of(os.environ)
    with (
        streaming(sinks_of(prepared) if world.main else (), secrets.text) as stream,
        emitted(partial(_message, stream, state, secrets)),
    ):
        stream.emit(started(prepared.plan, state, secrets))
        try:
            yield stream
        except BaseException as error:
            reason = str(error) if isinstance(error, Sd3tuneError) else type(error).__name__
            stream.emit(RunEnded(state.step, "failed", secrets.text(reason)))
            raise


def _message(
    stream: Stream, state: TrainState, secrets: SecretValues, level: Level, text: str
) -> None:
    stream.emit(MessageSaid(state.step, level, secrets.text(text)))


def started(plan: Plan, state: TrainState, secrets: SecretValues) -> RunStarted:
    """The first event of a run, or of a part of it that continues from a checkpoint."""
    described = describe(plan)
    settings = described.pop("config")
    return RunStarted(
        step=state.step,
        steps=plan.steps,
        name=plan.reporting.run_name,
        output_dir=plan.output_dir,
        settings=secrets.settings(settings),
        plan=secrets.data(described),
        run=run_id(state),
    )


def run_id(state: TrainState) -> str:
    """Of this run and no other, the same after it is resumed. A run that went back to an earlier
    checkpoint is another one from there on: it repeats steps with other results."""
    lineage = state.lineage
    return lineage.run if lineage.named is None else f"{lineage.run}-{lineage.named.manifest[:8]}"
