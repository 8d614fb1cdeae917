"""Events as JSON for a program of the user: SimpleTuner's types of messages, and ours beside them.

docs/reference/webhooks.md documents the form, tests/schemas/webhook.json checks it. A field that
goes or changes its meaning raises VERSION.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config.settings.webhooks import Webhook
from sd3tune.report.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    MessageSaid,
    PictureDrawn,
    PreviewDrawn,
    RunEnded,
    RunStarted,
    Scored,
    SheetDrawn,
    StepTaken,
    as_json,
)
from sd3tune.webhooks import posting, severity
from sd3tune.webhooks.outbox import Parcel
from sd3tune.webhooks.posting import HttpRequest, Policy

VERSION = 1
PICTURE_KINDS = {"base": "base_model", "during": "checkpoint", "end": "final"}
ENDED = {"finished": "completed", "stopped": "stopped", "failed": "failed"}


@dataclass
class RawReceiver:
    """POSTs each event as JSON, one after the other, in their order."""

    webhook: Webhook
    policy: Policy
    interval: int  # steps between reports of progress
    job_id = ""  # of the run whose events are sent

    @property
    def origin(self) -> str:
        """Of the address, for messages."""
        return self.webhook.origin

    def wants(self, event: Event) -> bool:
        """By log_level, and of the steps each so many."""
        if isinstance(event, StepTaken) and event.step % self.interval:
            return False
        return severity.wanted(severity.of(event), self.webhook.log_level)

    def together(self, taken: Sequence[Parcel], other: Parcel) -> bool:
        """Each event is a request of its own."""
        return False

    def deliver(self, parcels: Sequence[Parcel]) -> None:
        """Raises Busy, ReceiverRefused or Failed."""
        (parcel,) = parcels
        if isinstance(parcel.event, RunStarted):
            self.job_id = parcel.event.run or parcel.event.name
        body = json.dumps(payload(parcel, self.job_id, self.webhook.message_prefix))
        request = HttpRequest(body.encode(), "application/json", keys(self.webhook))
        posting.send(self.webhook.url, request, self.policy)


def keys(webhook: Webhook) -> dict[str, str]:
    """The headers that let us in."""
    headers = {}
    if webhook.auth_token is not None:
        headers["X-API-Key"] = webhook.auth_token.get_secret_value()
    if webhook.bearer_token is not None:
        headers["Authorization"] = f"Bearer {webhook.bearer_token.get_secret_value()}"
    return headers


def payload(parcel: Parcel, job_id: str, prefix: str = "") -> dict[str, Any]:
    """JSON-ready: what SimpleTuner's receivers read, with `version`, and the event itself as
    `event`. Images are base64."""
    event = parcel.event
    kind, text, data = _message(event)
    message = f"{prefix} {text}" if prefix else text
    return {
        "version": VERSION,
        "type": kind,
        "title": text,
        "message": message,
        "body": str(data.get("prompt", "")),
        "data": data,
        "job_id": job_id,
        "severity": severity.of(event),
        "timestamp": parcel.at.isoformat(),
        "images": [b64encode(image).decode() for image in images(event)],
        "event": as_json(event),
    }


def images(event: Event) -> list[bytes]:
    """The encoded pictures of an event; without those that are gone from the disk."""
    if isinstance(event, PreviewDrawn):
        return [event.png]
    if isinstance(event, PictureDrawn | SheetDrawn):
        return [data] if (data := read(event.path)) is not None else []
    return []


def read(path: Path) -> bytes | None:
    """A file; None where it cannot be read (any more)."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _message(event: Event) -> tuple[str, str, dict[str, Any]]:
    """SimpleTuner's type, a sentence, and the numbers."""
    match event:
        case PreviewDrawn() | PictureDrawn() | SheetDrawn():
            return "validation.image", *_picture(event)
        case RunStarted(step, steps, name):
            text = f"{name} continues at step {step}" if step else f"{name} begins"
            return "lifecycle.stage", text, _stage("running", step, steps)
        case RunEnded(step, outcome, reason):
            kind = "error" if outcome == "failed" else "lifecycle.stage"
            return kind, severity.ending(event), _stage(ENDED[outcome], step) | {"reason": reason}
        case CheckpointSaved(step, path, which):
            data = {"step": step, "name": path.name, "kind": which}
            return "training.checkpoint", f"{path.name} is saved", data
        case MessageSaid(step, level, text):
            return "error" if level == "error" else "notification", text, {"step": step}
    return "training.status", *_numbers(event)


def _numbers(event: StepTaken | Evaluated | Scored) -> tuple[str, dict[str, Any]]:
    match event:
        case StepTaken(step):
            numbers = {k: v for k, v in as_json(event)["numbers"].items() if v is not None}
            return f"step {step}: {severity.counted(numbers)}", {"step": step, **numbers}
        case Evaluated(step, dataset, loss):
            data = {"step": step, f"loss/val/{dataset}": as_json(event)["loss"]}
            return f"step {step}: evaluation loss {loss:.4g} of {dataset}", data
        case Scored(step, scores):
            data = {"step": step, **as_json(event)["scores"]}
            return f"step {step}: {severity.counted(scores)}", data


def _picture(event: PreviewDrawn | PictureDrawn | SheetDrawn) -> tuple[str, dict[str, Any]]:
    match event:
        case PreviewDrawn():
            label = f"{event.sampling_step}/{event.sampling_steps}"
            return f"Validation (step {label}): {event.shortname}", {
                "step": event.sampling_step,
                "timestep": event.timestep,
                "resolution": list(event.size),
                "validation_type": "checkpoint",
                "prompt": event.prompt,
                "step_label": label,
                "training_step": event.step,
            }
        case PictureDrawn():
            return f"Validation: {event.shortname}, step {event.step}", {
                "step": event.step,
                "resolution": list(event.size),
                "validation_type": PICTURE_KINDS[event.kind],
                "prompt": event.prompt,
                "seed": event.seed,
                "file": event.path.name,
            }
        case SheetDrawn(step, path, kind):
            data = {"step": step, "validation_type": kind, "file": path.name}
            return f"Validation: {kind.replace('_', ' and ')}, step {step}", data


def _stage(status: str, step: int, steps: int | None = None) -> dict[str, Any]:
    of = {} if steps is None else {"total": steps}
    return {"stage": "training", "status": status, "current": step, **of}
