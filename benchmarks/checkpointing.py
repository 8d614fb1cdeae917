"""What a training step takes by what its blocks keep: inputs, outputs of attention, everything.

    python benchmarks/checkpointing.py [--tokens 1024] [--layers 3] [--heads 2] [--rounds 5]

Forward and backward pass of a transformer with LoRA, random weights, the three choices taking turns
in one process. `ratios` are those to blocks that keep their inputs alone; `cpu` counts the
processor time of this thread, which a busy machine changes less. On a card, take the sizes of
SD3.5 medium: --tokens 4096 --layers 24 --heads 24 --batch 4.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import machine
import torch

from sd3tune.adapters import lora
from sd3tune.plan.block_keeping import Keep
from sd3tune.train.checkpointing import keep_in_blocks

KEEPS: tuple[Keep, ...] = ("inputs", "attention", "everything")
CHANNELS, TEXT = 16, 154


def model_of(keep: Keep, layers: int, heads: int, side: int, device: torch.device) -> Any:
    """SD3.5 medium's structure in this size, with an adapter, in training mode."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    with device:  # a processor takes minutes to draw two billion numbers
        model = SD3Transformer2DModel(
            sample_size=2 * side, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS,
            num_layers=layers, attention_head_dim=64, num_attention_heads=heads,
            caption_projection_dim=64 * heads, joint_attention_dim=256, pooled_projection_dim=128,
            pos_embed_max_size=side, qk_norm="rms_norm",
            dual_attention_layers=tuple(range(layers // 2)),
        )  # fmt: skip
    model = model.to(torch.float32 if device.type == "cpu" else torch.bfloat16)
    model.requires_grad_(False)
    targets = ("to_q", "to_k", "to_v", "to_out.0")
    adapter = lora.Shape(rank=16, alpha=16, dropout=0.0, targets=targets)
    lora.attach(model, adapter, dtype=torch.float32, seed=1)
    keep_in_blocks(model.train(), [keep] * layers)
    return model


def main() -> None:
    parser = machine.parser(__doc__)
    sizes = {"tokens": 1024, "layers": 3, "heads": 2, "batch": 1, "rounds": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    place, side = device or torch.device("cpu"), int(asked.tokens**0.5)
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    models = {k: model_of(k, asked.layers, asked.heads, side, place) for k in KEEPS}
    config = models["inputs"].config
    given = {
        "hidden_states": torch.randn(asked.batch, CHANNELS, 2 * side, 2 * side),
        "timestep": torch.full((asked.batch,), 500.0),
        "encoder_hidden_states": torch.randn(asked.batch, TEXT, config.joint_attention_dim),
        "pooled_projections": torch.randn(asked.batch, config.pooled_projection_dim),
    }
    given = {name: x.to(place, dtype) for name, x in given.items()}

    def step(model: Any) -> None:
        with torch.autocast(place.type, dtype, enabled=dtype != torch.float32):
            loss = model(**given, return_dict=False)[0].square().mean()
        loss.backward()

    ways: dict[str, Callable[[], object]] = {k: partial(step, m) for k, m in models.items()}
    wait = torch.accelerator.synchronize if device else lambda: None
    wall = machine.alternating(ways, asked.rounds, after=wait)
    found = {"ratios": machine.summary(wall, "inputs")}
    if device is None:
        cpu = machine.alternating(ways, asked.rounds, clock=time.thread_time)
        found["cpu"] = machine.summary(cpu, "inputs")
    machine.report("checkpointing", found, asked.json)


if __name__ == "__main__":
    main()
