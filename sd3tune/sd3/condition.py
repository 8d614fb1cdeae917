"""The transformer called with the paper's letters: v = model(z, timestep, condition)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sd3tune.sd3.flow import Model


def denoiser(transformer: Any, wrapped: Any = None) -> Model:
    """diffusers' SD3Transformer2DModel as flow.Model: z (B, 16, h, w), timestep (B,) in 0..1000 and
    condition (embeds (B, tokens, width), pooled (B, width)) -> v (B, 16, h, w).

    wrapped: the same transformer inside what must see the call (DDP). z and the conditioning are
    cast to the dtype of the weights; the timestep stays float32, since bf16 would merge
    neighbouring noise levels (812 and 813 read the same).
    """
    network = transformer if wrapped is None else wrapped

    def v(z: Tensor, timestep: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        embeds, pooled = condition
        # As `transformer.dtype`, which walks all modules: 1.6 ms of each step.
        dtype = next(p.dtype for p in transformer.parameters() if p.is_floating_point())
        prediction: Tensor = network(
            hidden_states=z.to(dtype),
            timestep=timestep,
            encoder_hidden_states=embeds.to(dtype),
            pooled_projections=pooled.to(dtype),
            return_dict=False,
        )[0]
        return prediction

    return v


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Autocast of one forward pass; None: none. One context around several updates would cache the
    casts of LoRA weights and freeze them at their first value (seen with torch 2.13)."""
    if dtype is None:
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype)
    return context
