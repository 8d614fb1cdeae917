"""Known-answer programs for the quantised linears and the 8-bit optimisers of this machine."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.backends.decide import product_speeds
from sd3tune.backends.kernels.smoke import Probe, Wrong, attempt, fp8_flavour
from sd3tune.backends.observe import now_running
from sd3tune.quant import product_speed
from sd3tune.tables.schemes import SCHEMES, quantising


def run(device: str, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Probe id -> backends.probes.Result as JSON data."""
    found = {}
    for name in names:
        now_running.tell(name)
        found[name] = vars(attempt(_probe(name), torch.device(device)))
    return found


def _probe(name: str) -> Probe:
    shape = product_speeds.shape_of(name)
    return PROBES[name] if shape is None else partial(product_speed.measured, shape=shape)


def observe(device: str, *names: str) -> dict[str, dict[str, object]]:
    """`run` for the child process."""
    return run(device, names)


def _block() -> Any:
    """A block with the layer names that the patterns of quant.apply need."""
    torch.manual_seed(0)
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(256, 128)])
    return block


def linear(device: torch.device, scheme: str) -> str:
    """Forward and the gradient of the input, against the unquantised products."""
    block, dice = _block(), torch.Generator().manual_seed(1)
    plain = block.transformer_blocks[0]
    x, g = torch.randn(16, 256, generator=dice), torch.randn(16, 128, generator=dice)
    want, wanted_gradient = plain(x).detach(), g @ plain.weight.detach()
    quant.apply(block, scheme, fp8=fp8_flavour(device), device=device)
    block.to(device)
    there = x.to(device).requires_grad_()
    got = block.transformer_blocks[0](there)
    got.backward(g.to(device))
    if there.grad is None:
        raise Wrong("no gradient reaches the input")
    errors = _error(got, want), _error(there.grad, wanted_gradient)
    for what, error in zip(("product", "gradient of the input"), errors, strict=True):
        if not error < SCHEMES[scheme].tolerance:  # also catches NaN
            raise Wrong(f"the {what} is off by {error:.1%}")
    return f"error {errors[0]:.1%}, of the gradient {errors[1]:.1%}"


def _error(got: Tensor, want: Tensor) -> float:
    """Relative to the norm of what is wanted, in float64."""
    difference = got.detach().cpu().double() - want.double()
    return float(difference.norm() / want.double().norm())


def optimizer(device: torch.device) -> str:
    """One AdamW8bit step moves every weight against its gradient by the learning rate."""
    from bitsandbytes.optim import AdamW8bit

    weight = nn.Parameter(torch.zeros(8192, device=device))
    gradient = torch.randn(8192, generator=torch.Generator().manual_seed(1)).to(device)
    weight.grad = gradient.clone()
    AdamW8bit([weight], lr=1e-2, weight_decay=0.0).step()
    moved = (weight.detach() / -1e-2 / gradient.sign()).median().item()
    if not 0.9 < moved < 1.1:
        raise Wrong(f"the first step is {moved:.2f} of the learning rate")
    return "steps as AdamW does"


PROBES: dict[str, Probe] = {
    **{f"linear_{row.name}": partial(linear, scheme=row.name) for row in quantising()},
    "optimizer_bnb": optimizer,
}
