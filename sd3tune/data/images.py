"""One image file to pixels: decoded once, from the source, with one antialiased resize.

EXIF orientation is applied, an embedded colour profile converted to sRGB, transparency laid over
white, 16-bit and palette images brought to 8-bit RGB, the first frame of an animation taken.
"""

import io

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from sd3tune.data.discover import Sample
from sd3tune.errors import DataError

SRGB = ImageCms.createProfile("sRGB")


def load(sample: Sample) -> Tensor:
    """(3, H, W) float32 in [-1, 1] at the sample's bucket size. Raises DataError."""
    try:
        with Image.open(sample.path) as image:
            pixels = fit(rgb(ImageOps.exif_transpose(image)), sample)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise DataError(
            f"`{sample.path}` cannot be decoded: {e}", hint="replace or remove this file"
        ) from None
    array = torch.from_numpy(np.asarray(pixels, dtype=np.uint8).copy())
    return array.permute(2, 0, 1).float() / 127.5 - 1


def rgb(image: Image.Image) -> Image.Image:
    image.seek(0)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bit(image)
    if image.info.get("icc_profile") and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        image = _to_srgb(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def fit(image: Image.Image, sample: Sample) -> Image.Image:
    g = sample.geometry
    if image.size != g.resized:
        image = image.resize(g.resized, Image.Resampling.LANCZOS)
    left, top = g.crop
    return image.crop((left, top, left + g.bucket[0], top + g.bucket[1]))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow's own conversion of 16-bit greyscale clips at 255."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if values.max() > 255 else 255.0
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        base = image.convert("RGB") if alpha else image
        converted = ImageCms.profileToProfile(base, profile, SRGB, outputMode="RGB")
    except ImageCms.PyCMSError:  # a broken profile says nothing about the pixels
        return image
    if converted is None:
        return image
    if alpha:
        converted.putalpha(alpha)
    converted.info.pop("icc_profile", None)
    return converted
