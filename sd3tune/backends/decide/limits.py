"""How large a batched product may be before a device computes it wrongly or not at all, and what
of the host's memory there is to fill.

Facts about devices, asked by the plan; None: no limit that a run could reach is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.backends.observe.facts import Facts


@dataclass(frozen=True)
class Limit:
    most: int
    why: str


# Wrong without a word above 2**32 values, forward and backward, contiguous or not, in every torch
# from 2.4 to 2.14 (pytorch#197636, open; #179352 for the fused kernel). Wrong pictures have been
# reported from 2**31 on (Comfy-Org/ComfyUI#14837), and #149261 aborts between 2**30.8 and 2**31.6:
# the lower counts. Look again at torch 2.17.
MPS_VALUES = Limit(
    2**31 - 1,
    "products of 2**31 values and more have come out wrong on MPS without a word "
    "(pytorch/pytorch#197636, #179352; Comfy-Org/ComfyUI#14837)",
)
# M1 and M2 read past the end of both factors when 32767 terms or more are summed
# (pytorch#195163, open; #177116 saw it as wrong gradients). 2-D products are right from torch 2.14
# on but for 32767 and 32768 terms. Look again when pytorch#195012 is merged.
MPS_TERMS = Limit(
    32766,
    "M1 and M2 sum 32767 terms and more wrongly without a word (pytorch/pytorch#195163, #177116)",
)
# Scores in one matrix of sliced attention: 128 MiB in float32. With twice as many, or half, a CPU
# was not faster (docs/reference/memory.md).
SLICE_VALUES = 2**25
LEFT_FOR_MACOS = 4 * 2**30  # a guess: a desktop and a browser
# Estimates, by vendor: contexts, cuBLAS workspaces, allocator slack.
WORKSPACE_BYTES: Mapping[str, int] = {
    "cuda": int(0.8 * 2**30),
    "rocm": 2**30,
    "mps": 2**29,
    "cpu": 2**28,
}


def host_bytes(f: Facts) -> int | None:
    """What may run on the CPU beside an idle device. A Mac has one memory, and
    macOS lives in it."""
    if f.ram_bytes is None or f.vendor != "mps":
        return f.ram_bytes
    return f.ram_bytes - LEFT_FOR_MACOS


def values(f: Facts) -> Limit | None:
    """The limit on the number of values in the result of one batched product."""
    return MPS_VALUES if f.vendor == "mps" else None


def terms(f: Facts) -> Limit | None:
    """Summed into one value of a product."""
    old = f.vendor == "mps" and (f.weakest.arch.apple or 0) <= 2
    return MPS_TERMS if old else None


def writes_scores(f: Facts, attention: str | None) -> bool:
    """Whether attention that trains keeps every score of every pair of tokens. The fused kernel of
    MPS has no backward, so PyTorch takes the definition (pytorch#179294, open; aten's
    attention.cpp). Look again at torch 2.17."""
    return attention != "sliced" and (f.vendor == "mps" or attention == "native-math")
