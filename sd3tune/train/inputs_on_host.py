"""HostInputs of checkpointed blocks in host memory until the backward pass needs them.

They leave on a stream of their own while the block computes, and come back the same way: while one
block is recomputed and differentiated, the inputs of the block before it arrive. An input that
several blocks share, as the modulations, stays on the device. At most two blocks' inputs are on the
device. Untested on hardware.
"""

import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sd3tune.backends.kernels.side_stream import SideStream


@dataclass(eq=False)
class HostInputs:
    """The inputs of one block. before: of the block that ran before it."""

    before: "weakref.ref[HostInputs] | None"
    kept: list["Kept"] = field(default_factory=list)
    leaving: list[Tensor] = field(default_factory=list)  # until their copies are complete
    left: torch.Event | None = None  # when those copies are complete
    fetched: bool = False
    back: torch.Event | None = None  # when they are on the device again


@dataclass(eq=False)
class Kept:
    """One input on the host. back: its copy on the device, from when it is fetched until it is
    used."""

    host: Tensor
    device: torch.device
    inputs: HostInputs
    back: Tensor | None = None


class InputsOnHost:
    """Called around each checkpointed block: a context that sees the block's inputs."""

    def __init__(self, device: torch.device, *, pin: bool) -> None:
        self._stream, self._pin = SideStream(device), pin
        self._before: HostInputs | None = None
        self._now = HostInputs(None)

    @property
    def inputs(self) -> HostInputs:
        """Those of the block that ran last, or runs."""
        return self._now

    def __call__(self) -> AbstractContextManager[object]:
        """For the block that runs next. Memory of inputs two blocks back is free from here on."""
        if self._before is not None:
            self._stream.wait(self._before.left)
            self._before.leaving.clear()
        self._before, self._now = self._now, HostInputs(weakref.ref(self._now))
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Tensor | Kept:
        now, before = self._now, self._before
        shared = before is not None and any(_same(tensor, t) for t in before.leaving)
        now.leaving.append(tensor)
        if shared:
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=self._pin)
        with self._stream.open():
            host.copy_(tensor, non_blocking=self._pin)
            now.left = self._stream.mark()
        kept = Kept(host, tensor.device, now)
        now.kept.append(kept)
        return kept

    def _unpack(self, packed: Tensor | Kept) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        inputs = packed.inputs
        self._fetch(inputs)
        self._stream.wait(inputs.back)
        tensor, packed.back = packed.back, None
        if inputs.before is not None and (earlier := inputs.before()) is not None:
            self._fetch(earlier)
        return self._copied(packed) if tensor is None else tensor  # a second backward pass

    def _fetch(self, inputs: HostInputs) -> None:
        """Those of a block begin to come back."""
        if inputs.fetched:
            return
        inputs.fetched = True
        with self._stream.open():
            for kept in inputs.kept:
                kept.back = self._copied(kept)
            inputs.back = self._stream.mark()

    def _copied(self, kept: Kept) -> Tensor:
        return kept.host.to(kept.device, non_blocking=self._pin, copy=True)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two living tensors are the same memory."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
