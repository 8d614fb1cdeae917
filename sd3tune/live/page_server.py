"""The server of the page: the runs as server-sent events, their pictures and checkpoints as files,
and the button that stops a run."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sd3tune.live import downloads, run_process
from sd3tune.live.gallery import media_type
from sd3tune.live.gate import Gate, GateKeeper, cookie_name, sent_token
from sd3tune.live.run_list import RunList
from sd3tune.live.run_reader import RunReader

ASSETS = Path(__file__).parent / "assets"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
LOOK_EVERY_SECONDS = 0.7
MAX_VIEWERS = 40  # streams at once
MAX_IMAGE_BYTES = 128 * 2**20


class PageServer:
    """The answers, as methods. `app` is what an ASGI server runs."""

    def __init__(self, runs: RunList, gate: Gate, extra: Sequence[Route] = ()) -> None:
        self._runs, self._gate = runs, gate
        self._viewers, self._receives, self._ended = 0, bool(extra), False
        self._assets = {path.name: path.read_bytes() for path in ASSETS.iterdir()}
        self.app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/assets/{name}", self.asset),
                Route("/enter", self.enter, methods=["POST"]),
                Route("/hello", self.hello),
                Route("/live", self.live),
                Route("/runs/{run}/image/{path:path}", self.image),
                Route("/runs/{run}/file/{path:path}", self.file),
                Route("/runs/{run}/zip/{name}", self.zip),
                Route("/runs/{run}/stop", self.stop, methods=["POST"]),
                *extra,
            ],
            middleware=[Middleware(GateKeeper, gate=gate)],
        )

    async def page(self, request: Request) -> Response:
        """The page itself; nothing of a run is in it."""
        return Response(self._assets["index.html"], media_type="text/html; charset=utf-8")

    async def asset(self, request: Request) -> Response:
        """A script or style of the page."""
        name = request.path_params["name"]
        if name not in self._assets:
            return refused(404, "the page has no such file")
        kind = f"{TYPES.get(Path(name).suffix, 'text/plain')}; charset=utf-8"
        return Response(self._assets[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    async def enter(self, request: Request) -> Response:
        """Exchanges the token for a cookie."""
        token = sent_token(request)
        if not self._gate.knows_token(token):
            return refused(401, "that is not the token of this server")
        answer = Response(status_code=204)
        answer.set_cookie(
            cookie_name(request), token or "", httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    async def hello(self, request: Request) -> Response:
        """What this browser may do."""
        may_stop = self._gate.knows_token(request.cookies.get(cookie_name(request)))
        return JSONResponse({"may_stop": may_stop, "receives": self._receives})

    async def live(self, request: Request) -> Response:
        """All runs, and then whatever changes, as server-sent events."""
        if self._viewers >= MAX_VIEWERS:
            return refused(503, f"{MAX_VIEWERS} pages are open already")
        return EventSourceResponse(self._changes(), ping=10, send_timeout=30)

    async def image(self, request: Request) -> Response:
        """A picture of a run."""
        run, path = self._run(request), request.path_params["path"]
        kind = media_type(path)
        if run is None or kind is None:
            return refused(404, "the run has no such picture")
        try:
            data = await asyncio.to_thread(run.folder.read, path, MAX_IMAGE_BYTES)
        except (OSError, ValueError):
            return refused(404, "the run has no such picture")
        headers = {"Content-Security-Policy": "default-src 'none'; sandbox"}
        if "v" in request.query_params:  # another version of the file has another address
            headers["Cache-Control"] = "private, max-age=86400, immutable"
        return Response(data, media_type=kind, headers=headers)

    async def file(self, request: Request) -> Response:
        """A file of a checkpoint, or a result."""
        run, path = self._run(request), request.path_params["path"]
        if run is None or not await asyncio.to_thread(downloads.may_download, run.folder, path):
            return refused(404, "the run has no such file to download")
        return await _download(downloads.pieces(run.folder, path), path.rpartition("/")[2])

    async def zip(self, request: Request) -> Response:
        """A whole checkpoint."""
        run, name = self._run(request), request.path_params["name"].removesuffix(".zip")
        listed = await asyncio.to_thread(downloads.checkpoints, run.folder) if run else []
        checkpoint = next((each for each in listed if each["name"] == name), None)
        if run is None or checkpoint is None:
            return refused(404, "the run has no such checkpoint")
        return await _download(downloads.zipped(run.folder, checkpoint), f"{name}.zip")

    async def stop(self, request: Request) -> Response:
        """Tells a run to finish its step, save and end."""
        run = self._run(request)
        if run is None:
            return refused(404, "there is no such run")
        if reason := await asyncio.to_thread(run_process.stop, run.folder):
            return refused(409, reason)
        return JSONResponse({"stopping": True}, 202)

    def end(self) -> None:
        """Ends the streams of events, which would keep the server from ending."""
        self._ended = True

    def _run(self, request: Request) -> RunReader | None:
        return self._runs.get(request.path_params["run"])

    async def _changes(self) -> AsyncIterator[ServerSentEvent]:
        self._viewers += 1
        sent = Sent()
        try:
            while not self._ended:
                for key, run in self._runs.items():
                    await asyncio.to_thread(run.refresh)
                    for name, data in sent.news(key, run):
                        yield ServerSentEvent(data=data, event=name)
                        await asyncio.sleep(0)
                yield ServerSentEvent(data="{}", event="pause")
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        finally:
            self._viewers -= 1


class Sent:
    """What one viewer has: the next messages are what it lacks."""

    def __init__(self) -> None:
        self._sections: dict[tuple[str, str], str] = {}
        self._rows: dict[str, tuple[int, int]] = {}  # generation, rows

    def news(self, key: str, run: RunReader) -> Iterator[tuple[str, str]]:
        """Name and JSON of each message about a run that has been refreshed."""
        for name, value in run.sections.items():
            text = json.dumps({"run": key, "name": name, "value": value}, allow_nan=False)
            if self._sections.get((key, name)) != text:
                self._sections[key, name] = text
                yield "section", text
        curves = run.curves
        generation, rows = self._rows.get(key, (-1, 0))
        if generation != curves.generation:
            rows = 0
        while rows < len(curves) or generation != curves.generation:
            block = curves.block(rows)
            rows, generation = rows + block["rows"], curves.generation
            self._rows[key] = (generation, rows)
            yield "curves", json.dumps({"run": key, **block}, allow_nan=False)


def refused(status: int, reason: str) -> Response:
    """An answer that says why, for people and for the page's script."""
    return JSONResponse({"error": reason}, status)


async def _download(pieces: Iterator[bytes], name: str) -> Response:
    try:
        first = await asyncio.to_thread(next, pieces, b"")
    except OSError:
        return refused(404, "the file is gone")

    def whole() -> Iterator[bytes]:
        yield first
        yield from pieces

    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    headers: dict[str, Any] = {
        "Content-Disposition": f'attachment; filename="{safe}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return StreamingResponse(whole(), media_type="application/octet-stream", headers=headers)
