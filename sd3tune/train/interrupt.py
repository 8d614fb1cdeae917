"""Signals: the loop finishes its step, saves, and leaves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from sd3tune.processes.world import World


@dataclass
class Interrupt:
    """Set by SIGINT, SIGTERM or SIGHUP: the loop finishes its step. A second SIGINT or SIGTERM ends
    the process; a terminal that closes sends SIGHUP more than once, and that is one."""

    signal: int | None = None
    handlers: dict[int, object] = field(default_factory=dict)

    def catch(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal, as Python calls it."""
        self.signal = number
        for each, before in self.handlers.items():
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else before)  # type: ignore[arg-type]

    def agree(self, world: World) -> bool:
        """Whether any process got a signal to stop; every process gets the same answer."""
        self.signal = world.largest(self.signal or 0) or None
        return self.signal is not None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catches signals as long as the block runs. A SIGHUP that `nohup` had ignored stays so."""
    interrupt = Interrupt()
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if caught != signal.SIGHUP or signal.getsignal(caught) is not signal.SIG_IGN:
            interrupt.handlers[caught] = signal.signal(caught, interrupt.catch)
    try:
        yield interrupt
    finally:
        for number, before in interrupt.handlers.items():
            if number != signal.SIGHUP or interrupt.signal is None:  # else: ignored to the end
                signal.signal(number, before)  # type: ignore[arg-type]
