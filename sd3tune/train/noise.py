"""Every random number of training, as a function of (seed, step, image).

Drawn on the CPU: the same run sees the same noise on every vendor, in every batch layout, and
after a resume. There is no generator state to save.
"""

import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.dice import seed_of


def draw(seed: int, step: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """Unit noise shaped like the latents and on their device, and one uniform number in (0, 1) per
    image for its noise level, on the CPU: levels are computed in float64, which MPS lacks."""
    eps, u = torch.empty(batch.latents.shape), torch.empty(len(batch.ids))
    for i, image in enumerate(batch.ids):
        generator = torch.Generator().manual_seed(seed_of(seed, step, image))
        eps[i].normal_(generator=generator)
        u[i : i + 1].uniform_(1e-7, 1 - 1e-7, generator=generator)
    return eps.to(batch.latents.device), u
