"""Loss curves of every kind of adapter over every precision of the frozen weights.

    python benchmarks/curves.py [STEPS]               100 steps unless given

The demo's tiny SD3.5 medium and photographs; the same seed, hence the same images and noise in each
row. Shown are the evaluation loss before and after (fixed images, noise and levels) and the mean
training loss of each quarter of the run.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import torch

from sd3tune.tables.schemes import SCHEMES

ADAPTERS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "dora": ("use_dora=true",),
    "lokr": ("lora_type=lycoris", "lycoris_config=lokr"),
    "loha": ("lora_type=lycoris", "lycoris_config=loha"),
    "oft": ("lora_type=lycoris", "lycoris_config=diag-oft"),
    "full": ("model_type=full", "learning_rate=1e-3"),
}
MACHINE: list[Any] = []
USUAL = ("validation_disable=true", "lr_warmup_steps=0", "lr_scheduler=constant",
         "learning_rate=3e-3", "resume_from_checkpoint=never")  # fmt: skip


def curve(output: Path) -> list[float]:
    """Mean training loss of each quarter."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    size = len(losses) // 4
    return [sum(losses[i * size : (i + 1) * size]) / size for i in range(4)]


def planned(path: Path, words: tuple[str, ...]) -> Any:
    """The plan for this machine, which is asked once: that takes seconds."""
    from sd3tune.backends.observe import probing
    from sd3tune.config.config import Config
    from sd3tune.devices import observe
    from sd3tune.prepare import prepare

    if not MACHINE:
        MACHINE.append(observe())
    config = Config.load(path, words)
    return prepare(config, MACHINE[0], run_probes=probing.on_this_machine())


def main() -> None:
    made = machine.parser(__doc__, writes_json=False)
    made.add_argument("steps", type=int, nargs="?", default=100)
    steps = made.parse_args().steps
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    torch.set_num_threads(1)
    from sd3tune.demo import write
    from sd3tune.train.run import train

    print(f"{platform.machine()}, tiny SD3.5 medium, {steps} steps")
    print(f"{'adapter':<8}{'weights':<13}{'before':>8}{'after':>8}{'change':>8}  "
          f"{'mean loss of each quarter':<32}{'s':>6}")  # fmt: skip
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent)
        write(root / "demo", model="sd3.5-medium")
        for algo in ("lokr", "loha", "diag-oft"):
            size = {"factor": 4} if algo == "lokr" else {}
            config = {"algo": algo, "linear_dim": 8, "linear_alpha": 8, **size}
            (root / algo).write_text(json.dumps(config))
        for name, words in ADAPTERS.items():
            words = tuple(w.replace("lycoris_config=", f"lycoris_config={root}/") for w in words)
            for precision in ("no_change",) if name == "full" else SCHEMES:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                output = root / f"{name}-{precision}"
                asked = (*USUAL, f"max_train_steps={steps}", f"output_dir={output}", *words)
                asked = tuple({w.split("=")[0]: w for w in asked}.values())
                if name != "full":
                    asked += (f"base_model_precision={precision}",)
                started = time.perf_counter()
                found = train(planned(root / "demo" / "config" / "config.json", asked), ())
                seconds = time.perf_counter() - started
                assert found.loss_before is not None and found.loss_after is not None
                change = found.loss_after / found.loss_before - 1
                quarters = " ".join(f"{loss:7.4f}" for loss in curve(output))
                print(f"{name:<8}{precision:<13}{found.loss_before:>8.4f}{found.loss_after:>8.4f}"
                      f"{change:>8.1%}  {quarters:<32}{seconds:>6.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
