"""One value of one axis, and the rules under which it works."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sd3tune.backends.decide.rules import Rule
from sd3tune.backends.observe.facts import Facts

Level = Literal["native", "emulated", "storage", "forward_only", "needs_build", "none", "unknown"]


@dataclass(frozen=True)
class Option:
    name: str
    rules: tuple[Rule, ...] = ()
    because: str = ""  # shown when chosen
    auto: bool = True  # False: only when the user asks
    level: Callable[[Facts], Level] = lambda f: "native"
