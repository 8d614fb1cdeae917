"""Peak memory of five training runs, counted with fake tensors, beside their targets.

    .venv/bin/python benchmarks/memory_targets.py [--only TEXT] [--json FILE]

No card and no weights are needed: each run takes 20 to 60 s on one core. The counted bytes are
those that torch would report as allocated; contexts and the allocator's slack come on top. Each run
is counted with the AdaLN weights on the device and with modulations=streamed.
"""

from typing import Any

import machine

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.limits import LIBRARY_BYTES
from sd3tune.config.config import Config
from sd3tune.counted.training_step import count
from sd3tune.data.buckets import Geometry
from sd3tune.data.discover import Sample
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import GIB
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find

LARGE, MEDIUM = "stabilityai/stable-diffusion-3.5-large", "stabilityai/stable-diffusion-3.5-medium"
# name -> model, side in pixels, settings, target in GiB
RUNS: dict[str, tuple[str, int, dict[str, Any], float]] = {
    "large int8 1024": (LARGE, 1024, {"base_model_precision": "int8-quanto"}, 7.5),
    "large nf4 1024": (LARGE, 1024, {"base_model_precision": "nf4-bnb"}, 5.5),
    "large nf4 512 rank 1": (LARGE, 512, {
        "base_model_precision": "nf4-bnb", "lora_rank": 1, "optimizer": "bnb-lion8bit-paged"}, 4.5),
    "large int2 1024": (LARGE, 1024, {"base_model_precision": "int2-quanto"}, 4.0),
    "medium bf16 1024 rank 128 batch 3": (MEDIUM, 1024, {
        "base_model_precision": "no_change", "lora_rank": 128, "train_batch_size": 3}, 6.8),
}  # fmt: skip
EVERY: dict[str, Any] = {
    "output_dir": "o", "data_backend_config": "d", "max_train_steps": 10, "lora_rank": 16,
    "train_batch_size": 1, "gradient_checkpointing": True, "tokenizer_max_length": 154,
}  # fmt: skip


def counted(model: str, side: int, settings: dict[str, Any], modulations: str) -> float:
    """GiB that torch would report as allocated, at the peak of a step on an H200."""
    shape = Geometry((side, side), (0, 0), (side, side), 1.0)
    samples = [
        Sample("d", f"{i}.png", f"{i}.png", (side, side), ("x",), shape, i) for i in range(20)
    ]
    values = EVERY | settings | {"modulations": modulations, "resolution": side}
    facts = chips.facts(chips.chip("h200"))
    plan = resolve(RunInputs(Config(**values), facts, find(model), samples))
    return (count(plan.model.transformer, plan.memory.load).peak + LIBRARY_BYTES["cuda"]) / GIB


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--only", default="", help="runs whose name contains this text")
    given = parser.parse_args()
    runs = {}
    for name, (model, side, settings, target) in RUNS.items():
        if given.only in name:
            device, streamed = (counted(model, side, settings, w) for w in ("device", "streamed"))
            print(f"{name}: device {device:.2f}, streamed {streamed:.2f}, target {target} GiB")
            runs[name] = {
                "device_gib": round(device, 2),
                "streamed_gib": round(streamed, 2),
                "target_gib": target,
                "ratio": round(streamed / target, 3),
            }
    machine.report("memory_targets", {"runs": runs}, given.json)


if __name__ == "__main__":
    main()
