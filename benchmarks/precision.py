"""What each place that computes in float32 would cost in bf16: the error of loss and gradient.

    python benchmarks/precision.py [--json FILE]

One LoRA step of the demo's painter under bf16 autocast, as a run computes it, with one place after
the other in bf16; all against the same step in float32. `loss` and `gradient` are relative errors
(of the gradient of all adapter weights together), means over four batches of random latents. Places
of the update (weights, moments, averages) are tried with 300 steps of equal gradients: `moved` is
how far a weight has come, as a share of the way in float32. docs/reference/precision.md has the
table.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import machine
import torch
import torch.nn.functional as F
from torch import Tensor

from sd3tune.adapters import lora

PAINTER = Path(__file__).parents[1] / "sd3tune" / "demo" / "painter" / "transformer"
BATCH, SIDE, TEXT, BATCHES, STEPS = 4, 8, 101, 4, 300
HALF = torch.bfloat16


@contextmanager
def exchanged(owner: Any, name: str, other: Any) -> Iterator[None]:
    """Another function in the place of one of a library."""
    before = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)


def layer_norm_in(dtype: torch.dtype) -> Callable[..., Tensor]:
    """As autocast computes it on a card, in float32, or in bf16."""

    def layer_norm(x: Tensor, *words: Any, **named: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            normed: Tensor = LAYER_NORM(x.to(dtype), *words, **named)
            return normed

    return layer_norm


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """Every step rounded to bf16."""
    x = x.to(HALF)
    mean = x.square().mean(-1, keepdim=True)
    normed: Tensor = x * torch.rsqrt(mean + module.eps) * module.weight.to(HALF)
    return normed


def attention(q: Tensor, k: Tensor, v: Tensor, **named: Any) -> Tensor:
    """Scores, their exponentials and their sums in bf16."""
    q, k, v = (x.to(HALF) for x in (q, k, v))
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = torch.zeros_like(weights[..., :1])
    for block in weights.split(16, dim=-1):
        total = total + block.sum(-1, keepdim=True)
    out: Tensor = (weights / total) @ v
    return out


LAYER_NORM = F.layer_norm


class Step:
    """One step of the painter. Each place that can be in bf16 is a flag."""

    def __init__(self) -> None:
        from diffusers import SD3Transformer2DModel

        self.model = SD3Transformer2DModel.from_pretrained(PAINTER).requires_grad_(False)
        targets = ("to_q", "to_k", "to_v", "to_out.0")
        shape = lora.Shape(rank=8, alpha=8, dropout=0.0, targets=targets)
        lora.attach(self.model, shape, dtype=torch.float32, seed=1)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        dice = torch.Generator().manual_seed(2)
        for p in self.trained:
            torch.nn.init.normal_(p, std=0.05, generator=dice)

    def gradient(self, number: int, places: frozenset[str], *, half: bool) -> tuple[float, Tensor]:
        """Loss and gradient of one batch. half: under bf16 autocast."""
        dice = torch.Generator().manual_seed(number)
        x, noise = (torch.randn(BATCH, 16, SIDE, SIDE, generator=dice) for _ in range(2))
        words = torch.randn(BATCH, TEXT, self.model.config.joint_attention_dim, generator=dice)
        pooled = torch.randn(BATCH, self.model.config.pooled_projection_dim, generator=dice)
        s = torch.rand(BATCH, generator=dice)[:, None, None, None]
        if "path" in places:
            x, noise, s = x.to(HALF), noise.to(HALF), s.to(HALF)
        z, target = (1 - s) * x + s * noise, noise - x
        level = 1000 * s.flatten().float()
        level = level.to(HALF).float() if "level" in places else level
        with torch.autocast("cpu", HALF, enabled=half):
            answer = self.model(z.float(), words, pooled, level, return_dict=False)[0]
        if "loss" in places:
            loss = (answer.to(HALF) - target.to(HALF)).square().mean()
        else:
            loss = (answer.float() - target.float()).square().mean()
        found = torch.autograd.grad(loss.float(), self.trained)
        return float(loss.detach()), torch.cat([g.flatten() for g in found])


def functions(places: frozenset[str]) -> ExitStack:
    """The functions of libraries that are exchanged for these places."""
    from diffusers.models.normalization import RMSNorm

    stack = ExitStack()
    wide = HALF if "layer norms" in places else torch.float32
    stack.enter_context(exchanged(F, "layer_norm", layer_norm_in(wide)))
    if "norms of query and key" in places:
        stack.enter_context(exchanged(RMSNorm, "forward", rms_norm))
    if "softmax" in places:
        stack.enter_context(exchanged(F, "scaled_dot_product_attention", attention))
    return stack


def measured(step: Step, places: frozenset[str]) -> dict[str, float]:
    """Errors against float32."""
    rows = []
    for number in range(BATCHES):
        loss, gradient = step.gradient(number, frozenset(), half=False)
        with functions(places):
            other, others = step.gradient(number, places, half=True)
        error = float((others - gradient).norm() / gradient.norm())
        rows.append((abs(other - loss) / loss, error))
    losses, errors = zip(*rows, strict=True)
    return {"loss": sum(losses) / BATCHES, "gradient": sum(errors) / BATCHES}


def weights_in_half(step: Step) -> dict[str, float]:
    """Adapter weights kept in bf16."""
    exact = [p.detach().clone() for p in step.trained]
    for p in step.trained:
        p.data.copy_(p.data.to(HALF).float())
    with functions(frozenset()):
        rounded = [step.gradient(n, frozenset(), half=True) for n in range(BATCHES)]
    for p, before in zip(step.trained, exact, strict=True):
        p.data.copy_(before)
    right = [step.gradient(n, frozenset(), half=False) for n in range(BATCHES)]
    pairs = list(zip(rounded, right, strict=True))
    return {
        "loss": sum(abs(a - b) / b for (a, _), (b, _) in pairs) / BATCHES,
        "gradient": sum(float((a - b).norm() / b.norm()) for (_, a), (_, b) in pairs) / BATCHES,
    }


def moved(change: Callable[[Tensor, Tensor], None]) -> float:
    """How far 300 changes by 1e-4 take a weight of 1 in bf16, as a share of float32's way."""
    ways = []
    for dtype in (HALF, torch.float32):
        weight = torch.ones(4096, dtype=dtype)
        for _ in range(STEPS):
            change(weight, torch.full_like(weight, 1e-4))
        ways.append(float((weight.float() - 1).mean()))
    return ways[0] / ways[1]


def updates() -> dict[str, dict[str, float]]:
    """Places of the update."""

    def added(weight: Tensor, change: Tensor) -> None:
        weight += change

    def averaged(average: Tensor, change: Tensor) -> None:
        average.lerp_(torch.full_like(average, 2.0), 1e-3)

    def second_moment(moment: Tensor, change: Tensor) -> None:
        moment.mul_(0.999).add_(4.0 * 0.001)

    return {
        "weights that are trained": {"moved": moved(added)},
        "moving average (EMA 0.999)": {"moved": moved(averaged)},
        "second moment of Adam": {"moved": moved(second_moment)},
    }


def main() -> None:
    asked = machine.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    step = Step()
    names = ("path", "level", "loss", "layer norms", "norms of query and key", "softmax")
    found = {"as a run computes it": measured(step, frozenset())}
    found |= {name: measured(step, frozenset({name})) for name in names}
    found |= {"adapter weights": weights_in_half(step), **updates()}
    machine.report("precision", {"places": found}, asked.json)


if __name__ == "__main__":
    main()
