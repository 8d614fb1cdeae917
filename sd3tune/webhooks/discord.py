"""Events as messages in a channel of Discord, in the form of its webhook API.

Limits of that API: 2,000 characters of text, 10 files of 8 MiB together (10 for most channels), 10
embeds of 6,000 characters together. Pictures that wait together go into one message. A preview
takes the place of the one before it in the same message, so that twenty of them are not twenty
messages. Nobody is mentioned, whatever a prompt holds.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

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
)
from sd3tune.webhooks import posting, severity
from sd3tune.webhooks.outbox import Parcel
from sd3tune.webhooks.posting import HttpRequest, Policy, ReceiverRefused
from sd3tune.webhooks.raw import images

TEXT, FILES, FILES_BYTES = 2000, 10, 8 * 2**20
BYTES_PER_PIXEL = 2  # of a picture as PNG, about
TITLE, DESCRIPTION = 150, 400  # characters of an embed: ten of them stay below 6,000
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class Attached:
    """A file of a message, and what is written beside it."""

    name: str
    data: bytes
    title: str
    description: str


@dataclass
class DiscordReceiver:
    """Writes into the channel of a webhook."""

    webhook: Webhook
    policy: Policy
    interval: int  # steps between reports of progress, with log_level=debug
    _drawing: dict[tuple[Any, ...], str] = field(default_factory=dict)  # preview -> its message

    @property
    def origin(self) -> str:
        """Of the address, for messages."""
        return self.webhook.origin

    def wants(self, event: Event) -> bool:
        """By log_level, and of the steps each so many."""
        if isinstance(event, StepTaken) and event.step % self.interval:
            return False
        return severity.wanted(severity.on_discord(event), self.webhook.log_level)

    def together(self, taken: Sequence[Parcel], other: Parcel) -> bool:
        """Pictures of one step are one message, as far as they fit."""
        events = [parcel.event for parcel in (*taken, other)]
        pictures = [event for event in events if isinstance(event, PictureDrawn)]
        return (
            len(pictures) == len(events) <= FILES
            and len({event.step for event in pictures}) == 1
            and sum(BYTES_PER_PIXEL * e.size[0] * e.size[1] for e in pictures) <= FILES_BYTES
        )

    def deliver(self, parcels: Sequence[Parcel]) -> None:
        """Raises Busy, ReceiverRefused or Failed."""
        events = [parcel.event for parcel in parcels]
        files = fitting(file for event in events for file in attached(event))
        body = message(text(events), files, self.webhook.message_prefix)
        drawing = _drawn(events[0])
        if (known := self._drawing.get(drawing)) and self._replaced(known, body, files):
            return
        request = HttpRequest(*multipart(body, files))
        answer = posting.send(_address(self.webhook.url), request, self.policy)
        if drawing:
            self._drawing = {drawing: _id(answer)}  # only one is drawn at a time

    def _replaced(self, known: str, body: dict[str, Any], files: Sequence[Attached]) -> bool:
        """Whether the message of that id was there to be changed."""
        request = HttpRequest(*multipart(body, files), method="PATCH")
        try:
            posting.send(_address(self.webhook.url, known), request, self.policy)
        except ReceiverRefused:  # somebody deleted it
            return False
        return True


def text(events: Sequence[Event]) -> str:
    """The message in words. events: one, or the pictures of one step."""
    match events[0]:
        case RunStarted(step, steps, name):
            return f"**{name}** " + (
                f"continues at step {step}" if step else f"begins: {steps} steps"
            )
        case RunEnded() as ended:
            return severity.ending(ended).capitalize()
        case StepTaken(step, numbers):
            return f"Step {step}: {severity.counted(numbers)}"
        case Evaluated(step, dataset, loss):
            return f"Step {step}: evaluation loss {loss:.4g} of {dataset}"
        case Scored(step, scores):
            return f"Step {step}: {severity.counted(scores)}"
        case PreviewDrawn() as preview:
            return (
                f"Drawing `{preview.shortname}`, {preview.sampling_step}/{preview.sampling_steps}"
            )
        case PictureDrawn(step):
            return f"Step {step}: {len(events)} picture{'s' * (len(events) != 1)}"
        case SheetDrawn(step, _, kind):
            return f"Step {step}: {kind.replace('_', ' and ')}"
        case CheckpointSaved(_, path):
            return f"{path.name} is saved"
        case MessageSaid(_, level, words):
            return words if level == "info" else f"{level.capitalize()}: {words}"


def attached(event: Event) -> Iterator[Attached]:
    """The pictures of an event."""
    for data in images(event):
        match event:
            case PreviewDrawn() as e:
                yield Attached("preview.png", data, e.shortname, e.prompt)
            case PictureDrawn() as e:
                title = f"{e.shortname} {e.size[0]}x{e.size[1]}, seed {e.seed}"
                yield Attached(f"picture{e.path.suffix}", data, title, e.prompt)
            case SheetDrawn() as e:
                yield Attached(f"{e.kind}{e.path.suffix}", data, e.path.name, "")


def fitting(files: Iterable[Attached]) -> list[Attached]:
    """The files without those that would make the message too large."""
    kept: list[Attached] = []
    left = FILES_BYTES
    for file in files:
        if len(file.data) <= left:
            kept.append(file)
            left -= len(file.data)
    return kept


def message(words: str, files: Sequence[Attached], prefix: str) -> dict[str, Any]:
    """The JSON of a message with these files."""
    content = f"{prefix} {words}" if prefix else words
    embeds = [
        {
            "title": cut(file.title, TITLE),
            "description": cut(file.description, DESCRIPTION),
            "image": {"url": f"attachment://{number}-{file.name}"},
        }
        for number, file in enumerate(files)
    ]
    return {
        "content": cut(content, TEXT),
        "embeds": embeds,
        "attachments": [
            {"id": number, "filename": f"{number}-{file.name}"} for number, file in enumerate(files)
        ],
        "allowed_mentions": {"parse": []},
    }


def multipart(body: dict[str, Any], files: Sequence[Attached]) -> tuple[bytes, str]:
    """The body of the request and its content type: JSON, or multipart/form-data with files."""
    plain = json.dumps(body).encode()
    if not files:
        return plain, "application/json"
    boundary = uuid4().hex
    parts = [("payload_json", "", "application/json", plain)]
    for number, file in enumerate(files):
        kind = TYPES.get(Path(file.name).suffix.lower(), "application/octet-stream")
        name = f'; filename="{number}-{file.name}"'
        parts.append((f"files[{number}]", name, kind, file.data))
    whole = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{name}\r\n'
        f"Content-Type: {kind}\r\n\r\n".encode()
        + data
        + b"\r\n"
        for field, name, kind, data in parts
    )
    return whole + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def cut(words: str, most: int) -> str:
    """Text of at most so many characters, as Discord counts them."""
    units = words.encode("utf-16-le")
    if len(units) <= 2 * most:
        return words
    return units[: 2 * (most - 1)].decode("utf-16-le", "ignore") + "…"


def _drawn(event: Event) -> tuple[Any, ...]:
    """Of which picture a preview is; () for other events."""
    if not isinstance(event, PreviewDrawn):
        return ()
    return event.step, event.shortname, event.size, event.index


def _address(url: str, message: str = "") -> str:
    """With wait=true, so that Discord answers with the message and its errors."""
    parts = urlsplit(url)
    query = urlencode({**dict(parse_qsl(parts.query)), "wait": "true"})
    path = parts.path.rstrip("/") + (f"/messages/{message}" if message else "")
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _id(answer: bytes) -> str:
    """The id of the message that was written; empty where the answer has none."""
    try:
        found = json.loads(answer)
    except ValueError:
        return ""
    written = str(found.get("id", "")) if isinstance(found, dict) else ""
    return written if written.isdecimal() else ""
