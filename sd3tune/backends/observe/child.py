"""Runs an observer in a child process with a time limit: a driver that hangs, prints, crashes or
raises becomes data.

The answer travels through a file, since vendor libraries print to stdout. Nothing here imports
torch or a vendor library; the child does. Only the functions in OBSERVERS can be run.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sd3tune import start
from sd3tune.errors import HardwareError
from sd3tune.filesystem import drafts
from sd3tune.filesystem.temporary import private_folder

OBSERVERS = {  # name -> module:function, called with the words that follow
    "nvidia": "sd3tune.backends.cuda:observe",
    "amd": "sd3tune.backends.rocm:observe",
    "apple": "sd3tune.backends.mps:observe",
    "torch": "sd3tune.backends.observe.torch_report:observe",
    "torch-details": "sd3tune.backends.observe.torch_report:details",
    "probes": "sd3tune.backends.kernels.smoke:observe",
    "quant": "sd3tune.quant.linear_probes:observe",
    "imports": "sd3tune.backends.observe.imports:observe",
}


# Children must number the cards as cuda.prepare() will in this process.
ENVIRONMENT = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
COMMAND = start.command("sd3tune.backends.observe.child")


@dataclass(frozen=True)
class Answer:
    """`data` as the observer returned it, or `error`: one sentence on what happened instead."""

    data: dict[str, Any] | None = None
    error: str | None = None


def ask(
    name: str,
    words: Sequence[str] = (),
    *,
    timeout_seconds: float,
    command: Sequence[str] = COMMAND,
) -> Answer:
    """Runs an observer in a child. Never raises; the child and everything it started are gone when
    this returns. command: starts the child, and gets the path of the answer, name and words."""
    try:
        with private_folder("probe") as folder:
            line = [*command, str(folder / "answer.json"), name, *words]
            return _asked(folder / "answer.json", line, timeout_seconds)
    except HardwareError as e:
        return Answer(error=str(e))


def _asked(path: Path, command: Sequence[str], timeout_seconds: float) -> Answer:
    with subprocess.Popen(
        command,
        env=ENVIRONMENT | start.environment(os.environ) | {"TMPDIR": str(path.parents[1])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            _, said = child.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return Answer(error=f"no answer in {timeout_seconds:g} s")
        finally:
            _end(child)
    return _read(path, child.returncode, said)


def _read(path: Path, status: int, said: str) -> Answer:
    if status < 0:
        return Answer(error=f"killed by {signal.Signals(-status).name}")
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return Answer(error=lines[-1] if lines else f"exit code {status} and no answer")
    return Answer(data=data) if isinstance(data, dict) else Answer(error="an answer of no shape")


def _end(child: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stderr is not None:
        child.stderr.close()  # `communicate` leaves it open at the limit


def main() -> None:
    path, name, *words = sys.argv[1:]
    module, function = OBSERVERS[name].split(":")
    answer = getattr(import_module(module), function)(*words)
    drafts.write(Path(path), json.dumps(answer).encode())


if __name__ == "__main__":
    main()
