"""How large a batched product may be before a device computes it wrongly or not at all, and what
of the memory of device and host there is to fill.

Facts about devices, asked by the plan; None: no limit that a run could reach is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.backends.decide.probes import HIDDEN, hides_flash
from sd3tune.backends.decide.rules import version
from sd3tune.backends.observe.facts import Facts, Vendor


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
# Where compiled blocks are not faster, and how that is known (docs/concepts/compile.md).
COMPILED_NO_FASTER: Mapping[Vendor, str] = {
    "cpu": "on a processor, compiled blocks were measured to be no faster"
}
LEFT_FOR_MACOS = 4 * 2**30  # a guess: a desktop and a browser
# Estimates, by vendor: contexts, cuBLAS workspaces, allocator slack.
WORKSPACE_BYTES: Mapping[str, int] = {
    "cuda": int(0.8 * 2**30),
    "rocm": 2**30,
    "mps": 2**29,
    "cpu": 2**28,
}
# Of it, what PyTorch's allocator sees: workspaces of cuBLAS and cuBLASLt, 32 MiB each on sm_90, of
# the two threads that compute (aten/src/ATen/cuda/CUDABlas.cpp). On an H200 0.09 to 0.16 GiB were
# allocated beyond what a step's tensors take.
LIBRARY_BYTES: Mapping[str, int] = {"cuda": 96 * 2**20, "rocm": 96 * 2**20, "mps": 0, "cpu": 0}

# Whether autocast computes layer norms in float32, which keeps a copy of what they normalise: on
# the CPU's list they are not (aten/src/ATen/autocast_mode.h of torch 2.13).
FLOAT32_LAYER_NORMS: Mapping[str, bool] = {"cuda": True, "rocm": True, "mps": True, "cpu": False}
# A value of the mask that dropout keeps. The fused kernel of CUDA and ROCm keeps bytes; elsewhere
# the mask is a tensor in the format of LoRA's inputs (aten/src/ATen/native/Dropout.cpp).
DROPOUT_MASK_BYTES: Mapping[str, int] = {"cuda": 1, "rocm": 1, "mps": 4, "cpu": 4}

# What the driver keeps of the total that it reports, as PyTorch shows it: T4 14.56 of 15.0 GiB
# (Zheng-Chong/CatVTON#133), RTX 4090 23.5 of 24.0, L40S 44.53 of 44.99, H200 139.7 of 140.4;
# MI300X 191.7 of 192.
RESERVED: Mapping[str, tuple[int, float]] = {  # at least so many bytes, and that share
    "cuda": (int(0.46 * 2**30), 0.005),
    "rocm": (int(0.05 * 2**30), 0.0016),
    "cpu": (0, 0.0),
}


def usable_bytes(vendor: Vendor, total_bytes: int, runtime: str | None = None) -> int:
    """What a run may fill of an unused device whose driver reports `total_bytes`. runtime: the
    version of macOS, for Macs."""
    if vendor == "mps":
        return metal_recommends(total_bytes, runtime)
    least, share = RESERVED[vendor]
    return total_bytes - max(least, int(share * total_bytes))


def metal_recommends(total_bytes: int, macos: str | None = None) -> int:
    """recommendedMaxWorkingSetSize of a Mac, where torch was not asked: two thirds of the memory up
    to 36 GB, three quarters above (ollama/ollama#434: 21.33 of 32 GiB; ggml-org/llama.cpp#3213: 72
    of 96 GiB; abetlen/llama-cpp-python#687: 10.67 of 16 GiB). macOS 26 lends more of large
    memories: 107.5 of 128 GiB; its figure for other sizes is unknown, and the older one holds."""
    if total_bytes <= 36 * 2**30:
        return total_bytes * 2 // 3
    newer = macos is not None and version(macos) >= (26,)
    if newer and total_bytes == 128 * 2**30:
        return int(total_bytes * 0.84)
    return total_bytes * 3 // 4


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
    attention.cpp; look again at torch 2.17). So it does on AMD's chips whose hidden flash kernels
    failed their probe."""
    without_flash = hides_flash(f) and f.smoke.get(HIDDEN, "ok") != "ok"
    definition = f.vendor == "mps" or without_flash or attention == "native-math"
    return attention != "sliced" and definition
