"""What each precision costs and saves, beside the same model without quantisation.

    python benchmarks/quantisation.py [HEADS] [fp32|bf16] [DEVICE]     8 fp32 cpu unless given

A transformer of SD3.5 medium's structure with random weights, two blocks and HEADS heads of 64, on
256 image and 77 text tokens, with a LoRA of rank 8. Columns: bytes of the weights; relative error
of the output, and of the adapter's gradient (all of it as one vector), against the unquantised
model; seconds to quantise, to write the result and to read it; forward and forward with backward,
the least of five (on a CPU: of its own time), as ratios to no_change.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from torch import Tensor

from sd3tune import quant
from sd3tune.adapters import lora
from sd3tune.demo import tiny
from sd3tune.quant import store
from sd3tune.quant.parts import stored_bytes
from sd3tune.sd3.weights import DTYPES
from sd3tune.tables.schemes import SCHEMES

SHAPE = {**tiny.SHAPES["sd3.5-medium"], "num_layers": 2}


def built(heads: int, dtype: torch.dtype) -> Any:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=32,
        attention_head_dim=tiny.HEAD_DIM,
        num_attention_heads=heads,
        caption_projection_dim=heads * tiny.HEAD_DIM,
        joint_attention_dim=tiny.T5,
        pooled_projection_dim=tiny.CLIP_L + tiny.CLIP_G,
        in_channels=16,
        out_channels=16,
        **SHAPE,
    )
    return model.to(dtype).requires_grad_(False)


def question(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    dice = torch.Generator().manual_seed(1)
    tensors = {
        "hidden_states": torch.randn(1, 16, 32, 32, generator=dice),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 77, tiny.T5, generator=dice),
        "pooled_projections": torch.randn(1, tiny.CLIP_L + tiny.CLIP_G, generator=dice),
    }
    return {k: v.to(device, dtype) for k, v in tensors.items()} | {"return_dict": False}


def adapted(model: Any, device: torch.device) -> Any:
    shape = lora.Shape(8, 8, 0.0, ("to_q", "to_k", "to_v", "to_out.0"))
    lora.attach(model, shape, dtype=torch.float32, seed=1)
    dice = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.02, generator=dice)
    return model.to(device).train()


def least(work: Callable[[], Any], device: torch.device, times: int = 5) -> float:
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter  # blind to busy neighbours
    found = []
    for _ in range(times):
        started = clock()
        work()
        if not on_cpu:
            torch.accelerator.synchronize()
        found.append(clock() - started)
    return min(found)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def main() -> None:
    parser = machine.parser(__doc__, writes_json=False)
    parser.add_argument("heads", type=int, nargs="?", default=8)
    parser.add_argument("dtype", nargs="?", choices=DTYPES, default="fp32")
    parser.add_argument("device", nargs="?", default="cpu")
    given = parser.parse_args()
    heads, dtype, device = given.heads, DTYPES[given.dtype], torch.device(given.device)
    asked = question(dtype, device)
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), "
          f"{device}, {dtype}, width {heads * tiny.HEAD_DIM}")  # fmt: skip
    print(f"{'':<12}{'MiB':>7}{'output':>9}{'gradient':>10}{'quantise':>10}{'write':>8}{'read':>8}"
          f"{'forward':>9}{'+backward':>11}")  # fmt: skip
    plain: tuple[Tensor, Tensor, float, float] | None = None
    for scheme in SCHEMES:
        model = built(heads, dtype)
        made = quant.apply(model, scheme, device=device)
        write, read = disk(model, scheme, heads, dtype)
        model = adapted(model, device)

        def forward(model: Any = model) -> Tensor:
            out: Tensor = model(**asked)[0]
            return out

        def both(model: Any = model) -> Tensor:
            model.zero_grad(set_to_none=True)
            forward(model).float().square().mean().backward()
            grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            return torch.cat(grads).float().cpu()

        with torch.no_grad():
            output = forward().float().cpu()
            once = least(forward, device)
        gradient, twice = both(), least(both, device)
        if plain is None:
            plain = output, gradient, once, twice
        print(f"{scheme:<12}{made.after / 2**20:>7.1f}{error(output, plain[0]):>9.4f}"
              f"{error(gradient, plain[1]):>10.4f}{made.seconds:>10.2f}{write:>8.2f}{read:>8.2f}"
              f"{once / plain[2]:>9.2f}{twice / plain[3]:>11.2f}")  # fmt: skip
        assert stored_bytes(model) > made.after  # the adapter came on top


def disk(model: Any, scheme: str, heads: int, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds to write and to read the quantised model, checksums included."""
    if scheme == "no_change":
        return 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = store.place(Path(folder), "benchmark", scheme, quant.TRANSFORMER)
        started = time.perf_counter()
        store.save(model, path)
        written = time.perf_counter()
        with torch.device("meta"):
            blank = built(heads, dtype)
        began = time.perf_counter()
        assert store.load(blank, path, scheme, quant.TRANSFORMER, "float8_e4m3fn")
        return written - started, time.perf_counter() - began


if __name__ == "__main__":
    main()
