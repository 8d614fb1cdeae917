"""The quantisation schemes of frozen weights: one row each. Names are SimpleTuner's.

All of them quantise weights only; the arithmetic stays in the run's own format. Where the figures
come from: docs/concepts/quantisation.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sd3tune.tables import libraries, needs
from sd3tune.tables.needs import Need, Vendor
from sd3tune.tables.table import Table

Level = Literal["native", "emulated", "storage", "forward_only", "needs_build", "none", "unknown"]


@dataclass(frozen=True)
class Scheme:
    """One quantisation scheme.

    stored_bytes: per quantised weight, scales included; None: as many as the weights' own format
    has. auto: chosen when memory asks for it; False: only when the user names it. library: whose
    version is in the name of a kept file. quantise, restore: "module:function" that quantises a
    module, and that gives a module the weights of a kept file; both take this row. weights: the
    library's word for the format. tolerance: largest error of a product relative to its norm, twice
    what was seen on the CPU. level, levels: how it works, in general and on single vendors.
    """

    name: str
    stored_bytes: float | None
    about: str
    needs: tuple[Need, ...] = ()
    aliases: tuple[str, ...] = ()
    auto: bool = False
    library: str = ""
    quantise: str = ""
    restore: str = ""
    weights: str = ""
    tolerance: float = 0.0
    level: Level = "storage"
    levels: Mapping[Vendor, Level] = field(default_factory=dict)

    @property
    def quantises(self) -> bool:
        return self.stored_bytes is not None

    def level_on(self, vendor: Vendor) -> Level:
        return self.levels.get(vendor, self.level)


INT_ONLY_ON_APPLE = "only integer quanto levels are used on Apple"
QUANTO = libraries.QUANTO.needed()
# Its other kernels have a Python form; unpacking on MPS has none (quanto 0.2.7 extensions/mps).
UNPACKED = needs.compiler_on("mps", "quanto compiles its unpacking of 4 and 2 bits for MPS")


def _quanto(
    name: str,
    size: float,
    about: str,
    needed: tuple[Need, ...],
    *,
    weights: str,
    tolerance: float,
    auto: bool = False,
    on_mps: Level = "storage",
) -> Scheme:
    return Scheme(
        f"{name}-quanto",
        size,
        about,
        needed,
        auto=auto,
        library="optimum-quanto",
        quantise="sd3tune.quant.quanto:quantise",
        restore="sd3tune.quant.quanto:restore",
        weights=weights,
        tolerance=tolerance,
        levels={"mps": on_mps},
    )


NO_CHANGE = Scheme(
    "no_change", None, "weights keep their full precision", auto=True, level="native"
)
INT8 = _quanto(
    "int8", 1.0, "8-bit integers: a byte a weight, for about 0.1 % error", (QUANTO,),
    weights="qint8", tolerance=0.015, auto=True,
)  # fmt: skip
NF4 = Scheme(
    "nf4-bnb",
    0.5 + 1.03 / 64,
    "4-bit NormalFloat: half a byte a weight, for about 1 % error",
    (
        needs.never_on("mps", INT_ONLY_ON_APPLE),
        libraries.BITSANDBYTES.needed().except_on("mps"),
        needs.sm_at_least(70, "bitsandbytes has no 4-bit kernel"),
    ),
    auto=True,
    library="bitsandbytes",
    quantise="sd3tune.quant.bnb:quantise",
    restore="sd3tune.quant.bnb:restore",
    weights="nf4",
    tolerance=0.25,
)
INT4 = _quanto(
    "int4", 0.5 + 4 / 128, "4-bit integers: half a byte a weight, for about 1 % error",
    (QUANTO, UNPACKED), weights="qint4", tolerance=0.22, auto=True, on_mps="needs_build",
)  # fmt: skip
INT2 = _quanto(
    "int2", 0.25 + 4 / 128, "2-bit integers: a quarter of a byte a weight, and it shows",
    (QUANTO, UNPACKED), weights="qint2", tolerance=1.1, on_mps="needs_build",
)  # fmt: skip
# quanto keeps fp8 weights and multiplies in the base dtype on every chip.
FP8 = _quanto(
    "fp8", 1.0, "8-bit floats: a byte a weight",
    (needs.never_on("mps", f"MPS has no fp8; {INT_ONLY_ON_APPLE}"), QUANTO),
    weights="qfloat8", tolerance=0.08, on_mps="none",
)  # fmt: skip

TORCHAO = "torchao's weights do not train on several processes (aten.view is missing for them)"
TORCHAO_INT4 = "peft takes no adapter on torchao's 4-bit weights"
DYNAMIC = "activations are not quantised here: weights only"
SDNQ = "sdnq is not one of the libraries sd3tune quantises with"
NO_GAIN = "16 bits are no smaller than bf16"
COMPUTE_FP8 = "arithmetic in fp8 is not built in: fp8 is for storage only"
_REFUSED = {
    "int8-torchao": (TORCHAO, "int8-quanto"),
    "int8dq-torchao": (DYNAMIC, "int8-quanto"),
    "int8dq-int4-torchao": (DYNAMIC, "int4-quanto"),
    "int4-torchao": (TORCHAO_INT4, "nf4-bnb"),
    "fp8-torchao": (DYNAMIC, "fp8-quanto"),
    "fp8wo-torchao": (TORCHAO, "fp8-quanto"),
    "fp8-int4-torchao": (TORCHAO_INT4, "nf4-bnb"),
    "fp8uz-quanto": ("the flavour of fp8 is the chip's, not the user's", "fp8-quanto"),
    "fp8-native": (COMPUTE_FP8, "fp8-quanto"),
    "fp8-transformerengine": (COMPUTE_FP8, "fp8-quanto"),
    **{f"{name}-sdnq": (NO_GAIN, "no_change") for name in ("int16", "uint16", "fp16")},
    **{
        f"{name}-sdnq": (SDNQ, "int8-quanto") for name in ("int8", "uint8", "int6", "int5", "uint5")
    },
    **{f"{name}-sdnq": (SDNQ, "int4-quanto") for name in ("uint4", "uint3")},
    "uint2-sdnq": (SDNQ, "int2-quanto"),
    "fp8-sdnq": (SDNQ, "fp8-quanto"),
}
REFUSED = {
    name: f"is not supported: {why}; use {nearest}" for name, (why, nearest) in _REFUSED.items()
}

SCHEMES = Table("a quantisation scheme", (NO_CHANGE, INT8, NF4, INT4, INT2, FP8), refused=REFUSED)


def quantising() -> tuple[Scheme, ...]:
    """Every scheme but `no_change`."""
    return tuple(scheme for scheme in SCHEMES.rows if scheme.quantises)
