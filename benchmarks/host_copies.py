"""How much of the time that weights travel from host memory is hidden behind the computation.

    .venv/bin/python benchmarks/host_copies.py [--width 2432] [--blocks 12] [--tokens 4096]
                                               [--json FILE]

For a card; on a CPU it shows that the script runs. A transformer of SD3.5 large's blocks with
random weights takes training steps in three ways that alternate: everything on the device, half of
the blocks swapped (`blocks_to_swap`), and modulations streamed and announced one step ahead. The
copies alone are timed as well. hidden: the share of their time by which a step did not grow. 1 is
all of it. On a card more than 0.9 is expected of the modulations, and of swapped blocks as long as
a block computes longer than the next one travels.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import machine
import torch
from torch import Tensor

from sd3tune import modulations, offload
from sd3tune.adapters import lora
from sd3tune.backends.kernels.side_stream import SideStream
from sd3tune.modulations import Call
from sd3tune.train import checkpointing

HEAD = 64
CAPTION = 231  # text tokens


def device_of_this_machine() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def transformer(width: int, blocks: int, device: torch.device) -> Any:
    """Frozen, in bf16, with a LoRA of rank 16, on the host. Drawn on the device: a processor takes
    minutes to draw billions of numbers."""
    from diffusers import SD3Transformer2DModel

    with device:
        model = SD3Transformer2DModel(
            num_layers=blocks, num_attention_heads=width // HEAD, attention_head_dim=HEAD,
            caption_projection_dim=width, joint_attention_dim=4096, pooled_projection_dim=2048,
            in_channels=16, out_channels=16, qk_norm="rms_norm", pos_embed_max_size=192,
        )  # fmt: skip
    model = model.to(torch.bfloat16).to("cpu").requires_grad_(False)
    shape = lora.Shape(rank=16, alpha=16, dropout=0.0, targets=("to_q", "to_k", "to_v", "to_out.0"))
    lora.attach(model, shape, dtype=torch.float32, seed=1)
    checkpointing.checkpoint_blocks(model.train(), 1)
    return model


class Steps:
    """Training steps of one model. announce: what is announced before each of them."""

    def __init__(self, model: Any, tokens: int, device: torch.device) -> None:
        side = 2 * int(tokens**0.5)
        half: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
        self.model, self.device = model.to(device), device
        self.asked: dict[str, Any] = {
            "hidden_states": torch.randn(1, 16, side, side, **half),
            "timestep": torch.full((1,), 500.0, device=device),
            "encoder_hidden_states": torch.randn(1, CAPTION, 4096, **half),
            "pooled_projections": torch.randn(1, 2048, **half),
            "return_dict": False,
        }
        self.call = Call(self.asked["timestep"], self.asked["pooled_projections"])
        self._announce()

    def _announce(self) -> None:
        if (outside := modulations.of(self.model)) is not None:
            outside.announce([self.call], nullcontext())

    def __call__(self) -> None:
        self._announce()  # of the step after this one
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.model(**self.asked)[0].float().square().mean()
        loss.backward()
        self.model.zero_grad(set_to_none=True)


def synchronise() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def seconds(do: Callable[[], object]) -> float:
    synchronise()
    started = time.perf_counter()
    do()
    synchronise()
    return time.perf_counter() - started


def copying(weights: list[Tensor], times: int, device: torch.device) -> Callable[[], None]:
    """Copies these tensors of pinned host memory and nothing else."""
    stream = SideStream(device)

    def do() -> None:
        for _ in range(times):
            with stream.open():
                for weight in weights:
                    weight.to(device, non_blocking=True, copy=True)

    return do


def measure(width: int, blocks: int, tokens: int, repeats: int) -> dict[str, Any]:
    device = device_of_this_machine()
    to_host = (lambda t: t.pin_memory()) if torch.accelerator.is_available() else Tensor.clone
    to_device = lambda t: t.to(device, non_blocking=True, copy=True)  # noqa: E731
    models = [transformer(width, blocks, device) for _ in range(3)]
    half = blocks // 2
    block_weights = [to_host(p.detach()) for b in models[1].transformer_blocks[:half]
                     for p in b.parameters() if not p.requires_grad]  # fmt: skip
    adaln = [to_host(p.detach()) for n in modulations.adaln_layers(models[2]).values()
             for p in n.parameters()]  # fmt: skip
    offload.stream(models[1], half, to_host, to_device, device)
    modulations.take_out(models[2], "streamed", device, to_host)
    ways: dict[str, Callable[[], object]] = {
        name: Steps(model, tokens, device)
        for name, model in zip(("device", "swapped", "streamed"), models, strict=True)
    }
    ways |= {"copies_of_blocks": copying(block_weights, 2, device),  # forward, and again
             "copies_of_adaln": copying(adaln, 1, device)}  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, do in ways.items():
            times[name].append(seconds(do))
    best = {name: min(values[1:]) for name, values in times.items()}
    sizes = {name: sum(t.numel() * t.element_size() for t in tensors)
             for name, tensors in (("blocks", block_weights), ("adaln", adaln))}  # fmt: skip
    return {
        "milliseconds": {name: round(1000 * value, 2) for name, value in best.items()},
        "gigabytes": {name: round(size / 1e9, 3) for name, size in sizes.items()},
        "hidden": {
            "blocks": round(1 - (best["swapped"] - best["device"]) / best["copies_of_blocks"], 3),
            "adaln": round(1 - (best["streamed"] - best["device"]) / best["copies_of_adaln"], 3),
        },
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--width", type=int, default=2432, help="of the hidden states")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=4096, help="image tokens, a square number")
    parser.add_argument("--repeats", type=int, default=10, help="steps of each way")
    given = parser.parse_args()
    result = measure(given.width, given.blocks, given.tokens, given.repeats)
    machine.report("host_copies", result, given.json)


if __name__ == "__main__":
    main()
