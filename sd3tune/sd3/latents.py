"""Encodes images as latents: the posterior's mean and standard deviation, so that two runs cache
the same numbers.

Latents are (z - shift) * scale, as the transformer expects; SD3's VAE has shift 0.0609 and scale
1.5305. Training draws a new sample mean + deviation * unit noise each time an image is used, as in
latent diffusion (Rombach et al. 2022, sec. 3.1); evaluation uses the mean.
"""

from typing import Any

import torch
from torch import Tensor

from sd3tune.errors import DataError

STORED = torch.float16  # latents vary by about one: exact to a thousandth of that


def encode(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [-1, 1] to mean and deviation, each (B, 16, H/8, W/8) as stored, on the CPU.

    Raises DataError when the VAE answers with NaN or infinity.
    """
    with torch.no_grad():
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        mean, deviation = posterior.mean.float(), posterior.std.float()
    mean = ((mean - vae.config.shift_factor) * vae.config.scaling_factor).to(STORED)
    deviation = (deviation * vae.config.scaling_factor).to(STORED)
    if not (torch.isfinite(mean).all() and torch.isfinite(deviation).all()):
        raise DataError(
            f"the VAE in {vae.dtype} produced NaN or infinite latents",
            hint="set vae_dtype=fp32",
        )
    return mean.cpu(), deviation.cpu()


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Latents (B, 16, H/8, W/8) as the transformer made them to pixels (B, 3, H, W) float32, about
    [-1, 1]. Takes no gradient: the caller has switched it off."""
    z = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    pixels: Tensor = vae.decode(z).sample.float()
    return pixels
