"""Compares the ratios of a benchmark with those of an earlier result.

    python benchmarks/regressions.py OLD.json NEW.json [--tolerance 0.05]

Only numbers whose name ends in `ratio` are compared, since seconds belong to a machine. A ratio is
ours over the alternative, so a larger one is worse. Exit code 1: one is worse by more than the
tolerance, or is gone. benchmarks/results/ has the results that were committed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def ratios(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every ratio of a result with the path of its name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{name}.{key}" if name else key
            if isinstance(inner, int | float) and key.endswith("ratio"):
                yield path, float(inner)
            yield from ratios(inner, path)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from ratios(inner, f"{name}[{number}]")


def worse(old: Any, new: Any, tolerance: float) -> list[str]:
    """A line for each ratio that is worse, or missing."""
    before, after = dict(ratios(old)), dict(ratios(new))
    lines = [f"{name}: {value:.3f} before, missing now" for name, value in before.items()
             if name not in after]  # fmt: skip
    for name in before.keys() & after.keys():
        if after[name] > before[name] * (1 + tolerance):
            lines.append(f"{name}: {before[name]:.3f} before, {after[name]:.3f} now")
    return sorted(lines)


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("old", type=Path)
    made.add_argument("new", type=Path)
    made.add_argument("--tolerance", type=float, default=0.05, help="relative; 0.05 if left out")
    given = made.parse_args()
    old, new = (json.loads(path.read_text()) for path in (given.old, given.new))
    if not dict(ratios(old)):
        sys.exit(f"error: {given.old} has no ratio")
    lines = worse(old, new, given.tolerance)
    print("\n".join(lines) or f"{len(dict(ratios(old)))} ratios, none is worse")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
