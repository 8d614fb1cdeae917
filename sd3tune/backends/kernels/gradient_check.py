"""The check that admits an attention kernel: its output and its three gradients, on activations of
a trained model, against the definition in float64.

A kernel that is wrong somewhere trains without a word. What is tried: attention_cases.py; what is
allowed: expected_attention.py. It needs less than five seconds of one CPU core.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sd3tune.backends.kernels.attention_cases import (
    SMALL,
    Case,
    expected_of,
    inputs_of,
    laid_out,
    rounds,
)
from sd3tune.backends.kernels.expected_attention import NAMES, Expected, factor_error, tiles

# Query, key, value (B, heads, tokens, head_dim); a kernel that takes a mask gets it as the fourth.
Attend = Callable[..., Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Wrong(Exception):
    """The device answered, and the answer is not the known one."""


def check(
    attend: Attend, device: torch.device, dtype: torch.dtype, *, masks: bool = False
) -> float:
    """The largest error, as a share of what is allowed. Raises Wrong at the first wrong answer;
    what the kernel itself raises passes through. masks: it takes a mask."""
    worst = 0.0
    for cases in rounds(dtype, padded=masks):
        passes = [KernelPass(attend, case, dtype, device) for case in cases]
        if any(not p.out.requires_grad for p in passes):
            raise Wrong("the output is detached: this kernel has no backward")
        torch.autograd.backward([p.out for p in passes], [p.gradient for p in passes])
        # Read only now: a pass may not wait for the one before.
        worst = max(worst, *(one.compared() for one in passes))
    with torch.no_grad():  # evaluation and pictures: another kernel may answer
        return max(worst, KernelPass(attend, SMALL, dtype, device).compared())


def check_output(attend: Attend, device: torch.device, dtype: torch.dtype) -> float:
    """The same for a kernel that only samples, in eight bits: per image and head a tenth of error,
    and factors of 0.97 to 1.03."""
    worst = 0.0
    with torch.no_grad():
        for cases in rounds(dtype, padded=False):
            plain = [c for c in cases if not (c.shift or c.recomputed)]
            passes = [KernelPass(attend, case, dtype, device) for case in plain]
            worst = max([worst, *(one.compared(LOOSE) for one in passes)])
    return worst


@dataclass(frozen=True)
class Loose:
    """Relative errors that eight bits may have."""

    head: float = 0.1
    tile: float = 0.3
    factor: float = 0.03


LOOSE = Loose()


class KernelPass:
    """One forward pass, whose backward pass the caller runs."""

    def __init__(
        self, attend: Attend, case: Case, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.case, self.dtype = case, dtype
        self.given = inputs_of(case, dtype)
        q, k, v, gradient = (laid_out(x.to(device), case.layout) for x in self.given[:4])
        self.leaves, self.gradient = [q, k, v], gradient
        for name, x in zip("qkv", self.leaves, strict=True):
            x.requires_grad_(name in case.trained)
        self.mask = None if self.given.mask is None else self.given.mask.to(device)
        more = () if self.mask is None else (self.mask,)
        inputs = *(x.view_as(x) for x in self.leaves), *more
        self.out = recomputed(attend, *inputs) if case.recomputed else attend(*inputs)

    def compared(self, loose: Loose | None = None) -> float:
        """The largest error over what is allowed. loose: of the output alone, as after a pass
        without gradients. Raises Wrong."""
        want = expected_of(self.case, self.dtype)
        answers: dict[int, Tensor | None] = {0: self.out}
        if loose:
            want = loosened(want, loose)
        elif self.out.requires_grad:
            answers |= {n: x.grad for n, x in enumerate(self.leaves, 1) if x.requires_grad}
        worst = 0.0
        for number, answer in answers.items():
            if answer is None:
                raise Wrong(f"{NAMES[number]} is missing: this kernel has no backward")
            worst = max(worst, self._share(number, answer.detach().cpu().double(), want))
        for x, before in zip((*self.leaves, self.gradient), self.given[:4], strict=True):
            if not torch.equal(x.detach().cpu(), before):
                raise Wrong(f"it changes its inputs, {self._where()}")
        return worst

    def _share(self, number: int, got: Tensor, want: Expected) -> float:
        right = want.want[number]
        if got.shape != right.shape:
            raise Wrong(f"{NAMES[number]} has the shape {tuple(got.shape)}, {self._where()}")
        error = got - right
        off = error.square().sum((-1, -2)).sqrt()
        shares = (
            off / want.head[number],
            (tiles(error) / want.tile[number]).amax(-1),
            factor_error(got, right) / want.factor[number],
        )
        share = torch.stack(shares).nan_to_num(torch.inf).amax(0)  # (B, heads)
        if not bool((share <= 1).all()):
            at = int(share.argmax())
            image, head = divmod(at, share.shape[1])
            relative = off.flatten()[at] / right.square().sum((-1, -2)).sqrt().flatten()[at]
            raise Wrong(
                f"{NAMES[number]} of image {image + 1} and head {head + 1} is off by "
                f"{float(relative):.1e}, {float(share.max()):.3g} times what rounding explains, "
                f"{self._where()}"
            )
        return float(share.max())

    def _where(self) -> str:
        return f"in {str(self.dtype).removeprefix('torch.')} with {self.case}"


def loosened(want: Expected, loose: Loose) -> Expected:
    """The same answers, with relative errors allowed for the output."""
    size = want.want[0].square().sum((-1, -2)).sqrt()
    return Expected(
        want.want,
        (loose.head * size,),
        (loose.tile * tiles(want.want[0]),),
        (torch.full_like(size, loose.factor),),
    )


def recomputed(attend: Attend, *inputs: Tensor) -> Tensor:
    """What torch.utils.checkpoint does: nothing is kept for the backward pass, which runs the
    forward pass again. Calling that function imports torch's compiler, 1.2 s."""
    again: list[Tensor] = []
    count = iter(range(1000))

    def keep(saved: Tensor) -> Tensor:
        again.append(saved)
        return saved

    def unpack(number: int) -> Tensor:
        if not again:
            leaves = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
            with torch.enable_grad(), saved_tensors_hooks(keep, keep):
                attend(*leaves)
        return again[number]

    with saved_tensors_hooks(lambda _: next(count), unpack):
        return attend(*inputs)
