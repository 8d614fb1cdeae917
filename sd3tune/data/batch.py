"""What a training step is fed: data/ makes it, train/ eats it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images of one bucket, with their captions' embeddings."""

    ids: tuple[int, ...]  # stable per image, whatever the order: they seed its noise
    latents: Tensor  # (B, 16, H/8, W/8) float32, scaled and shifted as the transformer expects
    prompt_embeds: Tensor  # (B, 77 + T5 tokens, joint_attention_dim)
    pooled: Tensor  # (B, pooled_projection_dim)
