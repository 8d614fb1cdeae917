"""Peak memory of training steps at full size: predicted, counted, measured and published.

    python benchmarks/memory.py [--only TEXT] [--count] [--measured FILE] [--json FILE]

Each row is one run on an H200 with random weights (docs/reference/memory.md), or one that
SimpleTuner publishes for an H100 (its documentation, August 2026). Without options a row is the
formula's answer, in a second, beside the measured or published one. --count also runs the step
under fake tensors: 20 to 60 s of a core for each row. --measured takes the JSON file of
`benchmarks/full_size.py` on a card and compares what that card allocated. No card and no weights
are needed otherwise. Figures are GiB of allocated memory; workspaces of cuBLAS are included,
contexts and the allocator's slack are not.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import machine

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.limits import LIBRARY_BYTES
from sd3tune.config.config import Config
from sd3tune.data.buckets import Geometry
from sd3tune.data.discover import Sample
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import GIB
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find

LARGE, MEDIUM = "stabilityai/stable-diffusion-3.5-large", "stabilityai/stable-diffusion-3.5-medium"
NF4 = {"base_model_precision": "nf4-bnb", "optimizer": "bnb-lion8bit-paged", "lora_rank": 1}
KEPT = {"gradient_checkpointing": False, "gradient_checkpointing_keep": None}
OURS, THEIRS = "ours on an H200", "SimpleTuner on an H100"


@dataclass(frozen=True)
class Row:
    """One run. known: GiB, as `source` measured them; None: not measured. full_size: the name of
    the same run in benchmarks/full_size.py. note: what makes the comparison unequal."""

    name: str
    model: str
    batch: int
    known: float | None
    source: str = OURS
    settings: dict[str, Any] = field(default_factory=dict)
    side: int = 1024
    full_size: str = ""
    note: str = ""


RECIPE = {"lora_rank": 128}  # SimpleTuner's table: batch 3, rank 128, 1024 px
ROWS = (
    Row("medium, kept", MEDIUM, 3, 34.67, OURS, RECIPE | KEPT,
        full_size="medium b3 r128 1024 px, kept, eager"),
    Row("medium, checkpointed", MEDIUM, 3, 7.84, OURS, RECIPE,
        full_size="medium b3 r128 1024 px, checkpointed, eager"),
    Row("medium, batch 4", MEDIUM, 4, 7.99),
    Row("large, batch 4", LARGE, 4, 21.07, full_size="large b4 r16 1024 px, checkpointed, eager"),
    Row("large, int8", LARGE, 1, 11.97, OURS, {"base_model_precision": "int8-quanto"},
        full_size="large b1 r16 1024 px, int8-quanto, checkpointed, eager"),
    Row("large, int2", LARGE, 1, 8.42, OURS, {"base_model_precision": "int2-quanto"},
        full_size="large b1 r16 1024 px, int2-quanto, checkpointed, eager"),
    Row("large, nf4, rank 1", LARGE, 1, None, OURS, NF4),
    Row("large, nf4, rank 1, 512 px", LARGE, 1, None, OURS, NF4, 512),
    Row("nothing checkpointed", MEDIUM, 3, 34.59, THEIRS, RECIPE | KEPT),
    Row("every layer", MEDIUM, 3, 7.67, THEIRS, RECIPE),
    Row("interval 2", MEDIUM, 3, 8.93, THEIRS,
        RECIPE | {"gradient_checkpointing_interval": 2, "gradient_checkpointing_keep": None},
        note="theirs recomputes all layers, two at a time; ours every second one: not comparable"),
    Row("segments of 2, stride 4", MEDIUM, 3, 20.14, THEIRS,
        RECIPE | {"gradient_checkpointing_interval": 2, "gradient_checkpointing_keep": None},
        note="both recompute half of the layers"),
    Row("activations offloaded", MEDIUM, 3, 9.68, THEIRS,
        RECIPE | {"gradient_checkpointing_backend": "unsloth"},
        note="theirs offloads what layers keep, ours the inputs of checkpointed ones: not "
             "comparable"),
    Row("int8, nothing checkpointed", MEDIUM, 3, 33.66, THEIRS,
        RECIPE | KEPT | {"base_model_precision": "int8-quanto"},
        note="quanto's layers keep copies of their inputs; which library theirs used is not said"),
    Row("int8, every layer", MEDIUM, 3, 6.58, THEIRS,
        RECIPE | {"base_model_precision": "int8-quanto"}),
)  # fmt: skip
EVERY: dict[str, Any] = {
    "output_dir": "o", "data_backend_config": "d", "max_train_steps": 10, "lora_rank": 16,
    "gradient_checkpointing": True, "gradient_checkpointing_keep": "inputs",
    "modulations": "device", "base_model_precision": "no_change", "dynamo_backend": "no",
}  # fmt: skip


def plan_of(row: Row) -> Plan:
    """The plan of a row on an H200."""
    size = (row.side, row.side)
    shape = Geometry(size, (0, 0), size, 1.0)
    samples = [Sample("d", f"{i}.png", f"{i}.png", size, ("x",), shape, i) for i in range(20)]
    values = EVERY | {"train_batch_size": row.batch, "resolution": row.side} | row.settings
    config = Config(**{name: value for name, value in values.items() if value is not None})
    return resolve(RunInputs(config, chips.facts(chips.chip("h200")), find(row.model), samples))


def result(row: Row, measured: dict[str, float], *, count: bool) -> dict[str, Any]:
    """GiB of one row, and ratios to what is known."""
    plan, libraries = plan_of(row), LIBRARY_BYTES["cuda"]
    found: dict[str, Any] = {
        "predicted_gib": round((plan.memory.estimate.tensors + libraries) / GIB, 2),
        "source": row.source,
        "known_gib": row.known,
        "note": row.note,
    }
    if row.known is not None:
        found["predicted_to_known"] = round(found["predicted_gib"] / row.known, 3)
    if count:
        from sd3tune.counted.training_step import count as counted

        peak = counted(plan.model.transformer, plan.memory.load).peak
        found["counted_gib"] = round((peak + libraries) / GIB, 2)
        found["predicted_to_counted"] = round(found["predicted_gib"] / found["counted_gib"], 3)
    if row.full_size in measured:
        found["measured_gib"] = round(measured[row.full_size], 2)
        found["predicted_to_measured"] = round(found["predicted_gib"] / measured[row.full_size], 3)
    return found


def measured_rows(path: Path | None) -> dict[str, float]:
    """GiB that a card allocated, by the names of benchmarks/full_size.py."""
    if path is None:
        return {}
    rows = json.loads(path.read_text())["rows"]
    peaks = ((name, row.get("peak_bytes")) for name, row in rows.items())
    return {name: peak / GIB for name, peak in peaks if peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--count", action="store_true", help="count each step under fake tensors")
    parser.add_argument("--measured", type=Path, help="the JSON file of full_size.py on a card")
    parser.add_argument("--json", type=Path, help="a file for the result")
    given = parser.parse_args()
    measured, rows = measured_rows(given.measured), {}
    for row in (row for row in ROWS if given.only in row.name):
        found = rows[row.name] = result(row, measured, count=given.count)
        parts = {"predicted": "predicted_gib", "counted": "counted_gib", row.source: "known_gib",
                 "this card": "measured_gib"}  # fmt: skip
        words = [f"{what} {found[key]}" for what, key in parts.items() if found.get(key)]
        print(f"{row.name}: {', '.join(words)} GiB", flush=True)
    machine.report("memory", {"rows": rows}, given.json)


if __name__ == "__main__":
    main()
