"""The probes: programs with known answers that a device must compute rightly, one row each.

A row says which child process runs the probe (observe/child.py) and when. The programs themselves
are in kernels/smoke.py, quant/linear_probes.py and observe/imports.py. Which option of the table
rests on which probe is written at the option (`smoke`, `package` in rules.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

from sd3tune.backends.observe.facts import Facts
from sd3tune.tables.libraries import LIBRARIES
from sd3tune.tables.schemes import quantising

IMPORT = "import_"  # and a distribution: the probe that imports it
KERNELS = ("diffusers", "native-flash", "native-efficient", "cudnn", "native-math", "sliced")
# Chips that multiply in eight bits (docs/reference/hardware.md).
NATIVE_FP8_SM, NATIVE_FP8_GFX = 89, ("gfx942", "gfx950", "gfx1200", "gfx1201")
NATIVE_INT8_SM = 75
# The chips for which PyTorch uses AMD's flash kernels by itself (AOTriton; hardware.md, "AMD").
AOTRITON = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
RDNA = ("gfx10", "gfx11", "gfx12")  # beginnings of the names
HIDDEN = "attention_hidden"
RATES = "rates"  # no option rests on it: the plan's times do


@dataclass(frozen=True)
class ProbeAnswer:
    """What a probe came to on one device."""

    ok: bool
    words: str  # the measured fact, or what went wrong
    seconds: float | None = None  # None: it gave no answer
    fix: str = ""  # can be pasted; empty: nothing special to this probe helps
    answered: bool = True  # False: killed, or no answer in time; the next run may differ


def never(facts: Facts) -> bool:
    return False


@dataclass(frozen=True)
class Probe:
    """One row."""

    name: str  # the key in Facts.smoke
    observer: str  # of observe/child.py
    essential: bool = False  # nothing trains where it fails
    # Where doctor runs it for its figure alone: no option rests on it.
    informs: Callable[[Facts], bool] = never
    seconds_on_cpu: float = 0.0  # estimate; more than a few: only `doctor --deep` runs it there


def fp8_products(f: Facts) -> bool:
    """The chip claims dense fp8 products in hardware."""
    arch = f.weakest.arch
    return (arch.sm or 0) >= NATIVE_FP8_SM or arch.gfx in NATIVE_FP8_GFX


def int8_products(f: Facts) -> bool:
    """The chip claims dense int8 products in hardware."""
    sm = f.weakest.arch.sm
    return f.vendor in ("cuda", "rocm") and (sm is None or sm >= NATIVE_INT8_SM)


def hides_flash(f: Facts) -> bool:
    """PyTorch may have flash kernels for the chip that it uses only with a variable set
    (kernels/hidden.py). Without them scaled_dot_product_attention writes out every score."""
    gfx = f.weakest.arch.gfx
    return gfx is not None and gfx.startswith(RDNA) and gfx not in AOTRITON


_FIXED = (
    Probe("matmul_fp32", "probes", essential=True),
    Probe("optimizer_adamw", "probes", essential=True),
    Probe("matmul_bf16", "probes"),
    Probe("matmul_fp16", "probes"),
    Probe("autocast_bf16", "probes"),
    Probe("autocast_fp16", "probes"),
    *(Probe(f"attention_{kernel}", "probes") for kernel in KERNELS),
    Probe("attention_sageattention", "probes"),
    Probe(HIDDEN, "hidden"),
    Probe("compile_inductor", "probes", seconds_on_cpu=30.0),
    Probe("matmul_int8", "probes", informs=int8_products),
    Probe("matmul_fp8", "probes", informs=fp8_products),
    Probe("bandwidth", "probes", informs=lambda f: True),
    Probe(RATES, "probes", informs=lambda f: True),
    Probe("optimizer_bnb", "quant"),
)


def probes() -> dict[str, Probe]:
    """Every probe: the fixed ones, one for each quantisation scheme and one for each library, as
    their tables are now."""
    schemes = (Probe(f"linear_{row.name}", "quant") for row in quantising())
    imports = (Probe(IMPORT + row.name, "imports", row.essential) for row in LIBRARIES.rows)
    return {probe.name: probe for probe in (*_FIXED, *schemes, *imports)}


def essential() -> list[str]:
    """The probes without which nothing trains."""
    return [probe.name for probe in probes().values() if probe.essential]
