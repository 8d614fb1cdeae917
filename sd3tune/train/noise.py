"""Every random number of training, as a function of (seed, step, image).

Drawn on the CPU: the same run sees the same noise on every vendor, in every batch layout, and
after a resume. There is no generator state to save.
"""

from hashlib import blake2b

import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.seeds import seed_of


def draw(
    seed: int, step: int, batch: Batch, digests: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Unit noise shaped like the latents and on their device, and one uniform number in (0, 1) per
    image for its noise level, on the CPU: levels are computed in float64, which MPS lacks.
    digests: gets 64 bits of each image's noise, by which runs are compared."""
    eps, u = torch.empty(batch.latents.shape), torch.empty(len(batch.ids))
    for i, image in enumerate(batch.ids):
        generator = torch.Generator().manual_seed(seed_of(seed, step, image))
        eps[i].normal_(generator=generator)
        u[i : i + 1].uniform_(1e-7, 1 - 1e-7, generator=generator)
        if digests is not None:
            data = eps[i].numpy().tobytes() + u[i].numpy().tobytes()
            digests.append(int.from_bytes(blake2b(data, digest_size=8).digest(), "big"))
    return eps.to(batch.latents.device), u


def another(seed: int, step: int, batch: Batch, label: str) -> Tensor:
    """Unit noise of another kind, shaped like the latents and on their device."""
    eps = torch.empty(batch.latents.shape)
    for i, image in enumerate(batch.ids):
        eps[i].normal_(generator=torch.Generator().manual_seed(seed_of(seed, step, image, label)))
    return eps.to(batch.latents.device)


def dice(seed: int, step: int, image: int, label: str) -> float:
    """A uniform number in [0, 1)."""
    return seed_of(seed, step, image, label) / 2**63


def perturbation(strength: float, steps: int, step: int) -> float:
    """How much more noise the input gets than the target knows of, after `step` steps: the whole
    strength (arXiv:2301.11706), or with `steps` fading linearly to none."""
    return strength * max(0.0, 1 - step / steps) if steps else strength
