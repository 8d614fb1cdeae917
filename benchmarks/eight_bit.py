"""8-bit products (int8-w8a8, fp8-w8a8): their time, their loss curve, and what outliers cost them.

    python benchmarks/eight_bit.py speed    [--device cuda] [--compile] [--widths 1536 2432]
    python benchmarks/eight_bit.py lora     [--device cuda] [--compile] [--widths 1536 2432]
    python benchmarks/eight_bit.py loss     [--steps 200] [--schemes int8-w8a8 fp8-w8a8]
    python benchmarks/eight_bit.py outliers

speed: a linear layer of each width, forward and backward, beside the unquantised layer, taking
turns in one process; the ratio is the base's time over ours, above 1 where 8 bits are faster. On a
CPU the clock counts the work of this thread alone. With --compile, both are compiled: eager kernels
that round and scale take more time on a card than the product saves. A scheme that the device
refuses has its reason in the place of a ratio. Wanted on an H100, compiled: at least 1.15.

lora: the same with a LoRA of rank 16 beside the layer, and with one whose product adds in place.

loss: the demo's tiny SD3.5 medium (--model painter: the painter), trained with LoRA for so many
steps with each scheme and with none, same images, noise and levels. The figures are the largest
difference of a step's loss, that of the mean of a tenth of the run, and that of the evaluation
loss. Wanted: at most 1e-3. With --yardsticks, also runs with the rounded weights alone, with bf16
weights, and with another last digit: what the products add, and what any rounding does.

outliers: the inputs of every layer of the demo's model, as they are and with some channels made
N times as large, and the error of the output under four treatments: none; half of the channel's
size moved into the weight (smoothing); channels above six times the median in the base dtype
(hybrid); and the dequantised weight (weights only). Each is compared with the product of the
unquantised weight.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import eight_bit_lora
import eight_bit_losses
import machine
import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.backends.kernels import eight_bits
from sd3tune.backends.kernels.smoke import fp8_flavour

SCHEMES = ("int8-w8a8", "fp8-w8a8")


def arguments() -> argparse.Namespace:
    made = machine.parser(__doc__)
    made.add_argument("what", choices=["speed", "lora", "loss", "outliers"])
    made.add_argument("--device", default="cpu")
    made.add_argument("--compile", action="store_true")
    made.add_argument("--widths", type=int, nargs="+", default=[512, 1536, 2432])
    made.add_argument("--tokens", type=int, help="[512 on a CPU, 4096 elsewhere]")
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--steps", type=int, default=200)
    made.add_argument("--rate", default="1e-4", help="learning rate of `loss`  [1e-4]")
    made.add_argument("--seeds", type=int, nargs="+", default=[42], help="of `loss`  [42]")
    made.add_argument("--model", default="sd3.5-medium", help="of `loss`  [sd3.5-medium]")
    made.add_argument("--yardsticks", action="store_true", help="three more kinds of runs")
    made.add_argument("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES)
    return made.parse_args()


def quantised_layer(
    width: int, outputs: int, scheme: str, device: torch.device, dtype: torch.dtype
) -> Any:
    torch.manual_seed(0)
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(width, outputs, dtype=dtype)])
    block.requires_grad_(False).to(device)
    quant.apply(block, scheme, fp8=fp8_flavour(device))
    return block.transformer_blocks[0]


def speed(asked: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(asked.device)
    on_cpu = device.type == "cpu"
    dtype = torch.float32 if on_cpu else torch.bfloat16
    tokens = asked.tokens or (512 if on_cpu else 4096)
    ratios: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for width in asked.widths:
        torch._dynamo.reset()  # its limit of graphs counts all widths
        x = torch.randn(tokens, width, device=device, dtype=dtype)
        g = torch.randn(tokens, 4 * width, device=device, dtype=dtype)
        ways: dict[str, Callable[[], object]] = {}
        for scheme in ("no_change", *asked.schemes, *([] if asked.compile else ["int8-quanto"])):
            try:
                layer = quantised_layer(width, 4 * width, scheme, device, dtype)
                if asked.compile:
                    layer.compile()

                def both(layer: Any = layer, x: Tensor = x, g: Tensor = g) -> None:
                    there = x.detach().requires_grad_()
                    layer(there).backward(g)

                both()
            except (RuntimeError, ValueError, NotImplementedError) as e:
                refused[scheme] = str(e).splitlines()[0]
                print(f"{scheme} does not run here: {refused[scheme]}")
                continue
            ways[scheme] = both
        seconds = machine.alternating(
            ways, asked.rounds, warmup=3, clock=time.thread_time if on_cpu else time.perf_counter,
            after=(lambda: None) if on_cpu else torch.accelerator.synchronize,
        )  # fmt: skip
        found = machine.summary(seconds, "no_change")
        ratios[str(width)] = {name: round(1 / each["ratio"], 3) for name, each in found.items()}
        print(f"{width} -> {4 * width}, {tokens} tokens: " + "  ".join(
            f"{name} {ratio:.2f} x" for name, ratio in ratios[str(width)].items()))  # fmt: skip
    return {"ratios": ratios, "refused": refused, "tokens": tokens, "dtype": str(dtype),
            "compiled": asked.compile}  # fmt: skip


def with_lora(asked: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(asked.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    found: dict[str, Any] = {}
    for width in asked.widths:
        layer_of = partial(square_layer, width, device, dtype)
        found[str(width)] = eight_bit_lora.measured(layer_of, asked, width)
    return found


def square_layer(width: int, device: torch.device, dtype: torch.dtype, scheme: str) -> Any:
    return quantised_layer(width, width, scheme, device, dtype)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def treatments(x: Tensor, w: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Error of x W^T under each treatment. x (rows, inputs), w (outputs, inputs)."""
    want = x.double() @ w.double().t()

    def product(x: Tensor, w: Tensor) -> Tensor:
        return eight_bits.linear(x, eight_bits.rounded(w, dtype), None, torch.float32)

    size = x.abs().amax(0).clamp(min=1e-6)
    factor = (size / w.abs().amax(0).clamp(min=1e-6)).sqrt()
    odd = size > 6 * size.median()
    return {
        "none": error(product(x, w), want),
        "smoothing": error(product(x / factor, w * factor), want),
        "hybrid": error(product(x * ~odd, w * ~odd) + x[:, odd] @ w[:, odd].t(), want),
        "weights only": error(x @ eight_bits.rounded(w, dtype).restored().t(), want),
    }


