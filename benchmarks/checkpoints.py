"""How long a checkpoint takes, beside torch.save with fsync of the same tensors.

    python benchmarks/checkpoints.py [--rounds N] [--only lora|full] [--json FILE]

Two cases. `lora`: the demo's tiny model with a LoRA of rank 8, as `sd3tune train` saves it: trained
values, optimizer, plan, the adapter file for other programs, and the older checkpoint removed.
`full`: every weight of a transformer of 78 million parameters with AdamW's moments, 936 MB. Ours
and torch.save take turns in one process; both replace their file and wait for the disk. The
training thread waits that long. The older checkpoint is removed by another thread afterwards;
`ours, removed` waits for that too. `cpu` is the same in processor seconds of all threads, which
other work on the machine changes less. Ratios: ours to torch.save; 1.3 is the target.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import alternating, parser, report, summary

from sd3tune import demo
from sd3tune.adapters.full import Full
from sd3tune.backends.observe import probing
from sd3tune.config.config import Config
from sd3tune.demo import tiny
from sd3tune.devices import observe
from sd3tune.prepare import asked_for, prepare
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3.variants import ModelSource
from sd3tune.train import checkpoint
from sd3tune.train.begin import begin
from sd3tune.train.keeper import Keeper
from sd3tune.train.pruning import Verified, prune
from sd3tune.train.state import TrainState

HEADS, LAYERS = 8, 14  # 78 million parameters


Save = Callable[[], object]


def lora(folder: Path) -> tuple[TrainState, Save, Verified]:
    """A run of the demo after a step, what saves it, and what waits for the removal."""
    demo.write(folder / "demo", model="sd3.5-medium")
    config = Config.load(
        folder / "demo" / "config" / "config.json",
        [f"output_dir={folder / 'output'}", "checkpoints_total_limit=1"],
    )
    plan = prepare(config, observe(), asked_for(config), probing.on_this_machine()).plan
    state = begin(plan, ALONE_ON_CPU)
    keeper = Keeper(state, plan, ALONE_ON_CPU)
    return state, keeper.save, keeper.verified


def full(folder: Path) -> tuple[TrainState, Save, Verified]:
    """All weights of a larger model after a step, and what saves them."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    width = HEADS * tiny.HEAD_DIM
    shape = {**tiny.SHAPES["sd3.5-medium"], "num_layers": LAYERS}
    model = SD3Transformer2DModel(
        sample_size=32, attention_head_dim=tiny.HEAD_DIM, num_attention_heads=HEADS,
        caption_projection_dim=width, joint_attention_dim=tiny.T5,
        pooled_projection_dim=tiny.CLIP_L + tiny.CLIP_G, in_channels=16, out_channels=16, **shape,
    )  # fmt: skip
    trained = Full(model, ModelSource(*[str(folder)] * 3))
    optimizer = torch.optim.AdamW(trained.named().values())
    state = TrainState(trained, optimizer, torch.amp.GradScaler("cpu", enabled=False))

    verified = Verified()

    def save() -> None:
        newest = checkpoint.save(state, folder / "output", "{}")
        verified.add(newest)  # as the keeper does
        prune(folder / "output", 1, newest=newest, verified=verified)

    return state, save, verified


def measure(make: Any, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent).absolute()
        state, save, verified = make(folder)
        for parameter in state.trainable:
            parameter.grad = torch.randn_like(parameter)
        state.optimizer.step()

        def ours() -> None:
            state.step += 1
            save()

        def removed() -> None:
            ours()
            verified.removals.wait()

        def torch_save() -> None:
            path = folder / "bare.pt"
            with path.with_suffix(".tmp").open("wb") as f:
                values = {n: p.detach() for n, p in state.trained.named().items()}
                torch.save({"trained": values, "optimizer": state.optimizer.state_dict()}, f)
                f.flush()
                os.fsync(f.fileno())
            path.with_suffix(".tmp").replace(path)

        ways = {"torch.save": torch_save, "ours, removed": removed, "ours": ours}
        found = {
            "seconds": summary(alternating(ways, rounds), "torch.save"),
            "cpu": summary(alternating(ways, rounds, clock=time.process_time), "torch.save"),
            "bytes": (folder / "bare.pt").stat().st_size,
            "parameters": sum(p.numel() for p in state.trainable),
        }
    return found


def main() -> None:
    words = parser(__doc__)
    words.add_argument("--rounds", type=int, default=9, help="of the whole model; lora: 5 times")
    words.add_argument("--only", choices=("lora", "full"))
    asked = words.parse_args()
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    result = {}
    for name, make, rounds in (("lora", lora, 5 * asked.rounds), ("full", full, asked.rounds)):
        if asked.only in (None, name):
            result[name] = measure(make, rounds)
            for clock in ("seconds", "cpu"):
                one = result[name][clock]
                print(f"{name} {clock}: ours {one['ours']['median']:.4f}, torch.save "
                      f"{one['torch.save']['median']:.4f}, ratio {one['ours']['ratio']:.2f}, of "
                      f"minima {one['ours']['ratio_of_minima']:.2f}", flush=True)  # fmt: skip
    report("checkpoints", result, asked.json)


if __name__ == "__main__":
    main()
