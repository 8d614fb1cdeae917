"""Whether the same run gives the same adapter on this device, and what `deterministic` costs.

    python benchmarks/determinism.py FOLDER [--model sd3.5-medium] [--steps 50] [--json FILE]

FOLDER: of random_models.py. Four runs of the real command: as it is, twice with deterministic=true,
and once with it, killed after half of the steps and started again. The first two run alone, and
give the time of a step with `deterministic` over that without; the others run beside each other.
Shown are the hashes of the adapters.
"""

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import machine
from random_models import PIXELS

WARM = 4  # steps before the clock counts


def command(given: Any, name: str, *more: str) -> list[str]:
    """`sd3tune train`, with an output folder of its own."""
    side = Path(PIXELS).read_text()
    return [sys.executable, "-m", "sd3tune", "train", "config/config.json",
            f"pretrained_model_name_or_path=models/{given.model}", f"resolution={side}",
            f"max_train_steps={given.steps}",
            f"checkpoint_step_interval={max(1, given.steps // 5)}",
            "lora_dropout=0.1", f"output_dir=runs/{name}", *more]  # fmt: skip


def run(arguments: list[str]) -> None:
    """To the end; its output is shown where it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stderr[-2000:]}")


def killed(arguments: list[str], rows: Path, steps: int) -> None:
    """Kills the run once so many steps are on the disk."""
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        if rows.exists() and rows.read_bytes().count(b"\n") >= steps:
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    child.wait()


def adapter_hash(name: str) -> str:
    """Of the tensors' bytes; the header holds the date."""
    from safetensors.numpy import load_file

    tensors = load_file(f"runs/{name}/pytorch_lora_weights.safetensors")
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].tobytes())
    return digest.hexdigest()[:16]


def step_seconds(name: str) -> float:
    """The median of a run's steps."""
    rows = [json.loads(x) for x in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()]
    return statistics.median(float(row["seconds"]) for row in rows[WARM:])


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("folder", type=Path, help="of random_models.py")
    made.add_argument("--model", default="sd3.5-medium")
    made.add_argument("--steps", type=int, default=50)
    given = made.parse_args()
    os.chdir(given.folder)
    stamp = f"{time.time():.0f}"  # folders that no earlier run has used
    names = {kind: f"determinism-{stamp}-{kind}" for kind in ("plain", "first", "second", "killed")}
    run(command(given, names["plain"], "deterministic=false"))
    exact = {kind: command(given, name, "deterministic=true") for kind, name in names.items()}
    run(exact["first"])

    def interrupted() -> None:
        killed(exact["killed"], Path("runs", names["killed"], "metrics.jsonl"), given.steps // 2)
        run(exact["killed"])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run, exact["second"]), pool.submit(interrupted)]:
            done.result()
    hashes = {kind: adapter_hash(name) for kind, name in names.items()}
    result = {
        "model": given.model,
        "steps": given.steps,
        "adapters": hashes,
        "same": len({hashes[k] for k in ("first", "second", "killed")}) == 1,
        "deterministic_ratio": step_seconds(names["first"]) / step_seconds(names["plain"]),
    }
    machine.report("determinism", result, given.json)
    sys.exit(not result["same"])


if __name__ == "__main__":
    main()
