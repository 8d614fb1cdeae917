"""Copies from host memory to a device while the device computes.

A stream of its own carries the copies; on devices without streams, and on the CPU, they are plain
copies. Memory is safe without a note for each tensor, by two rules. What is allocated inside
`open()` belongs to the stream's own pool and may be used again only by later copies. And each copy
first waits for everything that the device was told to compute before it: whatever freed memory a
copy is written to, its last use is over. A copy therefore overlaps with what is computed after its
start. Only `torch.accelerator` and `torch.Stream` are used. Untested on hardware.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SideStream:
    """The stream on which copies to `device` run."""

    def __init__(self, device: torch.device) -> None:
        here = torch.accelerator.current_accelerator()
        # Apple's memory is shared: there is nothing to copy.
        has_streams = here is not None and here.type == device.type and here.type != "mps"
        self.device = device
        self._stream = torch.Stream(device=device) if has_streams else None

    @property
    def asynchronous(self) -> bool:
        """Whether copies run beside what the device computes."""
        return self._stream is not None

    @contextmanager
    def open(self) -> Iterator[None]:
        """What is done inside runs on this stream, after what the device was told before."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.accelerator.current_stream(self.device))
        with self._stream:
            yield

    def mark(self) -> torch.Event | None:
        """The point that this stream has reached, for `wait`."""
        return None if self._stream is None else self._stream.record_event()

    def wait(self, mark: torch.Event | None) -> None:
        """The device's own stream waits for that point; the host does not."""
        if mark is not None:
            torch.accelerator.current_stream(self.device).wait_event(mark)
