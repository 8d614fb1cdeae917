"""Warnings and errors of a run as events: what stderr shows also reaches every sink."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from sd3tune.escaping import one_line, shortened
from sd3tune.report.messages import LOGGER
from sd3tune.urls import redacted

Level = Literal["warning", "error"]
Emit = Callable[[Level, str], None]  # level and text


class MessageHandler(logging.Handler):
    """Hands each warning and error to `emit`. A message that a sink causes while it receives a
    message is not handed on: that would never end."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self._emit, self._inside = emit, threading.local()

    def handle(self, record: logging.LogRecord) -> bool:
        """Takes no lock: the stream has its own, and two locks could wait for each other."""
        if not getattr(self._inside, "busy", False):
            self._inside.busy = True
            try:
                self.emit(record)
            finally:
                self._inside.busy = False
        return True

    def emit(self, record: logging.LogRecord) -> None:
        lines = (record.getMessage(), *getattr(record, "details", ()))
        text = "\n".join(one_line(shortened(redacted(line))) for line in lines)
        self._emit("error" if record.levelno >= logging.ERROR else "warning", text)


@contextmanager
def emitted(emit: Emit) -> Iterator[None]:
    """While the block runs, `emit` gets every warning and error of the program."""
    handler = MessageHandler(emit)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
