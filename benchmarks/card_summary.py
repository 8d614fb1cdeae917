"""The results of benchmarks/on_a_card.sh beside their targets.

    python benchmarks/card_summary.py RESULTS [--json FILE]

RESULTS: the folder with its JSON files; what is missing there is a row without a measurement.
`ratio` is what was measured over the target, or the target over it where more is better: above 1
the target was missed. python benchmarks/regressions.py OLD.json NEW.json compares two summaries.
The last lines compare every row of full_size.py with its plan: memory wanted within 2 %, time
within the error that the plan states.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
from full_size_rows import ROWS, W8A8, Row

GIB = 2**30
MEMORY_WITHIN = 0.02


@dataclass(frozen=True)
class Line:
    """One target. at_most: less is better."""

    name: str
    unit: str
    target: float
    measured: float | None
    predicted: float | None = None
    at_most: bool = True

    @property
    def ratio(self) -> float | None:
        """Above 1: missed. None: not measured, or nothing to divide by."""
        better, worse = (self.target, self.measured)[:: 1 if self.at_most else -1]
        return None if worse is None or not better else worse / better

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    def text(self) -> str:
        """For people."""
        sign = "<=" if self.at_most else ">="
        cells = [f"{sign} {number(self.target)}", number(self.predicted), number(self.measured)]
        met = {None: "not measured", True: "yes", False: "NO"}[self.met]
        return f"{self.name:<74} {self.unit:<6}" + "".join(f"{c:>10}" for c in cells) + f"  {met}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


class Results:
    """The JSON files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, *keys: str) -> Any:
        """A value of NAME.json below these keys; None: there is none."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        value = json.loads(path.read_text())
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return value

    def row(self, row: Row) -> dict[str, Any]:
        """A row of full_size.py; empty: not measured."""
        found = self.get("full_size", "rows", row.name) or {}
        return {} if "failed" in found else found


def of_rows(results: Results) -> Iterator[Line]:
    """The targets of the full-size table."""
    for row in ROWS:
        found = results.row(row)
        if row.most_seconds is not None:
            yield Line(row.name, "s/step", row.most_seconds, found.get("seconds"),
                       found.get("predicted_seconds"))  # fmt: skip
        if row.least_share is not None:
            yield Line(f"{row.name}: share of the matmul rate", "", row.least_share,
                       found.get("share"), at_most=False)  # fmt: skip
        if row.most_gib is not None:
            yield Line(row.name, "GiB", row.most_gib, gib(found.get("peak_bytes")),
                       gib(found.get("predicted_bytes")))  # fmt: skip
    plain = next(r for r in ROWS if r.least_share is not None)
    for row in ROWS:
        alike = (row.batch, row.side) == (plain.batch, plain.side)
        if row.precision in W8A8 and alike:
            base, ours = (results.row(r).get("seconds") for r in (plain, row))
            measured = base / ours if base and ours else None
            yield Line(f"{row.name}: times as fast as bf16", "x", 1.15, measured, at_most=False)


def gib(amount: float | None) -> float | None:
    return None if amount is None else amount / GIB


def of_parts(results: Results) -> Iterator[Line]:
    """The targets of the other parts."""
    get = results.get
    same = get("determinism", "same")
    yield Line("deterministic: equal adapters of 3 runs, one killed", "", 1,
               None if same is None else float(same), at_most=False)  # fmt: skip
    yield Line("deterministic: time of a step, over that without", "x", 1.1,
               get("determinism", "deterministic_ratio"))  # fmt: skip
    yield Line(
        "start to first step, beside reading", "s", 12, get("first_step", "warm_beside_reading")
    )
    for kind, most in (("cold", 20), ("warm", 5)):
        yield Line(
            f"compiling: first step, {kind}", "s", most, get("compiling", "first_step", kind)
        )
    yield Line("compiling: graph breaks", "", 0, get("compiling", "graph_breaks"))
    for kind in ("adaln", "blocks"):
        yield Line(f"copies hidden behind the computation, {kind}", "", 0.9,
                   get("host_copies", "hidden", kind), at_most=False)  # fmt: skip
    ratios = get("eight_bit", "ratios", "2432") or {}
    for scheme in W8A8:
        ratio = ratios.get(scheme)  # in words where the device refuses it
        yield Line(f"{scheme}: a layer of SD3.5 large, times as fast as bf16", "x", 1.15,
                   ratio if isinstance(ratio, float) else None, at_most=False)  # fmt: skip
    yield Line("models with random weights written", "s", 60, get("random_models", "seconds"))


def agreement(results: Results) -> dict[str, Any]:
    """How far the plan was from every measured row: measured over predicted."""
    memory, times = {}, {}
    for row in ROWS:
        found = results.row(row)
        if found.get("peak_bytes") and found.get("predicted_bytes"):
            memory[row.name] = found["peak_bytes"] / found["predicted_bytes"]
        if found.get("seconds") and found.get("predicted_seconds"):
            times[row.name] = found["seconds"] / found["predicted_seconds"]
    near: Callable[[float], bool] = lambda factor: abs(factor - 1) <= MEMORY_WITHIN  # noqa: E731
    errors = [results.row(row).get("predicted_error") for row in ROWS]
    stated = max((e for e in errors if e), default=0.0)
    return {
        "memory": memory,
        "time": times,
        "memory_within_2_percent": [n for n, f in memory.items() if near(f)],
        "time_within_stated": [n for n, f in times.items() if 1 / (1 + stated) <= f <= 1 + stated],
        "stated_error": stated,
    }


def words(found: dict[str, Any]) -> Iterator[str]:
    """The agreement, for people."""
    for what, good in (("memory", "memory_within_2_percent"), ("time", "time_within_stated")):
        factors = found[what]
        if factors:
            within = "2 %" if what == "memory" else f"{found['stated_error']:.0%}"
            least, most = min(factors.values()), max(factors.values())
            middle = statistics.median(factors.values())
            yield (
                f"{what}: {len(found[good])} of {len(factors)} rows within {within} of the plan; "
                f"measured / planned {least:.3f} to {most:.3f}, median {middle:.3f}"
            )
            yield from (f"  {name}: {factor:.3f}" for name, factor in factors.items()
                        if name not in found[good])  # fmt: skip


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("results", type=Path)
    given = made.parse_args()
    results = Results(given.results)
    lines = [*of_rows(results), *of_parts(results)]
    print(
        f"\n{'target':<81}" + "".join(f"{c:>10}" for c in ("wanted", "plan", "measured")) + "  met"
    )
    for line in lines:
        print(line.text())
    found = agreement(results)
    print("\n" + "\n".join(words(found)))
    table = {f"{line.name} {line.unit}".rstrip():
             asdict(line) | {"ratio": line.ratio, "met": line.met} for line in lines}  # fmt: skip
    for cell in table.values():  # regressions.py compares what is a number
        if cell["ratio"] is None:
            del cell["ratio"]
    measured = results.get("full_size", "machine") or results.get("card_check", "machine")
    machine.report("card", {"measured_on": measured, "targets": table, "agreement": found},
                   given.json)  # fmt: skip


if __name__ == "__main__":
    main()
