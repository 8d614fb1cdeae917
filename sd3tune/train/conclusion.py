"""The last acts of a run that has ended: its model card, and with push_to_hub the upload. Whatever
fails here is said and hurts nothing: the result is on the disk.
"""

from functools import partial

from sd3tune.errors import Sd3tuneError
from sd3tune.plan.plan import Plan
from sd3tune.publish import card, publication
from sd3tune.publish.card import Ended
from sd3tune.publish.card_pictures import gallery, link
from sd3tune.publish.checkpoint_uploads import CheckpointUploads, in_background
from sd3tune.publish.login import Destination, destination
from sd3tune.report.events import MessageSaid
from sd3tune.report.progress import say, waiting, warn
from sd3tune.report.stream import Sink, Stream
from sd3tune.train.outcome import Outcome
from sd3tune.train.results import LAST


def conclude(plan: Plan, stream: Stream, outcome: Outcome) -> None:
    """Writes the card and uploads the run. Only the first process has something to do."""
    if plan.processes.main:
        _write_card(plan, outcome)
        if plan.publishing.push.value:
            _publish(plan, stream, outcome.step)


def checkpoint_uploads(plan: Plan) -> list[Sink]:
    """The sink of push_checkpoints_to_hub; none where the setting is off."""
    if not plan.publishing.checkpoints:
        return []
    earlier = publication.checkpoints_of(plan.output_dir)
    build = partial(CheckpointUploads, partial(_destination, plan), plan.output_dir, earlier)
    return [in_background(build) if plan.publishing.background else build()]


def _write_card(plan: Plan, outcome: Outcome) -> None:
    output, step = plan.output_dir, outcome.step
    ended = Ended(
        step=step,
        loss_before=outcome.loss_before,
        loss_after=outcome.loss_after,
        pictures=gallery(output, outcome.pictures, step),
        sheet=None if outcome.sheet is None else link(output, outcome.sheet),
        last=None if plan.optimizer.average is None else f"{LAST}/{plan.result.file}",
    )
    try:
        page = publication.write_card(plan, ended)
    except OSError as e:
        warn(f"the model card is not written: {e}")
        return
    if page is None:
        say(f"kept     {output / card.FILE}: it is not a model card of sd3tune")
    else:
        say(f"card     {page}")


def _publish(plan: Plan, stream: Stream, step: int) -> None:
    try:
        with waiting(f"uploading to `{plan.publishing.repository}`"):
            done = publication.publish(
                plan.output_dir, _destination(plan), checkpoints=plan.publishing.checkpoints
            )
    except (Sd3tuneError, OSError) as e:
        warn(f"not published: {e}; the same command uploads again, as `sd3tune publish` does")
        return
    say(done.sentence)
    stream.emit(MessageSaid(step, "info", done.sentence))


def _destination(plan: Plan) -> Destination:
    return destination(plan.publishing.repository, private=plan.publishing.private)
