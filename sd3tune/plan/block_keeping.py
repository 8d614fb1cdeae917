"""What each transformer block keeps for the backward pass: its inputs alone, these and the outputs
of its attention, or everything. The less it keeps, the more of it is computed again.

Pure arithmetic. The bytes of a choice are counted in step_peak.py, its seconds in duration.py;
`fastest` finds the quickest that fits. Blocks that keep everything are the last ones: the backward
pass frees them before it computes another block again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from sd3tune.sd3.variants import CLIP_TOKENS

if TYPE_CHECKING:
    from sd3tune.plan.memory import Load
    from sd3tune.sd3.variants import Transformer

Keep = Literal["inputs", "attention", "everything"]
SUM_BYTES = 4  # the logarithm of a row's sum, which fused attention leaves beside its output


def at_interval(layers: int, interval: int) -> tuple[Keep, ...]:
    """Blocks 0, interval, 2 interval, … keep their inputs, the others everything. 0: all do."""
    return tuple(
        "inputs" if interval and index % interval == 0 else "everything" for index in range(layers)
    )


def of_load(shape: "Transformer", load: "Load") -> tuple[Keep, ...]:
    """What each block keeps under a load."""
    return load.keep or at_interval(shape.layers, load.interval)


def attention_bytes(shape: "Transformer", index: int, compute: int) -> tuple[float, float]:
    """Of the outputs of attention in block `index`, for one image token and for one text token.
    compute: bytes of a value."""
    one = shape.hidden * (compute + SUM_BYTES / shape.head_dim)
    return one * (2 if index < shape.dual_layers else 1), one


def recomputed(shape: "Transformer", load: "Load") -> float:
    """Share of the blocks that are computed again in the backward pass."""
    keep = of_load(shape, load)
    return sum(what != "everything" for what in keep) / shape.layers


def recomputed_attention(shape: "Transformer", load: "Load") -> float:
    """Share of attention's operations that are computed again."""
    joint = (load.tokens + load.text_tokens + CLIP_TOKENS) ** 2
    costs = [joint + (load.tokens**2 if i < shape.dual_layers else 0) for i in range(shape.layers)]
    again = zip(of_load(shape, load), costs, strict=True)
    return sum(cost for what, cost in again if what == "inputs") / sum(costs)


def summary(keep: tuple[Keep, ...]) -> str:
    """As a plan prints it: "everything in 12 blocks, attention in 26"."""
    names: tuple[Keep, ...] = ("everything", "attention", "inputs")
    counts = {name: keep.count(name) for name in names if name in keep}
    if len(counts) == 1:
        return next(iter(counts))
    first, *others = counts.items()
    return ", ".join(
        [f"{first[0]} in {first[1]} blocks", *(f"{name} in {count}" for name, count in others)]
    )


def mixed(layers: int, everything: int, attention: int) -> tuple[Keep, ...]:
    """The last `everything` blocks, and the `attention` blocks before them."""
    inputs = layers - everything - attention
    kinds: tuple[tuple[Keep, int], ...] = (
        ("inputs", inputs), ("attention", attention), ("everything", everything)
    )  # fmt: skip
    return tuple(kind for kind, count in kinds for _ in range(count))


def fastest(
    layers: int,
    load: "Load",
    fits: Callable[["Load"], bool],
    seconds: Callable[["Load"], float],
    *,
    attention: bool,
    everything: bool,
) -> tuple[Keep, ...]:
    """The quickest of `choices`. Where nothing fits, all blocks keep their inputs alone."""
    loads = choices(layers, load, fits, attention=attention, everything=everything)
    return min(loads, key=seconds).keep


def choices(
    layers: int,
    load: "Load",
    fits: Callable[["Load"], bool],
    *,
    attention: bool,
    everything: bool,
) -> Iterator["Load"]:
    """The load with each choice that may be the quickest of those that fit, and with inputs alone.
    attention, everything: whether blocks may keep these.

    Seconds and bytes are nearly linear in the numbers of blocks, so that the best choice is at a
    corner: as many blocks as fit keep attention, or everything, or the rest attention.
    """

    def with_(more: int, some: int) -> "Load":
        return replace(load, keep=mixed(layers, more, some))

    for counts in _corners(layers, with_, fits, attention, everything):
        yield with_(*counts)


def _corners(
    layers: int,
    with_: Callable[[int, int], "Load"],
    fits: Callable[["Load"], bool],
    attention: bool,
    everything: bool,
) -> Iterator[tuple[int, int]]:
    """Numbers of blocks that keep everything, and attention."""
    yield 0, 0
    if everything and fits(with_(layers, 0)):
        yield layers, 0
        return
    if attention:
        yield 0, _most(layers, lambda n: fits(with_(0, n)))
    if not everything:
        return
    alone = _most(layers, lambda n: fits(with_(n, 0)))
    beside = _most(layers, lambda n: fits(with_(n, layers - n))) if attention else 0
    for more in sorted({alone, max(alone - 1, 0), beside, min(beside + 1, alone)}):
        some = _most(layers - more, lambda n, more=more: fits(with_(more, n)))  # type: ignore[misc]
        yield more, some if attention else 0


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits; 0 counts as fitting."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
