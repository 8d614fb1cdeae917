"""The last acts of a run that has ended: its model card, and with push_to_hub the upload. Whatever
fails here is said and hurts nothing: the result is on the disk.
"""

from sd3tune.errors import Sd3tuneError
from sd3tune.plan.plan import Plan
from sd3tune.publish import publication
from sd3tune.publish.card import Ended
from sd3tune.publish.checkpoint_uploads import CheckpointUploads
from sd3tune.publish.gallery import gallery, sheet
from sd3tune.publish.login import Destination, destination
from sd3tune.publish.receipt import Receipt
from sd3tune.report.events import MessageSaid
from sd3tune.report.progress import say, waiting, warn
from sd3tune.report.stream import Stream
from sd3tune.train.outcome import Outcome
from sd3tune.train.results import LAST


def concluded(plan: Plan, stream: Stream, outcome: Outcome) -> Outcome:
    """Writes the card and uploads the run; returns the outcome as it is. Only the first process has
    something to do."""
    if plan.processes.main:
        _write_card(plan, outcome)
        if plan.publishing.push.value:
            _publish(plan, stream, outcome.step)
    return outcome


def checkpoint_uploads(plan: Plan) -> list[CheckpointUploads]:
    """The sink of push_checkpoints_to_hub; none where the setting is off or the hub is gone."""
    if not plan.publishing.checkpoints:
        return []
    try:
        to = _destination(plan)
    except Sd3tuneError as e:
        warn(f"checkpoints are uploaded when the run has ended: {e}")
        return []
    receipt = Receipt(plan.output_dir, to.address)
    earlier = publication.checkpoints_of(plan.output_dir)
    background = plan.publishing.background
    return [CheckpointUploads(to, receipt, background=background, earlier=earlier)]


def _write_card(plan: Plan, outcome: Outcome) -> None:
    output, step = plan.output_dir, outcome.step
    last = (output / LAST / plan.result.file) if plan.optimizer.average is not None else None
    ended = Ended(
        step=step,
        loss_before=outcome.loss_before,
        loss_after=outcome.loss_after,
        pictures=gallery(output, outcome.pictures, step),
        sheet=sheet(output) if outcome.pictures else None,
        last=None if last is None else last.relative_to(output).as_posix(),
    )
    try:
        page = publication.write_card(plan, ended)
    except OSError as e:
        warn(f"the model card is not written: {e}")
        return
    if page is None:
        say(f"kept     {output / 'README.md'}: it is not a model card of sd3tune")
    else:
        say(f"card     {page}")


def _publish(plan: Plan, stream: Stream, step: int) -> None:
    try:
        with waiting(f"uploading to `{plan.publishing.repository}`"):
            to = _destination(plan)
            done = publication.publish(plan.output_dir, to, checkpoints=plan.publishing.checkpoints)
    except (Sd3tuneError, OSError) as e:
        words = f"not published: {e}; the same command uploads again, as `sd3tune publish` does"
        warn(words)
        stream.emit(MessageSaid(step, "warning", words))
        return
    say(done.sentence)
    stream.emit(MessageSaid(step, "info", done.sentence))


def _destination(plan: Plan) -> Destination:
    return destination(plan.publishing.repository, private=plan.publishing.private)
