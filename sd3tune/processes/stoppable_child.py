"""One command as a child that stops when this process is told to.

The child has a process group of its own, so that Ctrl-C in a terminal reaches it once, from here: a
second signal would end it without saving.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from sd3tune import start
from sd3tune.processes.environment import LAUNCHER

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Children:
    """Runs one child after the other. stopped_by: the first signal that this process got."""

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, words: Sequence[str], environ: dict[str, str]) -> int:
        """Runs `sd3tune WORDS`; returns its exit code, 128 + n where signal n killed it. environ:
        variables beside this process's own. The child ends when this process is killed."""
        command = start.command(start.PACKAGE, *words)
        own = start.environment(os.environ) | {LAUNCHER: str(os.getpid())} | environ
        sys.stdout.flush()
        with subprocess.Popen(command, env=own, process_group=0) as self._running:
            code = self._running.wait()
        self._running = None
        return code if code >= 0 else 128 - code

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """Within it, signals to stop go to the child that runs. A SIGHUP that `nohup` had ignored
        stays ignored."""
        caught = [
            number
            for number in PASSED_ON
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = {number: signal.signal(number, self._pass_on) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        if self._running is not None and self._running.poll() is None:
            self._running.send_signal(number)
