"""The quantisation schemes of frozen weights: one row each. Names are SimpleTuner's.

Most quantise weights only, and the arithmetic stays in the run's own format. Those whose
`multiplies` is true (W8A8) also round activations and gradients, and multiply in 8 bits. Where the
figures come from: docs/concepts/quantisation.md, docs/concepts/eight-bit-products.md.
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

    multiplies: activations and gradients are rounded too, and products are computed in 8 bits; only
    the transformer can have such a scheme. error_limit: largest relative error of a layer's
    weights, outputs or input gradients; a layer above it is not rounded there. linear_rate:
    operations a second of a frozen linear relative to the base dtype, by data sheets, not measured.
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
    multiplies: bool = False
    error_limit: float = 0.0
    linear_rate: float = 1.0

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

UNTESTED_PRODUCTS = "untested on hardware"
NO_PRODUCTS_ON_APPLE = "8-bit products are not tried on MPS"


def _w8a8(
    weights: str, about: str, needed: tuple[Need, ...], *, error_limit: float, on_cpu: Level
) -> Scheme:
    return Scheme(
        f"{weights}-w8a8",
        1.0,
        f"{about}, in both directions: faster products on chips that have them; "
        f"{UNTESTED_PRODUCTS}",
        (needs.never_on("mps", NO_PRODUCTS_ON_APPLE), *needed),
        library="torch",
        quantise="sd3tune.quant.w8a8:quantise",
        restore="sd3tune.quant.w8a8:restore",
        weights=weights,
        tolerance=2 * error_limit,
        level="native",
        levels={"cpu": on_cpu, "mps": "none"},
        multiplies=True,
        error_limit=error_limit,
        linear_rate=2.0,
    )


# Rounding of a Gaussian row to int8 costs 0.8 %, to e4m3 2.6 %, on either side of a product.
INT8_W8A8 = _w8a8(
    "int8", "8-bit integers that are multiplied as such",
    (needs.sm_at_least(75, "no tensor cores multiply int8"),),
    error_limit=0.03, on_cpu="native",
)  # fmt: skip
FP8_W8A8 = _w8a8(
    "fp8", "8-bit floats that are multiplied as such",
    (
        needs.sm_at_least(89, "no tensor cores multiply fp8"),
        needs.gfx_in("gfx942", "gfx950", "gfx1200", "gfx1201"),
    ),
    error_limit=0.06, on_cpu="emulated",
)  # fmt: skip

TORCHAO = "torchao's weights do not train on several processes (aten.view is missing for them)"
TORCHAO_INT4 = "peft takes no adapter on torchao's 4-bit weights"
DYNAMIC = "torchao's products in 8 bits have no backward in 8 bits; ours have"
DYNAMIC_INT4 = "activations are quantised beside 8-bit weights only"
SDNQ = "sdnq is not one of the libraries sd3tune quantises with"
NO_GAIN = "16 bits are no smaller than bf16"
COMPUTE_FP8 = "arithmetic in fp8 goes by another name here"
_REFUSED = {
    "int8-torchao": (TORCHAO, "int8-quanto"),
    "int8dq-torchao": (DYNAMIC, "int8-w8a8"),
    "int8dq-int4-torchao": (DYNAMIC_INT4, "int4-quanto"),
    "int4-torchao": (TORCHAO_INT4, "nf4-bnb"),
    "fp8-torchao": (DYNAMIC, "fp8-w8a8"),
    "fp8wo-torchao": (TORCHAO, "fp8-quanto"),
    "fp8-int4-torchao": (TORCHAO_INT4, "nf4-bnb"),
    "fp8uz-quanto": ("the flavour of fp8 is the chip's, not the user's", "fp8-quanto"),
    "fp8-native": (COMPUTE_FP8, "fp8-w8a8"),
    "fp8-transformerengine": (COMPUTE_FP8, "fp8-w8a8"),
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

SCHEMES = Table(
    "a quantisation scheme",
    (NO_CHANGE, INT8, NF4, INT4, INT2, FP8, INT8_W8A8, FP8_W8A8),
    refused=REFUSED,
)


def quantising() -> tuple[Scheme, ...]:
    """Every scheme but `no_change`."""
    return tuple(scheme for scheme in SCHEMES.rows if scheme.quantises)
