"""Known-answer programs for the quantised linears and the 8-bit optimisers of this machine."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from sd3tune import quant
from sd3tune.backends.kernels.smoke import Probe, Wrong, attempt
from sd3tune.backends.observe import now_running
from sd3tune.tables.schemes import SCHEMES, quantising


def run(device: str, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Probe id -> backends.probes.Result as JSON data."""
    found = {}
    for name in names:
        now_running.tell(name)
        found[name] = vars(attempt(PROBES[name], torch.device(device)))
    return found


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
    """Forward against the unquantised product, and a gradient that reaches the input."""
    block = _block()
    x = torch.randn(16, 256, generator=torch.Generator().manual_seed(1))
    want = block.transformer_blocks[0](x).detach().double()
    quant.apply(block, scheme, device=device)
    block.to(device)
    there = x.to(device).requires_grad_()
    got = block.transformer_blocks[0](there)
    got.square().sum().backward()
    error = float((got.detach().cpu().double() - want).norm() / want.norm())
    if not error < SCHEMES[scheme].tolerance:
        raise Wrong(f"the product is off by {error:.1%}")
    if there.grad is None or not torch.isfinite(there.grad).all():
        raise Wrong("no finite gradient reaches the input")
    return f"error {error:.1%}, gradient passes"


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
