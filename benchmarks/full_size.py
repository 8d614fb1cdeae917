"""SD3.5 at full size on this card: seconds and memory of a step, beside the plan and the bare loop.

    python benchmarks/full_size.py FOLDER [--rows NAME,NAME] [--seconds 600] [--json FILE]

FOLDER: of `python benchmarks/random_models.py FOLDER`, which writes the models without a hub. Each
row is a run of the real trainer in a process of its own: 4 steps to warm up and 8 that are
measured. A row prints a line as soon as it ends. When the seconds are used up, the rows that are
left are named and not run: on a rented card the first rows are those that matter.

    python benchmarks/random_models.py try --size tiny; python benchmarks/full_size.py try

rehearses every row on the demo's shapes, on any machine. Figures then mean nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
from random_models import PIXELS, SIDE, accelerator

WARM, STEPS = 4, 8
LARGE, MEDIUM = "sd3.5-large", "sd3.5-medium"
KEEP, ALL = "gradient_checkpointing=false", "gradient_checkpointing=true"
EAGER, COMPILED = "dynamo_backend=no", "dynamo_backend=inductor"
MATMUL_SIDE = 8192


@dataclass(frozen=True)
class Row:
    """One line of the table. published: SimpleTuner's s/step and GiB on an H100 (its documentation,
    August 2026)."""

    name: str
    model: str
    batch: int
    settings: tuple[str, ...]
    rank: int = 16
    side: int = 1024
    published: tuple[float, float] | None = None
    bare: bool = False  # the bare loop instead of ours

    def words(self, side: int) -> tuple[str, ...]:
        """The settings of the run. side: of its pictures."""
        return (f"pretrained_model_name_or_path=models/{self.model}", f"resolution={side}",
                f"train_batch_size={self.batch}", f"lora_rank={self.rank}",
                f"lora_alpha={self.rank}", *self.settings)  # fmt: skip


# In the order of what is wanted first from a card that is at hand for a quarter of an hour.
ROWS = (
    Row("medium, kept, compiled", MEDIUM, 3, (KEEP, COMPILED), 128, published=(0.529, 34.59)),
    Row("medium, kept, eager", MEDIUM, 3, (KEEP, EAGER), 128, published=(0.529, 34.59)),
    Row("medium, checkpointed, compiled", MEDIUM, 3, (ALL, COMPILED), 128,
        published=(0.721, 7.67)),
    Row("medium, checkpointed, eager", MEDIUM, 3, (ALL, EAGER), 128, published=(0.721, 7.67)),
    Row("large, batch 4, checkpointed, compiled", LARGE, 4, (ALL, COMPILED)),
    Row("large, batch 4, checkpointed, eager", LARGE, 4, (ALL, EAGER)),
    Row("large, bare loop, compiled", LARGE, 4, (ALL, COMPILED), bare=True),
    Row("large, bare loop, eager", LARGE, 4, (ALL, EAGER), bare=True),
    Row("medium, bare loop, compiled", MEDIUM, 3, (KEEP, COMPILED), 128, bare=True),
    Row("medium, bare loop, eager", MEDIUM, 3, (KEEP, EAGER), 128, bare=True),
    Row("large, int8-quanto", LARGE, 1, (ALL, EAGER, "base_model_precision=int8-quanto")),
    Row("large, nf4-bnb", LARGE, 1, (ALL, EAGER, "base_model_precision=nf4-bnb")),
    Row("large, nf4-bnb, 512 px, rank 1", LARGE, 1,
        (ALL, EAGER, "base_model_precision=nf4-bnb", "optimizer=bnb-lion8bit-paged"), 1, 512),
    Row("large, int2-quanto", LARGE, 1, (ALL, EAGER, "base_model_precision=int2-quanto")),
    Row("large, fp8-quanto", LARGE, 1, (ALL, EAGER, "base_model_precision=fp8-quanto")),
    Row("large, batch 1, checkpointed, eager", LARGE, 1, (ALL, EAGER)),
    Row("large, batch 1, checkpointed, compiled", LARGE, 1, (ALL, COMPILED)),
    Row("medium, 512 px, kept, compiled", MEDIUM, 3, (KEEP, COMPILED), 128, 512),
    Row("medium, 512 px, kept, eager", MEDIUM, 3, (KEEP, EAGER), 128, 512),
)  # fmt: skip


def pixels(config: Path, row: Row) -> int:
    """The side of the row's pictures in this folder: less where the models are tiny."""
    return row.side * int((config.parents[1] / PIXELS).read_text()) // SIDE["full"]


def ours(config: Path, row: Row) -> dict[str, Any]:
    """One row in this process, which has done nothing else yet."""
    from sd3tune import backends
    from sd3tune.backends.observe import probing
    from sd3tune.config.config import Config
    from sd3tune.devices import observe
    from sd3tune.plan.duration import step_duration, step_operations
    from sd3tune.prepare import prepare
    from sd3tune.train.run import train

    output = config.parents[1] / "runs" / row.name.replace(", ", "-").replace(" ", "-")
    words = (*row.words(pixels(config, row)), f"max_train_steps={WARM + STEPS}",
             f"output_dir={output}", "resume_from_checkpoint=never",
             "checkpoint_step_interval=10000")  # fmt: skip
    prepared = prepare(Config.load(config, words), observe(),
                       run_probes=probing.on_this_machine())  # fmt: skip
    plan, load = prepared.plan, prepared.plan.memory.load
    expected = step_duration(plan, load.tokens)
    train(prepared, ())
    peak = backends.module(plan.facts.vendor).used_bytes(plan.hardware.device.index)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": statistics.median(r["seconds"] for r in rows[-STEPS:]),
        "first_step_seconds": rows[-WARM - STEPS]["seconds"],
        "peak_bytes": peak,
        "predicted_seconds": expected and expected.seconds,
        "predicted_bytes": plan.memory.estimate.tensors,
        "operations": step_operations(plan, load.tokens),
        "attention": plan.attention.training.value,
    }


