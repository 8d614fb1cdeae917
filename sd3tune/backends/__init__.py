"""The hardware layer: observe, then decide, then apply; the three are never mixed.

Vendor files (cuda, rocm, mps, cpu) and `observe/` only observe. `decide/` holds the table of
options, each with the rules under which it works, and evaluates it. `kernels/` computes. Nothing
happens at import, and no torch is loaded here.
"""

from importlib import import_module
from types import ModuleType

from sd3tune.backends.observe.facts import Vendor


def module(vendor: Vendor) -> ModuleType:
    """The vendor file of that name, whose functions every vendor has."""
    return import_module(f"sd3tune.backends.{vendor}")
