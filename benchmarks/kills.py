"""Kill -9 at random moments, saves included: does anything get lost?

    python benchmarks/kills.py [KILLS] [STEPS]        100 kills, 300 steps unless given

One undisturbed run, and one that is killed (SIGKILL) again and again while it writes a checkpoint
after every step. After each kill the newest checkpoint must be whole, and at the end weights,
optimizer, average and metrics must be those of the undisturbed run, bit for bit. Everything is
imported once and each attempt is a fork, so that attempts take tenths of a second.
"""

import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

WORDS = ("validation_disable=true", "checkpoint_step_interval=1", "checkpoints_total_limit=2",
         "lora_dropout=0.1", "use_ema=true", "gradient_accumulation_steps=2",
         "train_batch_size=2", "lr_warmup_steps=0")  # fmt: skip


def planned(config: Path, output: Path, steps: int) -> Any:
    """Made before the fork: it takes seconds to ask the machine, and nothing is written yet."""
    from sd3tune.plan.prepare import prepare

    return prepare(config, (*WORDS, f"output_dir={output}", f"max_train_steps={steps}"), None)


def forked(prepared: Any) -> int:
    """A child that trains as far as it gets."""
    from sd3tune.train.run import train

    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        train(prepared, ())
        code = 0
    finally:
        os._exit(code)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {f"{file.name}:{name}": t for name, t in load_file(file).items()}
    return found


def metrics(output: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def main() -> None:
    kills = int(sys.argv[1]) if sys.argv[1:] else 100
    steps = int(sys.argv[2]) if sys.argv[2:] else 300
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    torch.set_num_threads(1)
    from sd3tune.demo import write
    from sd3tune.train import checkpoint

    print(f"{platform.machine()}, {kills} kills, {steps} steps, a checkpoint after each")
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent)
        write(root / "demo")
        config = root / "demo" / "config" / "config.json"
        # Twice: the first one fills the caches, so that attempts begin alike.
        for name in ("first", "whole"):
            started = time.perf_counter()
            made = planned(config, root / name, 2 if name == "first" else steps)
            _, status = os.waitpid(forked(made), 0)
            assert status == 0, "the undisturbed run failed"
        seconds = time.perf_counter() - started
        print(f"undisturbed: {seconds:.1f} s")
        made = planned(config, root / "killed", steps)
        dice, hits, unreadable, inside, places = random.Random(0), 0, 0, 0, []
        while hits < kills:
            child = forked(made)
            time.sleep(dice.uniform(0.5, 4.5))
            done, _ = os.waitpid(child, os.WNOHANG)
            if done:
                break  # finished before it was hit
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            hits += 1
            inside += bool(list((root / "killed").glob(".checkpoint-*")))
            newest, passed = checkpoint.latest(root / "killed")
            unreadable += len(passed)
            places.append(checkpoint.step_of(newest) if newest else 0)
        _, status = os.waitpid(forked(made), 0)
        assert status == 0, "the last attempt failed"
        ours, theirs = (tensors(root / n / f"checkpoint-{steps}") for n in ("killed", "whole"))
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        print(f"{hits} kills, {inside} of them inside a save; newest step after each: {places}")
        print(f"checkpoints that could not be read: {unreadable}")
        print(f"weights, optimizer and average are the undisturbed run's, bit for bit: {same}")
        lines = metrics(root / "killed") == metrics(root / "whole")
        print(f"metrics.jsonl too, but for its seconds: {lines}")


if __name__ == "__main__":
    main()