def bare(config: Path, row: Row) -> dict[str, Any]:
    """The bare loop of the same work."""
    import torch
    from bare_loop import Bare
    from diffusers import SD3Transformer2DModel

    device, source = accelerator(), config.parents[1] / "models" / row.model
    half = torch.bfloat16
    model = SD3Transformer2DModel.from_pretrained(source, subfolder="transformer",
                                                  torch_dtype=half).to(device)  # fmt: skip
    known, side = model.config, pixels(config, row) // 8
    batch = (
        torch.randn(row.batch, 16, side, side, device=device),
        torch.randn(row.batch, 231, known.joint_attention_dim, device=device),
        torch.randn(row.batch, known.pooled_projection_dim, device=device),
    )
    loop = Bare(model, [batch], rank=row.rank, checkpointed=ALL in row.settings,
                compiled=COMPILED in row.settings, autocast=half)  # fmt: skip
    times = []
    for _ in range(WARM + STEPS):
        started = time.perf_counter()
        loop.step()
        times.append(time.perf_counter() - started)
    peak = torch.accelerator.max_memory_allocated() if device != "cpu" else None
    return {"seconds": statistics.median(times[-STEPS:]), "first_step_seconds": times[0],
            "peak_bytes": peak}  # fmt: skip


def matmul_rate() -> float | None:
    """Operations a second of a large bf16 product on the accelerator; None without one."""
    import torch

    device = accelerator()
    if device == "cpu":
        return None
    shape = (MATMUL_SIDE, MATMUL_SIDE)
    a, b = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))
    for count in (3, 10):
        torch.accelerator.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            a @ b
        torch.accelerator.synchronize()
    return 2 * MATMUL_SIDE**3 * 10 / (time.perf_counter() - started)


def child(folder: Path, name: str, limit: float) -> dict[str, Any]:
    """A row, or the matmul rate, in a process of its own. `failed`: its last line."""
    command = [sys.executable, __file__, str(folder), "--row", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(10, limit))
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {limit:.0f} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def line(row: Row, result: dict[str, Any], rate: float | None) -> str:
    """For people: measured, predicted, published."""
    if "failed" in result:
        return f"{row.name:<40} FAILED: {result['failed'][:120]}"
    gib = 2**30
    text = f"{row.name:<40} {result['seconds']:.3f} s"
    if result.get("predicted_seconds"):
        text += f" (plan {result['predicted_seconds']:.3f})"
    if result.get("peak_bytes"):
        text += f"  {result['peak_bytes'] / gib:.2f} GiB"
    if result.get("predicted_bytes"):
        text += f" (plan {result['predicted_bytes'] / gib:.2f})"
    if rate and result.get("operations"):
        text += f"  {result['operations'] / result['seconds'] / rate:.0%} of the matmul rate"
    if row.published:
        text += f"  published {row.published[0]:.3f} s, {row.published[1]:.2f} GiB"
    return text


def table(folder: Path, rows: list[Row], seconds: float) -> dict[str, Any]:
    """All rows, as far as the time goes. The first run fills the caches, unmeasured."""
    ends = time.monotonic() + seconds
    rate = child(folder, "matmul", seconds)["rate"]
    if rate:
        print(f"matmul {rate / 1e12:.0f} TFLOP/s in bf16", flush=True)
    results: dict[str, Any] = {}
    for side in sorted({row.side for row in rows}):
        print(f"caches of {side} px: {child(folder, f'caches {side}', ends - time.monotonic())}",
              flush=True)  # fmt: skip
    for row in rows:
        left = ends - time.monotonic()
        if left < 10:
            print(f"{row.name:<40} not run: the time is over", flush=True)
            continue
        results[row.name] = result = child(folder, row.name, left)
        print(line(row, result, rate), flush=True)
    return {"matmul_rate": rate, "rows": results}


def run_row(folder: Path, name: str) -> dict[str, Any]:
    """In the child."""
    config = folder / "config" / "config.json"
    if name == "matmul":
        return {"rate": matmul_rate()}
    if name.startswith("caches "):
        side = int(name.removeprefix("caches "))
        return ours(config, Row(name, MEDIUM, 1, (ALL, EAGER), side=side))
    row = next(row for row in ROWS if row.name == name)
    return bare(config, row) if row.bare else ours(config, row)


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("folder", type=Path, help="of random_models.py")
    made.add_argument("--rows", help="names of rows, separated by semicolons; all if left out")
    made.add_argument("--seconds", type=float, default=600, help="the whole table may take")
    made.add_argument("--row", help=argparse.SUPPRESS)
    given = made.parse_args()
    os.chdir(given.folder)
    if given.row:
        print(json.dumps(run_row(Path.cwd(), given.row)))
        return
    asked = None if given.rows is None else given.rows.split(";")
    rows = [row for row in ROWS if asked is None or row.name in asked]
    machine.report("full_size", table(Path.cwd(), rows, given.seconds), given.json)


if __name__ == "__main__":
    main()
