"""Which linears of a model are quantised: patterns of module names."""

from fnmatch import fnmatch
from typing import Any

from torch import nn

Patterns = tuple[tuple[str, ...], tuple[str, ...]]  # module names to include, to exclude


def matching(module: Any, which: Patterns) -> list[str]:
    """Names of the linears of `module` that match an including pattern and no excluding one."""
    include, exclude = which
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        and any(fnmatch(name, p) for p in include)
        and not any(fnmatch(name, p) for p in exclude)
    ]
