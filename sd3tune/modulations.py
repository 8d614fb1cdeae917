"""Modulations computed outside the transformer's blocks, so that their weights need not be on the
device.

The AdaLN layers (`norm1.linear` and `norm1_context.linear` of every block, `norm_out.linear`) hold
a third of the weights of SD3.5 and see one vector of each image: the embedded noise level and
pooled caption. `take_out` keeps their weights in host memory and computes the products of all of
them when that vector is known:

    streamed   on the device, from weights that are copied to it one layer at a time: the same
               operator on the same numbers, so the same bits
    host       on the host: within rounding of the number format

A table of all modulations takes the place of the vector, and each AdaLN layer takes its own rows:
blocks that are recomputed receive the same table as before, and a compiled block stays one graph
for all blocks. `announce` computes tables before they are needed, while the device does something
else; `foreseeing` computes those of a picture's sampling steps together. Layers that train cannot
be taken out. Untested on hardware.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sd3tune.backends.kernels.side_stream import SideStream

Where = Literal["device", "streamed", "host"]
Copy = Callable[[Tensor], Tensor]
TOGETHER = 16  # tables of calls that come later: 2.1 MiB for each image of SD3.5 large in bf16
HOOK = "sd3tune_modulations"  # attribute of a model whose AdaLN layers were taken out


class TableRows(nn.Module):
    """Stands in for an AdaLN linear: picks its modulations from the table.

    The rows are a buffer and not two numbers: torch.compile then makes one graph for all blocks.
    """

    rows: Tensor

    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.arange(first, first + count), persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        """table (B, rows of all layers, width) -> (B, count * width), in the format that the linear
        would answer in: AdaLayerNormContinuous casts its input first."""
        own = table.index_select(1, self.rows).flatten(1)
        kind = table.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            return own.to(torch.get_autocast_dtype(kind))
        return own


@dataclass(frozen=True)
class HostLinear:
    """The weights of an AdaLN layer in host memory."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Call:
    """What the model will be asked. timestep (B,), pooled (B, width): as the transformer gets
    them. without_gradient: the same call may come before without gradients (a teacher's)."""

    timestep: Tensor
    pooled: Tensor
    without_gradient: bool = False


# A call without gradients (timestep, pooled) -> those that come after it, in their order.
Following = Callable[[Tensor, Tensor], Sequence[Call]]


@dataclass(frozen=True)
class Announced:
    """The table of a call that has not come yet. ready: where the copying stream must be."""

    call: Call
    table: "Tensor | Future[Tensor]"
    ready: torch.Event | None


