"""Runs an observer in a child process with a time limit: a driver that hangs, prints, crashes or
raises becomes data.

The answer travels through a file, since vendor libraries print to stdout. Nothing here imports
torch or a vendor library; the child does. Only the functions in OBSERVERS can be run.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sd3tune import start
from sd3tune.backends.observe import now_running, system
from sd3tune.errors import HardwareError
from sd3tune.filesystem import drafts
from sd3tune.filesystem.temporary import PREFIX, private_folder

OBSERVERS = {  # name -> module:function, called with the words that follow
    "source": "sd3tune.backends.observe.card_sources:observe",
    "torch": "sd3tune.backends.observe.torch_report:observe",
    "torch-details": "sd3tune.backends.observe.torch_report:details",
    "probes": "sd3tune.backends.kernels.smoke:observe",
    "hidden": "sd3tune.backends.kernels.hidden:observe",
    "quant": "sd3tune.quant.linear_probes:observe",
    "count": "sd3tune.counted.observer:observe",
    "imports": "sd3tune.backends.observe.imports:observe",
}


# Children must number the cards as cuda.prepare() will in this process.
ENVIRONMENT = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
COMMAND = start.command("sd3tune.backends.observe.child")
LOOK_SECONDS = 0.2  # between looks at `stop`
MOST_CHARACTERS = 300  # of a library's last words
STOPPED = "it was stopped before it answered"


@dataclass(frozen=True)
class Answer:
    """`data` as the observer returned it, or `error`: one sentence on what happened instead.
    hung: there was no end to it; crashed: a signal ended the child."""

    data: dict[str, Any] | None = None
    error: str | None = None
    hung: bool = False
    crashed: bool = False


def ask(
    name: str,
    words: Sequence[str] = (),
    *,
    timeout_seconds: float,
    command: Sequence[str] = COMMAND,
    stop: threading.Event | None = None,
    now: Callable[[str], None] = lambda name: None,
) -> Answer:
    """Runs an observer in a child. Never raises; the child and everything it started are gone when
    this returns. command: starts the child, and gets the path of the answer, name and words. stop:
    set by another thread, ends the child before its time. now: gets the name of what the child is
    busy with (now_running.py)."""
    try:
        with private_folder("probe") as folder:
            line = [*command, str(folder / "answer.json"), name, *words]
            running = folder / "running"

            def look() -> None:
                if part := now_running.read(running):
                    now(part)

            limits = Limits(timeout_seconds, stop or threading.Event(), look)
            return _asked(folder / "answer.json", line, limits)
    except HardwareError as e:
        return Answer(error=str(e))


@dataclass(frozen=True)
class Limits:
    """How long a child may run. look: called now and then while it does."""

    seconds: float
    stop: threading.Event
    look: Callable[[], None]


def _asked(path: Path, command: Sequence[str], limits: Limits) -> Answer:
    if limits.stop.is_set():
        return Answer(error=STOPPED)
    lifeline, held = os.pipe()  # the child ends when nobody holds the other end: see main()
    try:
        with subprocess.Popen(
            command,
            env=ENVIRONMENT
            | start.environment(os.environ)
            | {"TMPDIR": str(path.parents[1]), now_running.VARIABLE: str(path.parent / "running")},
            stdin=lifeline,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as child:
            try:
                said = _said(child, limits)
            finally:
                _end(child)
    except subprocess.TimeoutExpired:
        part = now_running.read(path.parent / "running")
        busy = f", busy with {part}" if part else ""
        return Answer(error=f"no answer in {limits.seconds:g} s{busy}", hung=True)
    finally:
        os.close(lifeline)
        os.close(held)
    return Answer(error=STOPPED) if said is None else _read(path, child.returncode, said)


def _said(child: "subprocess.Popen[str]", limits: Limits) -> str | None:
    """What the child wrote to stderr until its end; None when it was stopped before. Raises
    TimeoutExpired."""
    end = time.monotonic() + limits.seconds
    while not limits.stop.is_set():
        left = end - time.monotonic()
        limits.look()
        try:
            return child.communicate(timeout=min(max(left, 0.0), LOOK_SECONDS))[1]
        except subprocess.TimeoutExpired:
            if left <= LOOK_SECONDS:
                raise
    return None


def _read(path: Path, status: int, said: str) -> Answer:
    if status < 0:
        return Answer(error=f"killed by {system.signal_name(-status)}", crashed=True)
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1][:MOST_CHARACTERS] if lines else f"exit code {status} and no answer"
        return Answer(error=last)
    return Answer(data=data) if isinstance(data, dict) else Answer(error="an answer of no shape")


def _end(child: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stderr is not None:
        child.stderr.close()  # `communicate` leaves it open at the limit


def _end_with_parent(folder: Path) -> None:
    """Ends this child and all it started when the parent is gone, killed or not, and removes the
    folder of the answer, which nobody will read. The parent holds the other end of stdin and never
    writes."""
    os.read(0, 1)
    if folder.name.startswith(f"{PREFIX}probe-"):
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    if stat.S_ISFIFO(os.fstat(0).st_mode) and os.getpgrp() == os.getpid():  # started by ask()
        folder = Path(sys.argv[1]).parent
        threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    path, name, *words = sys.argv[1:]
    module, function = OBSERVERS[name].split(":")
    answer = getattr(import_module(module), function)(*words)
    drafts.write(Path(path), json.dumps(answer).encode())


if __name__ == "__main__":
    main()
