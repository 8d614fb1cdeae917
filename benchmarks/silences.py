"""Silences and line widths of a command: how long it writes nothing, on a terminal and into a pipe.

    python benchmarks/silences.py .venv/bin/sd3tune train try/config/config.json max_train_steps=4

Runs the command twice: on a pseudo-terminal of 80 columns, and with stdout and stderr in a pipe.
Prints every silence above 3 seconds (--over) with the text before it, and every line that is wider
than the terminal. Work that a first run keeps (caches, probes) is not repeated by the second: give
`--only pipe` and a fresh folder to measure that one.
"""

import argparse
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field

import machine

COLUMNS = 80
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")  # CSI sequences: colours, cursor movements


@dataclass
class Listener:
    """What a command writes, with the time of every piece."""

    over: float
    started: float = field(default_factory=time.monotonic)
    text: bytes = b""
    silences: list[tuple[float, float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = self.started

    def hear(self, piece: bytes) -> None:
        """piece: new bytes; empty at the end of the output."""
        now = time.monotonic()
        if now - self._last > self.over:
            self.silences.append((self._last - self.started, now - self._last, self.last_line()))
        self._last = now
        self.text += piece

    def last_line(self) -> str:
        """The newest text that is not blank, without control sequences."""
        lines = re.split(rb"[\r\n]", CONTROL.sub(b"", self.text))
        shown = [line for line in lines if line.strip()]
        return shown[-1].decode(errors="replace").strip() if shown else "(nothing yet)"

    def wide_lines(self) -> list[str]:
        """Lines of more than COLUMNS characters; a redrawn line counts once for each drawing."""
        lines = CONTROL.sub(b"", self.text).decode(errors="replace")
        return [line for line in re.split(r"[\r\n]+", lines) if len(line) > COLUMNS]


def on_terminal(command: list[str], listener: Listener) -> int:
    """Runs the command on a pseudo-terminal. The exit code."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environ["TERM"] = "xterm"
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
    ) as process:
        os.close(slave)
        listen(master, listener)
    os.close(master)
    return process.returncode


def in_pipe(command: list[str], listener: Listener) -> int:
    """Runs the command with stdout and stderr in one pipe. The exit code."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        listen(process.stdout.fileno(), listener)
    return process.returncode


def listen(source: int, listener: Listener) -> None:
    """Until the last writer has closed its end."""
    while True:
        select.select([source], [], [])
        try:
            piece = os.read(source, 65536)
        except OSError:  # EIO: the terminal has no writer any more
            piece = b""
        listener.hear(piece)
        if not piece:
            return


def main() -> None:
    parser = machine.parser(__doc__, writes_json=False)
    parser.add_argument("--over", type=float, default=3.0, help="seconds of a silence to print")
    parser.add_argument("--only", choices=("terminal", "pipe"))
    parser.add_argument("--show", action="store_true", help="print the output too")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    for name, run in (("terminal", on_terminal), ("pipe", in_pipe)):
        if given.only not in (None, name):
            continue
        listener = Listener(given.over)
        code = run(given.command, listener)
        seconds = time.monotonic() - listener.started
        print(f"{name}: {seconds:.1f} s, exit code {code}")
        for start, length, before in listener.silences:
            print(f"  {length:5.1f} s silent from {start:.1f} s, after: {before[:100]}")
        for line in listener.wide_lines() if name == "terminal" else []:
            print(f"  {len(line)} columns: {line}")
        if given.show:
            sys.stdout.write(listener.text.decode(errors="replace"))


if __name__ == "__main__":
    main()
