"""The plan's step time beside a real step on this processor: wanted within 30 %.

    python benchmarks/predicted.py [--only WORD] [--steps N] [--wall] [--json FILE]

Each row is a run of the demo's tiny SD3.5 medium, or of 78 million weights (8 layers of width 512).
Its steps are real ones (`train_step`), of batches of random numbers with the run's shapes. The
predicted time is that of the plan, with the rates that the probe measures between the steps, in the
same process and with the same clock: that of this thread, which a busy machine changes less, or
with --wall the time that passes, for an idle machine. `ratio` is predicted over measured. One
thread. A card's steps are in full_size.py.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import torch
from step import SIZES, project

from sd3tune.backends.decide.speeds import figures_of
from sd3tune.backends.kernels.rates import rates

CPU = torch.device("cpu")
WITHIN = 0.3


@dataclass(frozen=True)
class Row:
    """A run. pixels: sides of its images."""

    model: str
    batch: int
    pixels: int
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        more = "".join(f", {word}" for word in self.words)
        return f"{self.model}, batch {self.batch}, {self.pixels} px{more}"


KEPT = ("gradient_checkpointing=false",)
AGAIN = ("gradient_checkpointing=true", "gradient_checkpointing_keep=inputs")
ATTENTION = ("gradient_checkpointing=true", "gradient_checkpointing_keep=attention")
ROWS = (
    Row("tiny", 4, 128, KEPT),
    Row("tiny", 4, 128, AGAIN),
    Row("tiny", 4, 256, KEPT),
    Row("tiny", 4, 128, (*KEPT, "batch_split=4")),
    Row("tiny", 2, 128, (*KEPT, "lora_dropout=0.1", "lora_rank=32")),
    Row("78m", 2, 128, KEPT),
    Row("78m", 2, 256, KEPT),
    Row("78m", 2, 256, AGAIN),
    Row("78m", 2, 256, ATTENTION),
    Row("78m", 1, 512, KEPT),
    Row("78m", 4, 128, (*KEPT, "batch_split=2")),
    Row("78m", 1, 128, ("model_type=full", "optimizer=adamw", "learning_rate=1e-6")),
)


def planned(config: Path, row: Row, output: Path) -> Any:
    """The plan of the row's run."""
    from sd3tune.prepare import prepare_run

    words = ("validation_disable=true", "max_train_steps=100", "lr_warmup_steps=0")
    of_row = (f"train_batch_size={row.batch}", f"output_dir={output}", *row.words)
    return prepare_run(config, (*words, *of_row)).plan


def batch_of(plan: Any, row: Row) -> Any:
    """Random numbers of the run's shapes."""
    from sd3tune.data.batch import Batch
    from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE

    shape, side = plan.model.transformer, row.pixels // VAE_SCALE
    text = CLIP_TOKENS + plan.memory.load.text_tokens
    return Batch(
        tuple(range(row.batch)),
        torch.randn(row.batch, shape.channels, side, side),
        torch.randn(row.batch, text, shape.joint_dim),
        torch.randn(row.batch, shape.pooled_dim),
    )


def measure(
    config: Path, row: Row, output: Path, steps: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Steps and the probe of rates, taking turns."""
    from sd3tune.backends.decide.speeds import speed
    from sd3tune.plan.duration import step_seconds
    from sd3tune.processes.world import ALONE_ON_CPU
    from sd3tune.sd3.variants import tokens
    from sd3tune.train.begin import begin
    from sd3tune.train.recipe import Recipe
    from sd3tune.train.step import train_step

    plan = planned(config, row, output)
    state, batch, recipe = begin(plan, ALONE_ON_CPU), batch_of(plan, row), Recipe.of(plan)
    train_step(state, [batch], recipe)  # warms up
    taken, figures = [], []
    for _ in range(steps):
        figures.append(figures_of(rates(CPU, clock)))
        started = clock()
        train_step(state, [batch], recipe)
        taken.append(clock() - started)
    # The best of each figure: others make a kernel slower, and nothing makes it faster.
    best = {
        name: (min if name == "launch" else max)(f[name] for f in figures) for name in figures[0]
    }
    known = speed(replace(plan.facts, rates=best))
    assert known is not None
    image = tokens(row.pixels, row.pixels)
    load = replace(plan.memory.load, tokens=image)
    expected = step_seconds(plan.model.transformer, load, known, image)
    measured = statistics.median(taken)
    return {
        "row": row.name,
        "measured_ms": round(1000 * measured, 1),
        "fastest_ms": round(1000 * min(taken), 1),
        "predicted_ms": round(1000 * expected, 1),
        "ratio": round(expected / measured, 3),
        "within": max(expected / measured, measured / expected) <= 1 + WITHIN,
        "rates": {name: float(f"{value:.4g}") for name, value in best.items()},
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this word")
    parser.add_argument("--steps", type=int, default=5, help="of each row  [5]")
    parser.add_argument("--wall", action="store_true", help="the time that passes")
    given = parser.parse_args()
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    torch.set_num_threads(1)
    clock = time.perf_counter if given.wall else time.thread_time
    results = []
    with tempfile.TemporaryDirectory() as folder:
        configs = {name: project(Path(folder) / name, layers) for name, layers in SIZES.items()}
        for row in (r for r in ROWS if given.only in r.name):
            one = measure(configs[row.model], row, Path(folder) / "output", given.steps, clock)
            print(f"{one['ratio']:5.2f}  {one['predicted_ms']:8.1f} ms predicted, "
                  f"{one['measured_ms']:8.1f} measured  {row.name}", flush=True)  # fmt: skip
            results.append(one)
    clock_name = "wall" if given.wall else "thread"
    within = sum(one["within"] for one in results)
    summary = {"clock": clock_name, "within_30_percent": f"{within} of {len(results)}"}
    machine.report("predicted", {**summary, "rows": results}, given.json)


if __name__ == "__main__":
    main()
