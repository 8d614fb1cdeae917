"""Images and masks as tensors: decoded once, resized once with antialiasing, cropped to the
bucket."""

import numpy as np
import torch
from torch import Tensor

from sd3tune.data.buckets import Geometry, Size
from sd3tune.data.headers import Unusable
from sd3tune.data.pixels import decoded, fit, rgb

CELL = 8  # image pixels per latent pixel, along one side
SKEW = 0.02  # largest relative difference between the aspect ratios of a mask and its image


def load(data: bytes, size: Size, shape: Geometry) -> Tensor:
    """The image as (3, H, W) uint8 at the bucket's size. size: what discovery found. Raises
    Unusable."""
    image = decoded(data)
    if image.size != size:
        raise Unusable(f"it is {image.size[0]}x{image.size[1]}, and {size[0]}x{size[1]} was said")
    # NumPy transposes: torch would start OpenMP threads in each thread that decodes, which take the
    # encoder's cores.
    values = np.asarray(fit(rgb(image), shape)).transpose(2, 0, 1)
    return torch.from_numpy(np.array(values, order="C"))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def load_mask(data: bytes, size: Size, shape: Geometry, kind: str) -> Tensor:
    """The mask as (1, H/8, W/8) uint8, with exactly the geometry of its image, averaged over the
    pixels of each latent pixel. 255: the loss counts fully. size: of the image; kind:
    conditioning_type. Raises Unusable."""
    image = decoded(data)
    aspect, wanted = image.size[0] / image.size[1], size[0] / size[1]
    if abs(aspect / wanted - 1) > SKEW:
        raise Unusable(
            f"its mask is {image.size[0]}x{image.size[1]}, another shape than {size[0]}x{size[1]}"
        )
    channels = np.asarray(fit(rgb(image), shape), dtype=np.float32)
    if kind == "segmentation":
        values = (channels.mean(axis=-1) > 127.5) * 255.0
    else:
        values = channels[..., 0]
    height, width = values.shape
    cells = values.reshape(height // CELL, CELL, width // CELL, CELL).mean(axis=(1, 3))
    return torch.from_numpy(cells.round().astype(np.uint8))[None]
