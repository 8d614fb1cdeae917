"""One image file to pixels: decoded once, from the source, with one antialiased resize.

EXIF orientation is applied, an embedded colour profile converted to sRGB, transparency laid over
white, 16-bit, CMYK and palette images brought to 8-bit RGB, the first frame of an animation taken.
"""

import io

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from sd3tune.data.buckets import Geometry, Size
from sd3tune.data.headers import Unusable, opened

SRGB = ImageCms.createProfile("sRGB")
CELL = 8  # pixels of a latent's side
SKEW = 0.02  # how far the shape of a mask may be from its image's


def load(data: bytes, size: Size, shape: Geometry) -> Tensor:
    """(3, H, W) uint8 at the bucket's size. Raises Unusable; `size` is what discovery was told."""
    image = decoded(data)
    if image.size != size:
        raise Unusable(f"it is {image.size[0]}x{image.size[1]}, and {size[0]}x{size[1]} was said")
    return torch.from_numpy(np.array(fit(rgb(image), shape))).permute(2, 0, 1).contiguous()


def scaled(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def load_mask(data: bytes, size: Size, shape: Geometry, kind: str) -> Tensor:
    """(1, H/8, W/8) uint8, 255 where the loss counts whole: the mask with exactly the geometry of
    its image, averaged over the pixels of each latent. Raises Unusable."""
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


def decoded(data: bytes) -> Image.Image:
    """All pixels of the first frame, the right way up. Raises Unusable."""
    try:
        image = opened(io.BytesIO(data))
        image.seek(0)
        image.load()
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise Unusable("decoding it takes more memory than there is") from None
    except Exception as e:  # decoders raise whatever the bytes make them raise
        raise Unusable(f"cannot be decoded: {type(e).__name__}: {e}") from None


def rgb(image: Image.Image) -> Image.Image:
    """Raises Unusable for a colour space nobody here knows."""
    try:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            image = _eight_bit(image)
        if image.mode == "LAB":
            return _converted(image, ImageCms.createProfile("LAB"))
        if image.info.get("icc_profile") and image.mode in ("RGB", "RGBA", "CMYK", "L"):
            image = _to_srgb(image)
        if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    except (ValueError, OSError, ImageCms.PyCMSError) as e:
        raise Unusable(f"mode {image.mode} cannot be brought to RGB: {e}") from None


def fit(image: Image.Image, shape: Geometry) -> Image.Image:
    """Resized once, then cut to the bucket."""
    if image.size != shape.resized:
        image = image.resize(shape.resized, Image.Resampling.LANCZOS)
    left, top = shape.crop
    return image.crop((left, top, left + shape.bucket[0], top + shape.bucket[1]))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow's own conversion of 16-bit greyscale clips at 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    top = 65535.0
    if not image.mode.startswith("I;16"):  # 32-bit files say nothing about their white
        top = next((t for t in (1.0, 255.0) if values.max() <= t and image.mode == "F"), 65535.0)
        top = 255.0 if image.mode == "I" and values.max() <= 255 else top
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        converted = _converted(image.convert("RGB") if alpha else image, profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a broken profile, or one of another space, says nothing about the pixels
    if alpha:
        converted.putalpha(alpha)
    elif "transparency" in image.info:
        converted.info["transparency"] = image.info["transparency"]
    converted.info.pop("icc_profile", None)
    return converted


def _converted(image: Image.Image, profile: object) -> Image.Image:
    found = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    if found is None:
        raise ValueError("no conversion")
    return found
