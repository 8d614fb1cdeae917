"""Batches as the demo model takes them, of numbers that depend on the ids of the images."""

import torch

from sd3tune.data.batch import Batch

WORDS = ("max_train_steps=4", "lr_scheduler=constant", "lr_warmup_steps=0")


def batch(*ids: int, size: int = 8) -> Batch:
    """Latents (B, 16, size, size), prompt embeddings (B, 10, 96), pooled (B, 80)."""

    def noise(i: int, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(i))

    return Batch(
        ids,
        torch.stack([noise(i, 16, size, size) for i in ids]),
        torch.stack([noise(i, 10, 96) for i in ids]),
        torch.stack([noise(i, 80) for i in ids]),
    )