def inputs() -> list[tuple[Tensor, Tensor]]:
    """Input and weight of every linear of the blocks of the demo's model."""
    from sd3tune.demo import tiny

    torch.manual_seed(0)
    model = tiny.transformer(tiny.SHAPES["sd3.5-medium"]).eval()
    held: list[tuple[Tensor, Tensor]] = []
    for name, part in model.transformer_blocks.named_modules():
        if isinstance(part, nn.Linear) and "norm1" not in name:
            part.register_forward_hook(
                lambda part, x, y: held.append((x[0].flatten(0, -2), part.weight))
            )
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model(
            hidden_states=torch.randn(4, 16, 16, 16, generator=dice),
            timestep=torch.tensor([100.0, 300.0, 600.0, 900.0]),
            encoder_hidden_states=torch.randn(4, 20, tiny.T5, generator=dice),
            pooled_projections=torch.randn(4, tiny.CLIP_L + tiny.CLIP_G, generator=dice),
        )
    return held


@torch.no_grad()
def outliers(asked: argparse.Namespace) -> dict[str, Any]:
    held, rows = inputs(), {}
    for name, dtype in (("int8", torch.int8), ("e4m3", torch.float8_e4m3fn)):
        for times in (1, 10, 100, 1000):
            found: dict[str, list[float]] = {}
            for x, w in held:
                scale = torch.ones(x.shape[1])
                scale[:: max(1, x.shape[1] // 3)] = times  # three channels
                for treatment, figure in treatments(x * scale, w, dtype).items():
                    found.setdefault(treatment, []).append(figure)
            rows[f"{name} x{times}"] = {
                treatment: {"mean": sum(each) / len(each), "worst": max(each)}
                for treatment, each in found.items()
            }
            print(f"{name}  channels x{times:<5}" + "  ".join(
                f"{t} {f['mean']:.2%} (worst {f['worst']:.2%})"
                for t, f in rows[f"{name} x{times}"].items()))  # fmt: skip
    return {"layers": len(held), "errors": rows}


def main() -> None:
    asked = arguments()
    torch.set_num_threads(1)
    work = {
        "speed": speed,
        "lora": with_lora,
        "loss": eight_bit_losses.measured,
        "outliers": outliers,
    }[asked.what]
    machine.report(f"eight_bit {asked.what}", work(asked), asked.json)


if __name__ == "__main__":
    main()
