"""What a thing needs of a machine and of a run, as data.

`backends/decide/rules.py` has one rule for each kind of need: the rule answers with a sentence
when the need is not met. Nothing here knows a machine.
"""

from dataclasses import dataclass, replace
from typing import Literal

Vendor = Literal["cuda", "rocm", "mps", "cpu"]


@dataclass(frozen=True)
class Need:
    """The name of a rule and its arguments. not_on: vendors for which the rule is skipped, because
    another need already excludes them: advice to install a package would not help there."""

    kind: str
    arguments: tuple[str | int, ...] = ()
    not_on: tuple[Vendor, ...] = ()

    def except_on(self, *vendors: Vendor) -> "Need":
        return replace(self, not_on=vendors)


def never_on(vendor: Vendor, why: str) -> Need:
    return Need("never_on", (vendor, why))


def smoke(probe: str) -> Need:
    """The probe of that name, where it was run, was passed."""
    return Need("smoke", (probe,))


def sm_at_least(lowest: int, why: str) -> Need:
    """NVIDIA's compute capability, 80 for 8.0; other vendors are not asked."""
    return Need("sm_at_least", (lowest, why))


def gfx_in(*known: str) -> Need:
    """One of these targets of AMD; other vendors are not asked."""
    return Need("gfx_in", known)


def compiler_on(vendor: Vendor, why: str) -> Need:
    """On this vendor, a C++ compiler, ninja and a writable environment."""
    return Need("compiles_on", (vendor, why))


def decided(axis: str, *values: str) -> Need:
    """An axis that is decided earlier came out as one of the values."""
    return Need("decided", (axis, *values))


FLOAT32_WEIGHTS = Need("float32_weights")  # not a whole model in bf16
NATIVE_BF16 = Need("native_bf16")  # bf16 arithmetic in hardware
WHOLE_WEIGHTS = Need("whole_weights")  # weights that are not split over processes (FSDP)
