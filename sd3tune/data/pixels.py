"""Decodes image files to 8-bit sRGB. This module imports no torch.

EXIF orientation is applied, and an embedded colour profile is converted to sRGB. Transparent images
are composited over white. 16-bit, CMYK and palette images become 8-bit RGB. Of an animation, the
first frame is used.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, ImageCms, ImageOps

from sd3tune.data import jpeg
from sd3tune.data.buckets import Geometry
from sd3tune.data.headers import NoMemory, Unusable, decoded_apart, opened

if TYPE_CHECKING:
    import numpy as np  # 0.1 s, and discovery decodes nothing

BLOCK_PIXELS = 2**18
SRGB = ImageCms.createProfile("sRGB")


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except MemoryError:  # NumPy's is one too
        raise NoMemory("decoding it takes more memory than there is") from None


@_enough_memory()
def decoded(data: bytes, draft: int | None = None) -> Image.Image:
    """The first frame, with its orientation applied. draft: a JPEG may be decoded at a smaller
    size, with no side below this number of pixels. Raises Unusable; its subclass NoMemory says
    nothing about the file."""
    try:
        if (image := decoded_apart(data)) is not None:
            return image
    except (MemoryError, Unusable):
        raise
    except Exception as e:  # readers of broken headers raise whatever the bytes make them raise
        raise Unusable(f"cannot be decoded: {type(e).__name__}: {e}") from None
    return decoded_here(data, draft)


@_enough_memory()
def decoded_here(data: bytes, draft: int | None = None) -> Image.Image:
    """Like `decoded`, in this process for every format, in the image's own colour space."""
    try:
        image = opened(io.BytesIO(data))
        image.seek(0)
        if draft is not None:
            image.draft("L", (draft, draft))
        if image.format in ("JPEG", "MPO"):
            jpeg.refuse_many_scans(data, image.width * image.height)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # copies only what is turned
        return image
    except (MemoryError, Unusable):
        raise
    except Exception as e:  # decoders raise whatever the bytes make them raise
        raise Unusable(f"cannot be decoded: {type(e).__name__}: {e}") from None


@_enough_memory()
def rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit sRGB. Raises Unusable for an unknown colour space."""
    try:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            image = _eight_bit(image)
        if image.mode == "LAB":
            return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
        if image.info.get("icc_profile") and image.mode in ("RGB", "RGBA", "CMYK", "L"):
            image = _to_srgb(image)
        if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except (ValueError, OSError, ImageCms.PyCMSError) as e:
        raise Unusable(f"mode {image.mode} cannot be brought to RGB: {e}") from None


@_enough_memory()
def fit(image: Image.Image, shape: Geometry) -> Image.Image:
    """The image resized once, then cropped to its bucket."""
    if image.size != shape.resized:
        image = image.resize(shape.resized, Image.Resampling.LANCZOS)
    left, top = shape.crop
    return image.crop((left, top, left + shape.bucket[0], top + shape.bucket[1]))


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit or 32-bit greyscale as 8 bits; Pillow's own conversion clips at 255."""
    import numpy as np

    top = 65535.0
    if not image.mode.startswith("I;16"):  # 32-bit files do not state their white value
        most = max(values.max() for _, values in _rows(image))
        top = next((t for t in (1.0, 255.0) if most <= t and image.mode == "F"), 65535.0)
        top = 255.0 if image.mode == "I" and most <= 255 else top
    found = Image.new("L", image.size)
    for first, values in _rows(image):
        some = (values / top * 255).clip(0, 255).round().astype(np.uint8)
        found.paste(Image.fromarray(some), (0, first))
    found.info = image.info
    return found


def _rows(image: Image.Image) -> Iterator[tuple[int, "np.ndarray"]]:
    """(first row, values) for consecutive blocks of rows: as float64 the whole image would need
    four times its memory."""
    import numpy as np

    width, height = image.size
    step = max(1, BLOCK_PIXELS // width)
    for first in range(0, height, step):
        some = image.crop((0, first, width, min(height, first + step)))
        yield first, np.nan_to_num(np.asarray(some, dtype=np.float64), posinf=0, neginf=0)


def _to_srgb(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        converted = _converted(image.convert("RGB") if alpha else image, profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # the profile is broken or of another colour space: ignore it
    if alpha:
        converted.putalpha(alpha)
    elif "transparency" in image.info:
        converted.info["transparency"] = image.info["transparency"]
    converted.info.pop("icc_profile", None)
    return converted


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    found = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    if found is None:
        raise ValueError("no conversion")
    return found
