"""Every optimizer beside its paper in float64, what its state weighs, and how long a step takes.

    python benchmarks/optimizers.py

One adapter matrix of 16 x 512, twelve steps (tests/cpu/optimizers.py has the references). Below it,
what bf16 weights and moments become of after 2000 steps, beside AdamW in float32.
"""

import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import machine
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.train.optim import build
from tests.cpu.optimizers import REFERENCES, SHAPE, error, gradients, weights


def milliseconds(name: str, steps: int = 50) -> float:
    dtype = torch.bfloat16 if name == "adamw_bf16" else torch.float32
    p = nn.Parameter(weights(1).to(dtype))
    optimizer = build(name, [p], 1e-3, {})
    given = [g.to(dtype) for g in gradients(2, steps + 2)]
    for i, g in enumerate(given):
        if i == 2:
            started = time.perf_counter()
        p.grad = g
        optimizer.step()
    return 1e3 * (time.perf_counter() - started) / steps


def drift(make: Callable[[nn.Parameter], Any], shrinks: bool, steps: int = 2000) -> str:
    dice = torch.Generator().manual_seed(5)
    mean = torch.randn(SHAPE, generator=dice) * 0.3
    p = nn.Parameter((weights(1) * 10).bfloat16())
    q = nn.Parameter(p.detach().float().clone())
    start: Tensor = q.detach().clone()
    ours, exact = make(p), torch.optim.AdamW([q], lr=1e-4)
    for i in range(steps):
        small = 0.01 if shrinks and i >= steps // 2 else 1.0
        g = ((mean + torch.randn(SHAPE, generator=dice)) * small).bfloat16()
        p.grad, q.grad = g.clone(), g.float()
        ours.step()
        exact.step()
    want = q.detach() - start
    share = ((p.detach().float() - start) * want).sum() / want.square().sum()
    v = ours.state[p]["exp_avg_sq"].float() / exact.state[q]["exp_avg_sq"]
    if "step" not in ours.state[p]:  # optimi keeps it free of bias
        v *= 1 - 0.999**steps
    return f"{share:.3f} of the way, second moment {v.mean():.2f} times"


def main() -> None:
    machine.parser(__doc__, writes_json=False).parse_args()
    warnings.filterwarnings("ignore", "Paged optimizers")
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, PyTorch {torch.__version__}, one thread")
    print(f"{'optimizer':<26}{'class':<34}{'bytes':>6}{'error':>9}{'allowed':>9}{'ms':>8}")
    for name, optimizer in OPTIMIZERS.items():
        if find_spec(optimizer.build.partition(":")[0].split(".")[0]) is None:
            continue
        row = f"{name:<26}{optimizer.library:<34}{optimizer.state_bytes:>6.2f}"
        row += f"{error(name):>9.0e}{REFERENCES[name][1]:>9.0e}"
        print(f"{row}{milliseconds(name):>8.2f}")
    import optimi

    makers: dict[str, Callable[[nn.Parameter], Any]] = {
        "adamw_bf16": lambda p: build("adamw_bf16", [p], 1e-4, {}),
        "optimi.AdamW": lambda p: optimi.AdamW([p], lr=1e-4, betas=(0.9, 0.999), eps=1e-8),
        "torch.optim.AdamW": lambda p: torch.optim.AdamW([p], lr=1e-4),
    }
    for name, make in makers.items():
        print(f"{name:<20} bf16: {drift(make, False)}; gradients that shrink: {drift(make, True)}")


if __name__ == "__main__":
    main()
