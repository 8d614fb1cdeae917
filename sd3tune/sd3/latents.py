"""Images to latents: the posterior's mean, so that two runs cache the same numbers.

(z - shift) * scale as the transformer expects; SD3's VAE: shift 0.0609, scale 1.5305. The mean, not
a draw: the posterior's deviation is about a hundredth of the latents', and a draw stored for ever
would be one fixed wrong sample.
"""

from typing import Any

import torch
from torch import Tensor

from sd3tune.errors import DataError


def encode(vae: Any, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to (B, 16, H/8, W/8) float32 on the CPU.

    Raises DataError when the VAE answers with NaN or infinity.
    """
    with torch.no_grad():
        z = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
    latents: Tensor = (z.float() - vae.config.shift_factor) * vae.config.scaling_factor
    if not torch.isfinite(latents).all():
        raise DataError(
            f"the VAE in {vae.dtype} produced NaN or infinite latents",
            hint="set vae_dtype=fp32",
        )
    return latents.cpu()
