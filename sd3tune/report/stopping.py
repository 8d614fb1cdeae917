"""SIGTERM and SIGHUP before training begins and after it has ended: leave soon, with a sentence.

A batch system or a closed terminal sends them during encoding or the last pictures as well, where
no checkpoint can be written. While steps are taken, train/loop.py catches them and saves.
"""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

from sd3tune.report.streams import speaks

CAUGHT = (signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0  # for threads that decode or download; whatever they write appears whole


class Stopped(BaseException):
    """The run is stopped by a signal. Not an Exception, so that no code handles it as a failure of
    its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


_received: list[Stopped] = []


def received() -> Stopped | None:
    """The signal that came, if one came. C code that calls Python (a tensor's constructor, for
    example) may replace Stopped by an error of its own: that error is then no error of the run."""
    return _received[0] if _received else None


def stop_when_told() -> None:
    """From now on the first of these signals raises Stopped; what `nohup` had ignored stays so."""
    for number in CAUGHT:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """Reports the signal at once, and ends the process even where threads do not end or the
    exception is lost (in a destructor, for example)."""
    for each in CAUGHT:
        signal.signal(each, signal.SIG_IGN)  # a terminal that closes sends several
    stopped = Stopped(number)
    _received.append(stopped)
    end = threading.Timer(GRACE_SECONDS, os._exit, (stopped.exit_code,))
    end.daemon = True
    end.start()
    if speaks():
        kept = "what was finished is kept, and the same command continues"
        with suppress(OSError):  # not print: it may be printing
            os.write(2, f"stopped by signal {number}; {kept}\n".encode())
    raise stopped