class Modulations:
    """The modulations of one model. Called as a forward hook of its `time_text_embed`."""

    def __init__(
        self, model: Any, layers: Sequence[HostLinear], where: Where, device: torch.device
    ) -> None:
        self._embedder, self._layers, self._where = model.time_text_embed, layers, where
        self._stream, self._announced = SideStream(device), deque[Announced]()
        self._following: Following | None = None
        self._foreseen: list[tuple[Call, Tensor]] = []
        self._dtype = model.dtype
        self._pool = ThreadPoolExecutor(1, "modulations") if where == "host" else None

    def __call__(self, module: nn.Module, inputs: Any, vector: Tensor) -> Tensor:
        """The table (B, rows, width) in the place of the embedded vector (B, width)."""
        if (announced := self._taken(*inputs)) is not None:
            return self._checked(announced, *inputs)
        if self._following is None or torch.is_grad_enabled():
            return self._now([vector])[0]
        known = (i for i, (call, _) in enumerate(self._foreseen) if bool(self._same(call, *inputs)))
        if (at := next(known, None)) is not None:
            return self._foreseen.pop(at)[1]
        calls = list(self._following(*inputs))[: TOGETHER - 1]
        table, *later = self._now([vector, *self._vectors(calls)])
        # Skipped layers ask with one image between calls with two.
        others = [held for held in self._foreseen if len(held[0].timestep) != len(vector)]
        self._foreseen = [*others, *zip(calls, later, strict=True)]
        return table

    def announce(self, calls: Sequence[Call], autocast: AbstractContextManager[Any]) -> None:
        """Starts computing the tables of the next calls with gradients, in their order. Weights
        are copied once for all of them. autocast: that of the calls."""
        with torch.no_grad(), self._stream.open(), autocast:
            vectors = self._vectors(calls)
            if self._pool is None:
                tables: Sequence[Tensor | Future[Tensor]] = self._streamed(vectors)
            else:
                waiting = [v.to("cpu", non_blocking=True) for v in vectors]
                tables = self._in_background(waiting, self._stream.mark())
        ready = self._stream.mark()
        pairs = zip(calls, tables, strict=True)
        self._announced.extend(Announced(call, table, ready) for call, table in pairs)

    def forget(self) -> None:
        """Drops what was announced."""
        self._announced.clear()

    @contextmanager
    def foreseeing(self, following: Following) -> Iterator[None]:
        """For calls without gradients in the block, tables are computed for one and those that
        `following` names after it, up to TOGETHER, with one copy of the weights."""
        before, self._following = self._following, following
        try:
            yield
        finally:
            self._following, self._foreseen = before, []

    def _vectors(self, calls: Sequence[Call]) -> list[Tensor]:
        """The embedded vector (B, width) of each call."""
        return [self._embedder.forward(c.timestep, self._cast(c.pooled)) for c in calls]

    def _now(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The tables of vectors on the device, which waits for them."""
        with torch.no_grad():
            if self._where == "host":
                host = self._on_host(torch.cat([v.cpu() for v in vectors]))
                return list(host.to(vectors[0].device).split([len(v) for v in vectors]))
            with self._stream.open():
                tables = self._streamed(vectors)
            self._stream.wait(self._stream.mark())
            return tables

    def _cast(self, pooled: Tensor) -> Tensor:
        return pooled.to(self._dtype)

    def _taken(self, timestep: Tensor, pooled: Tensor) -> Announced | None:
        """The next announced call, if this can be it."""
        if not self._announced:
            return None
        if torch.is_grad_enabled():
            return self._announced.popleft()
        first = self._announced[0]
        if first.call.without_gradient and bool(self._same(first.call, timestep, pooled)):
            return first
        return None

    def _checked(self, announced: Announced, timestep: Tensor, pooled: Tensor) -> Tensor:
        """The announced table; NaN where the call is another one, without waiting for the device:
        the step then refuses the loss."""
        table = announced.table
        if isinstance(table, Future):
            table = table.result().to(pooled.device, non_blocking=True)
        self._stream.wait(announced.ready)
        return torch.where(self._same(announced.call, timestep, pooled), table, torch.nan)

    def _same(self, call: Call, timestep: Tensor, pooled: Tensor) -> Tensor:
        """One boolean on the device."""
        if call.timestep.shape != timestep.shape or call.pooled.shape != pooled.shape:
            return torch.zeros((), dtype=torch.bool, device=pooled.device)
        return (call.timestep == timestep).all() & (self._cast(call.pooled) == pooled).all()

    def _streamed(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """A table of each vector. One layer's weights are on the device at a time; each product has
        the shape that the layer's own has, since other shapes may add in another order."""
        inputs = [nn.functional.silu(v) for v in vectors]
        parts: list[list[Tensor]] = [[] for _ in vectors]
        for layer in self._layers:
            weight = self._copied(layer.weight)
            bias = None if layer.bias is None else self._copied(layer.bias)
            for x, part in zip(inputs, parts, strict=True):
                part.append(nn.functional.linear(x, weight, bias))
            del weight, bias  # before the next ones come
        # Each table's parts are freed when it is joined.
        return [_table(parts.pop(0), x.shape[1]) for x in inputs]

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._stream.device, non_blocking=True, copy=True)

    def _on_host(self, vector: Tensor) -> Tensor:
        """The table in host memory, in the vector's format; products in that of the weights."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            x = nn.functional.silu(vector)
            part = [
                nn.functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
                for layer in self._layers
            ]
            table = _table(part, x.shape[1]).to(vector.dtype)
            return table.pin_memory() if self._stream.asynchronous else table

    def _in_background(
        self, vectors: Sequence[Tensor], arrived: torch.Event | None
    ) -> list["Future[Tensor]"]:
        def compute(vector: Tensor) -> Tensor:
            if arrived is not None:
                arrived.synchronize()
            return self._on_host(vector)

        assert self._pool is not None
        return [self._pool.submit(compute, v) for v in vectors]


def _table(parts: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat([p.unflatten(1, (-1, width)) for p in parts], dim=1)


def adaln_layers(model: Any) -> dict[str, Any]:
    """The modules around the AdaLN linears, by name, in the order of the model."""
    found = {}
    for number, block in enumerate(model.transformer_blocks):
        for part in ("norm1", "norm1_context"):
            found[f"transformer_blocks.{number}.{part}"] = getattr(block, part)
    return found | {"norm_out": model.norm_out}


def movable(model: Any) -> bool:
    """Whether every AdaLN layer, and the embedder before them, is a plain frozen linear: no adapter
    of any library is on it."""
    embedder = [m for m in model.time_text_embed.modules() if not list(m.children())]
    linears = [norm.linear for norm in adaln_layers(model).values()]
    linears += [m for m in embedder if list(m.parameters(recurse=False))]
    return all(
        type(m) is nn.Linear
        and "forward" not in vars(m)  # LyCORIS puts its own there
        and not any(p.requires_grad for p in m.parameters())
        for m in linears
    )


def take_out(
    model: Any, where: Where, device: torch.device, to_host: Copy = lambda t: t.cpu()
) -> Modulations | None:
    """Takes the AdaLN weights out of a model that is still on the host; None for `device`, which
    leaves them in. to_host: copies a tensor to where it is read from. The layers must be `movable`.
    """
    if where == "device":
        return None
    layers, first = [], 0
    for norm in adaln_layers(model).values():
        linear, width = norm.linear, norm.linear.in_features
        bias = None if linear.bias is None else to_host(linear.bias.detach())
        layers.append(HostLinear(to_host(linear.weight.detach()), bias))
        count = linear.out_features // width
        norm.silu, norm.linear = nn.Identity(), TableRows(first, count).to(linear.weight.device)
        first += count
    made = Modulations(model, layers, where, device)
    model.time_text_embed.register_forward_hook(made)
    model.__dict__[HOOK] = made
    return made


def of(model: Any) -> Modulations | None:
    """The modulations of a model whose AdaLN layers were taken out."""
    found: Modulations | None = model.__dict__.get(HOOK)
    return found


def foreseeing(model: Any, following: Following) -> AbstractContextManager[None]:
    """As `Modulations.foreseeing`; nothing where the blocks compute their modulations."""
    outside = of(model)
    return nullcontext() if outside is None else outside.foreseeing(following)
