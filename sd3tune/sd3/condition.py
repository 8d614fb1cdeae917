"""The transformer called with the paper's letters: v = model(z, timestep, condition)."""

from typing import Any

from torch import Tensor


class Denoiser:
    """Adapts diffusers' SD3Transformer2DModel to flow.Model.

    z and the conditioning are cast to the dtype of the weights; the timestep stays float32, since
    bf16 would merge neighbouring noise levels (812 and 813 read the same).
    """

    def __init__(self, transformer: Any, called: Any = None) -> None:
        """called: the transformer wrapped in what must see the call (DDP)."""
        self.transformer = transformer
        self.called = transformer if called is None else called

    def __call__(self, z: Tensor, timestep: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        """z (B, 16, h, w), timestep (B,) in 0..1000, condition (embeds, pooled) -> (B, 16, h, w)"""
        embeds, pooled = condition
        dtype = self.transformer.dtype
        v: Tensor = self.called(
            hidden_states=z.to(dtype),
            timestep=timestep,
            encoder_hidden_states=embeds.to(dtype),
            pooled_projections=pooled.to(dtype),
            return_dict=False,
        )[0]
        return v
