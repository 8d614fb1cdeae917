"""What a training step takes beside the bare loop that does the same work.

    python benchmarks/step.py [--model tiny|78m] [--steps N] [--checkpointed] [--json FILE]

Ours is the real loop with full caches, logs and events; the bare loop is diffusers, peft and
torch.optim.AdamW over batches that lie in memory. They alternate step by step in one process, so
both see the same machine. The ratio is that of the medians; `cpu` is that of the time of all
threads, which a busy machine changes less. LoRA of rank 8, batch 4, 128 px, no dropout.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch
from bare_loop import Bare

from sd3tune import backends

SIZES = {"tiny": None, "78m": 8}  # layers, and heads of 64 values
WARM = 10  # steps before the clock starts


def project(folder: Path, layers: int | None) -> Path:
    """The demo's configuration; layers: None keeps the demo's tiny SD3.5 medium."""
    from sd3tune import demo
    from sd3tune.demo import tiny
    from sd3tune.tables.architectures import ARCHITECTURES

    demo.write(folder, model="sd3.5-medium")
    if layers is not None:
        shape = {**ARCHITECTURES["sd3.5-medium"].tiny, "num_layers": layers}
        model = tiny.transformer(shape)
        model.save_pretrained(str(folder / "models" / "sd3.5-medium" / "transformer"))
    return folder / "config" / "config.json"


class Alternation:
    """Called after each of our steps: takes a bare one, and keeps the times of both."""

    def __init__(self, bare: Callable[[], None]) -> None:
        self._bare = bare
        self.ours: list[tuple[float, float]] = []
        self.others: list[tuple[float, float]] = []
        self._since = now()

    def __call__(self) -> None:
        before = now()
        self.ours.append(minus(before, self._since))
        self._bare()
        self._since = now()
        self.others.append(minus(self._since, before))


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def minus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] - b[0], a[1] - b[1]


def measure(config: Path, words: tuple[str, ...], *, checkpointed: bool) -> Alternation:
    """Trains as `config` says, the stages as in train/run.py, and takes a bare step after each of
    our steps."""
    from sd3tune.config.config import Config
    from sd3tune.devices import observe
    from sd3tune.encode.everything import filled, make_output
    from sd3tune.prepare import prepare
    from sd3tune.processes.world import ALONE_ON_CPU as WORLD
    from sd3tune.report import metrics
    from sd3tune.report.progress import stage
    from sd3tune.train.begin import begin
    from sd3tune.train.guard import Guard
    from sd3tune.train.interrupt import interruptible
    from sd3tune.train.lock import claimed
    from sd3tune.train.loop import Chore, Job, every, loop
    from sd3tune.train.recipe import Recipe
    from sd3tune.train.sinks import event_stream
    from sd3tune.train.step_log import StepLog

    prepared = prepare(Config.load(config, words), observe())
    plan = prepared.plan
    make_output(plan.output_dir)
    with claimed(plan.output_dir, main=True) as claim, interruptible() as interrupt:
        caches = filled(prepared, (), WORLD.device, backends.module("cpu"), WORLD)
        state, loader = begin(plan, WORLD), caches.loader(WORLD, lambda epoch: None)
        with loader.batches() as batches:
            some = [next(batches) for _ in range(16)]
        bare = Bare.of(Path(plan.model.source.base), some, checkpointed=checkpointed)
        alternation = Alternation(bare.step)
        guard = Guard.of(plan, caches.prepared.samples)
        job = Job(Recipe.of(plan), guard, plan.optimizer.rate, plan.steps, 1, WORLD)
        chores = [Chore(every(1), claim.renew), Chore(every(1), alternation)]
        with (
            event_stream(caches.prepared, WORLD, state) as stream,
            loader.batches() as batches,
            stage("train", plan.steps) as bar,
        ):
            rows = metrics.Metrics(plan.output_dir / metrics.FILE, 0)
            log = StepLog(plan, rows, bar, WORLD, stream)
            loop(state, batches, job, chores, interrupt, log)
    return alternation


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--model", choices=SIZES, default="tiny", help="78m: 8 layers of width 512")
    parser.add_argument("--steps", type=int, default=100, help="measured after 10 others")
    parser.add_argument("--checkpointed", action="store_true", help="every block")
    parser.add_argument("settings", nargs="*", help="more settings of the run, as key=value")
    given = parser.parse_args()
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = project(Path(folder) / "demo", SIZES[given.model])
        checkpointing = f"gradient_checkpointing={str(given.checkpointed).lower()}"
        words = (f"max_train_steps={WARM + given.steps}", "validation_disable=true",
                 "lr_warmup_steps=0", f"output_dir={folder}/output",
                 checkpointing, *given.settings)  # fmt: skip
        both = measure(config, words, checkpointed=given.checkpointed)
    medians = [[statistics.median(t[i] for t in times[WARM:]) for i in (0, 1)]
               for times in (both.ours, both.others)]  # fmt: skip
    (ours, ours_cpu), (bare, bare_cpu) = medians
    result = {
        "model": given.model,
        "checkpointed": given.checkpointed,
        "steps": given.steps,
        "ours_ms": round(1000 * ours, 2),
        "bare_ms": round(1000 * bare, 2),
        "ours_cpu_ms": round(1000 * ours_cpu, 2),
        "bare_cpu_ms": round(1000 * bare_cpu, 2),
        "ratio": round(ours / bare, 3),
        "cpu_ratio": round(ours_cpu / bare_cpu, 3),
    }
    machine.report("step", result, given.json)


if __name__ == "__main__":
    main()
