"""Loads and runs a tiny autoencoder (diffusers' AutoencoderTiny), which decodes latents in
milliseconds, at a lower quality than the VAE.

Its latents are the transformer's own: the shift and scale of the VAE do not apply (TAESD3 of
github.com/madebyollin/taesd).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.sd3 import configs
from sd3tune.sd3.hub import fetched
from sd3tune.sd3.weight_errors import reading
from sd3tune.sd3.weights import DTYPES

KIND = "AutoencoderTiny"
CONFIG = "config.json"


def load(where: str, dtype: str, channels: int) -> Any:
    """The autoencoder of a folder or of a repository, frozen, on the CPU. channels: of the
    latents. Raises ModelError."""
    folder = Path(where) if Path(where).is_dir() else fetched(where)
    config = configs.read(folder / CONFIG)
    if config.get("_class_name") != KIND or config.get("latent_channels") != channels:
        found = f"{config.get('_class_name')} of {config.get('latent_channels')} channels"
        raise ModelError(
            f"`{where}` holds a {found}, not an {KIND} of {channels} channels",
            hint="leave out validation_preview, or replace the folder",
        )
    configs.check_part(folder, "tiny_vae")
    from diffusers import AutoencoderTiny

    with reading("tiny autoencoder", where, "validation_preview"):
        model = AutoencoderTiny.from_pretrained(
            str(folder), torch_dtype=DTYPES[dtype], use_safetensors=True, local_files_only=True
        )
    return model.eval().requires_grad_(False)


def decode(model: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, H/8, W/8) as the transformer made them to pixels (B, 3, H, W) float32, about
    [-1, 1], in the model's own format whatever autocast is around."""
    scale, shift = model.config.scaling_factor, model.config.shift_factor
    with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
        pixels: Tensor = model.decode((latents / scale + shift).to(model.dtype)).sample
    return pixels.float()
