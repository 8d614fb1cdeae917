"""Block swapping: frozen weights of some blocks stay in host memory and are copied to the device
when the block computes.

Their frozen weights have one copy, on the host. Each forward pass of such a block, and the second
one that checkpointing makes in the backward pass, computes with copies on the device; they are gone
when nothing needs them any more. So nothing is ever written back, and the step does not notice.
While one block computes, the next one is copied on a stream of its own: in the order of the blocks
in the forward pass, backwards in the backward pass. At most two such blocks are on the device.
Weights that train stay on the device.

Needs gradient checkpointing of these blocks: otherwise autograd keeps every copy until the backward
pass. Untested on hardware.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune import modulations
from sd3tune.backends.kernels.side_stream import SideStream
from sd3tune.plan.drawing import AnyPlan
from sd3tune.quant.parts import moved
from sd3tune.report.progress import warn

Copy = Callable[[Tensor], Tensor]
Held = dict[tuple[nn.Module, str], Tensor]
CPU = torch.device("cpu")


def move_to_device(model: Any, plan: AnyPlan, device: torch.device) -> None:
    """The model on its device, but for the frozen weights of the first `blocks_to_swap` blocks and
    the AdaLN weights where modulations are computed outside the blocks."""
    pin = plan.hardware.pin_memory.value
    host = (lambda t: t.cpu().pin_memory()) if pin else (lambda t: t.cpu())
    where = plan.memory.modulations.value
    if where != "device" and not modulations.movable(model):  # `reproduce` plans without adapters
        warn("an adapter changes AdaLN layers: their weights stay on the device")
        where = "device"
    if where != "device":
        modulations.take_out(model, where, device, host)
        positions_to_host(model, lambda t: t.cpu(), lambda t: t.to(device))
    if count := plan.memory.blocks_to_swap.value:
        to_device = lambda t: t.to(device, non_blocking=pin, copy=True)  # noqa: E731
        stream(model, count, host, to_device, device)
    model.to(device)


def positions_to_host(model: Any, to_host: Copy, to_device: Copy) -> None:
    """Keeps the table of positions (0.17 GiB of SD3.5 large, 0.42 of medium) in host memory. The
    part that an image of the last size needs is on the device."""
    patches = model.pos_embed
    table = to_host(patches._buffers.pop("pos_embed"))
    patches.pos_embed = table  # where diffusers' own function looks for it
    crop = patches.cropped_pos_embed
    kept: dict[tuple[int, int], Tensor] = {}

    def cropped(height: int, width: int) -> Tensor:
        if (height, width) not in kept:
            kept.clear()
            kept[height, width] = to_device(crop(height, width))
        return kept[height, width]

    patches.cropped_pos_embed = cropped


@dataclass(frozen=True)
class Arrival:
    """The weights of a block on their way to the device. mark: when they are there."""

    weights: list[Tensor]
    mark: torch.Event | None


class Visits:
    """The swapped blocks of a model, by their number: which ones are on the device."""

    def __init__(self, held: Sequence[Held], to_device: Copy, stream: SideStream) -> None:
        self._held, self._to_device, self._stream = held, to_device, stream
        self._coming: dict[int, Arrival] = {}  # at most one
        self._last = -1  # the block that came last
        self._after = False  # the first block that is not swapped has run

    def begin(self) -> None:
        """A forward pass begins: block 0 comes."""
        self._last, self._after = -1, False
        self._start(0)

    def after(self) -> None:
        """The first block that is not swapped runs; when it runs again, the backward pass comes to
        the last swapped one."""
        if self._after:
            self._start(len(self._held) - 1)
        self._after = True

    def weights(self, number: int) -> list[Tensor]:
        """The weights of a block that runs now. Those of the block after it begin to come."""
        backwards = number <= self._last
        self._last = number
        arrival = self._coming.pop(number, None) or self._copied(number)
        self._stream.wait(arrival.mark)
        self._coming.clear()  # of a block that is skipped
        self._start(number - 1 if backwards else number + 1)
        return arrival.weights

    def _start(self, number: int) -> None:
        if 0 <= number < len(self._held) and number not in self._coming:
            self._coming = {number: self._copied(number)}

    def _copied(self, number: int) -> Arrival:
        with self._stream.open():
            weights = [moved(weight, self._to_device) for weight in self._held[number].values()]
            return Arrival(weights, self._stream.mark())


def stream(
    model: Any, count: int, to_host: Copy, to_device: Copy, device: torch.device = CPU
) -> Visits:
    """Takes the frozen weights out of the first `count` blocks, and puts copies in their place
    whenever a block runs.

    Between two runs the weights are None, so that moving the model does not move them. Both
    functions take one plain tensor; `to_device` must copy.
    """
    blocks = list(model.transformer_blocks)
    held = [taken_out(block, to_host) for block in blocks[:count]]
    visits = Visits(held, to_device, SideStream(device))
    for number, block in enumerate(blocks[:count]):
        block.forward = _visiting(block.forward, held[number], number, visits)
    if count < len(blocks):
        blocks[count].register_forward_pre_hook(lambda *_: visits.after())
    model.register_forward_pre_hook(lambda *_: visits.begin())
    return visits


def _visiting(
    forward: Callable[..., Any], held: Held, number: int, visits: Visits
) -> Callable[..., Any]:
    def visiting(*inputs: Any, **named: Any) -> Any:
        for (module, name), weight in zip(held, visits.weights(number), strict=True):
            module._parameters[name] = _parameter(weight)
        try:
            return forward(*inputs, **named)
        finally:  # also when checkpointing has recomputed enough and stops
            for module, name in held:
                module._parameters[name] = None

    return visiting


def taken_out(block: nn.Module, to_host: Copy) -> Held:
    """Takes the frozen weights out of a block and returns them, as `to_host` copies them."""
    held: Held = {}
    for module in block.modules():
        for name, weight in list(module._parameters.items()):
            if weight is None or weight.requires_grad:
                continue
            held[module, name] = moved(weight, to_host)
            module._parameters[name] = None
    return held


def _parameter(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):  # bitsandbytes' are a subclass with more in it
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
