"""A tiny transformer with an adapter that already says something, and a question to ask it."""

from typing import Any

import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.adapters import lora
from sd3tune.demo import tiny

QUANTISING = ("int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "nf4-bnb")
MULTIPLYING = ("int8-w8a8", "fp8-w8a8")  # products in 8 bits
SCHEMES = ("no_change", "int8-w8a8", *QUANTISING)


def model_of(scheme: str = "no_change", name: str = "sd3.5-medium") -> Any:
    """Frozen, quantised, with an adapter, in training mode."""
    return with_adapter(quantised(scheme, name))


def quantised(scheme: str, name: str = "sd3.5-medium", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = tiny.transformer(tiny.SHAPES[name]).to(dtype).requires_grad_(False)
    quant.apply(model, scheme)
    return model


def with_adapter(model: Any) -> Any:
    """The same values on every model of one shape."""
    targets = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "add_q_proj")
    shape = lora.Shape(rank=4, alpha=4, dropout=0.1, targets=targets)
    lora.attach(model, shape, dtype=torch.float32, seed=1)
    for n, p in model.named_parameters():
        if p.requires_grad and "lora_B" in n:
            nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(n)))
    return model.train()


def question(batch: int = 2) -> dict[str, Any]:
    dice = torch.Generator().manual_seed(3)
    return {
        "hidden_states": torch.randn(batch, 16, 16, 16, generator=dice),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, 20, 96, generator=dice),
        "pooled_projections": torch.randn(batch, 80, generator=dice),
        "return_dict": False,
    }


def gradients(model: Any) -> dict[str, Tensor]:
    """Loss and the gradient of every adapter tensor; dropout from one seed."""
    torch.manual_seed(5)
    model.zero_grad(set_to_none=True)
    loss = model(**question())[0].square().mean()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal bits in every tensor."""
    assert ours.keys() == theirs.keys() and len(ours) > 20
    assert not [n for n in ours if not torch.equal(ours[n], theirs[n])]
