"""Webhooks of runs on other machines, kept as folders that look like a run's own: metrics.jsonl,
events.jsonl, pictures. docs/guides/watch.md says how to send them.

Who has the token may still send anything. Names of files are made here, images are kept only if
they begin as images, and what a run may send is bounded. No address in a message is ever opened.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sd3tune.data.run_folders import BASE_PICTURES, PICTURES, PREVIEWS
from sd3tune.filesystem import drafts
from sd3tune.live.bounded import bounded, step, text
from sd3tune.live.gallery import NAME
from sd3tune.live.run_events import FILE as EVENTS
from sd3tune.live.run_list import RunList
from sd3tune.live.tail import JsonObject, json_object
from sd3tune.report.metrics import FILE as METRICS

MAX_BODY_BYTES = 48 * 2**20
MAX_RUN_BYTES = 4 * 2**30  # of all that one run sent since this server began
BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}
OTHERS = re.compile(r"[^A-Za-z0-9._-]+")  # characters that no name of a file gets
LEVELS = {"critical": "error", "error": "error", "warning": "warning"}


class NotKept(Exception):
    """A message that is not kept, with the status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RunReceiver:
    """Keeps what is sent. folder: holds a folder for each run."""

    def __init__(self, folder: Path, runs: RunList) -> None:
        self.route = Route("/receive", self.answer, methods=["POST"])
        self._folder, self._runs = folder, runs
        self._known: dict[str, ReceivedRun] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for each in sorted(folder.iterdir()):
            if (each / EVENTS).is_file() and runs.add(each):
                self._known[each.name] = ReceivedRun(each)

    async def answer(self, request: Request) -> Response:
        """Takes one message."""
        try:
            body = await whole(request)
            await asyncio.to_thread(self.take, body)
        except NotKept as e:
            return JSONResponse({"error": str(e)}, e.status)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as e:
            return JSONResponse({"error": f"it cannot be kept: {e.strerror}"}, 507)
        return Response(status_code=204)

    def take(self, body: bytes) -> None:
        """Keeps one message. Raises NotKept and OSError."""
        message = parsed(body)
        event = event_of(message)
        with self._lock:
            run = self._run(text(message.get("job_id"), 500))
            run.keep(event, images_of(message), len(body))

    def _run(self, job: str) -> "ReceivedRun":
        name = folder_name(job)
        if name not in self._known:
            folder = self._folder / name
            if not self._runs.add(folder):
                raise NotKept(507, "this page shows as many runs as it can")
            self._known[name] = ReceivedRun(folder)
        return self._known[name]


class ReceivedRun:
    """The folder of one run that is received."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._bytes = folder, 0

    def keep(self, event: JsonObject, images: list[tuple[bytes, str]], size: int) -> None:
        """Writes an event and its images. size: bytes of the message. Raises NotKept, OSError."""
        if self._bytes + size > MAX_RUN_BYTES:
            raise NotKept(507, f"this run has sent {MAX_RUN_BYTES // 2**30} GiB already")
        self._bytes += size
        self._folder.mkdir(parents=True, exist_ok=True)
        match event["event"]:
            case "step":
                numbers = event.get("numbers")
                numbers = numbers if isinstance(numbers, dict) else {}
                self._append(METRICS, {**numbers, "step": event["step"]})
                return
            case "run.started":
                self._cut(event["step"])
            case "preview" | "picture" | "sheet" if images:
                event["path"] = self._write_image(event, *images[0])
        self._append(EVENTS, {"time": round(time.time(), 3), **event})

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _cut(self, at: int) -> None:
        """Leaves out the rows after step `at`: the run repeats them."""
        path = self._folder / METRICS
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if ((json_object(line) or {}).get("step") or 0) <= at]
            if len(kept) < len(lines):
                drafts.write(path, b"".join(kept))

    def _write_image(self, event: JsonObject, image: bytes, kind: str) -> str:
        """Returns its path below the folder of the run."""
        sent = text(event.get("path")).replace("\\", "/").rpartition("/")[2]
        if event["event"] == "preview":
            path = (
                f"{PREVIEWS}/{safe(text(event.get('shortname'), 60))}_{event.get('index')}.{kind}"
            )
        elif event.get("kind") == "base":
            path = f"{BASE_PICTURES}/{safe(sent)}"
        else:
            weights = safe(text(event.get("weights"), 60))
            folder = f"{PICTURES}/{weights}" if text(event.get("weights")) else PICTURES
            path = f"{folder}/{safe(sent)}"
        if event["event"] == "picture" and not NAME.fullmatch(safe(sent)):
            raise NotKept(422, "the picture has not the name of a validation picture")
        drafts.write(self._folder / path, image)
        return path


async def whole(request: Request) -> bytes:
    """The body of a request. Raises NotKept where it is too long."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise NotKept(413, f"a message has {MAX_BODY_BYTES // 2**20} MiB at most")
    return bytes(body)


def parsed(body: bytes) -> JsonObject:
    """The message. Raises NotKept."""
    try:
        message = json.loads(body, parse_constant=lambda word: None)
    except (ValueError, RecursionError):
        raise NotKept(400, "the message is not JSON") from None
    if not isinstance(message, dict):
        raise NotKept(400, "the message is not a JSON object")
    return message


def event_of(message: JsonObject) -> JsonObject:
    """The event that a message holds; of another program's message, its sentence. Raises
    NotKept."""
    event = message.get("event")
    if not isinstance(event, dict):
        said = text(message.get("message")) or text(message.get("title"))
        data = message.get("data")
        numbers = data if isinstance(data, dict) else {}
        at = step(numbers.get("step")) or step(numbers.get("current")) or 0
        level = LEVELS.get(text(message.get("severity"), 20), "info")
        event = {"event": "message", "step": at, "level": level, "text": said}
    kept: JsonObject = bounded(event)
    if not isinstance(kept.get("event"), str) or step(kept.get("step")) is None:
        raise NotKept(422, "the message holds no event of a run")
    return kept


def images_of(message: JsonObject) -> list[tuple[bytes, str]]:
    """Each image with the ending of its kind. Raises NotKept for what is not an image."""
    found: list[tuple[bytes, str]] = []
    sent = message.get("images")
    for encoded in sent[:10] if isinstance(sent, list) else ():
        try:
            image = base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise NotKept(422, "an image is not base64") from None
        kind = next((kind for head, kind in BEGINNINGS.items() if image.startswith(head)), None)
        if kind is None:
            raise NotKept(422, "an image is neither PNG nor JPEG nor WebP")
        found.append((image, kind))
    return found


def safe(name: str) -> str:
    """A name of a file without folders: not hidden, not empty, 150 characters at most."""
    return OTHERS.sub("_", name)[-150:].lstrip(".") or "_"


def folder_name(job: str) -> str:
    """The folder of a run: its name, as far as a file may have it, and a digest of the whole."""
    digest = hashlib.sha256(job.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{safe(job)[:60]}-{digest}"
