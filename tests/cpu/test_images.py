"""Files to pixels: every way of writing white is white, and crops are the planned ones."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from sd3tune.data import pixel_tensors
from sd3tune.data.buckets import Geometry
from sd3tune.data.headers import NoMemory, Unusable, formats, size_of
from sd3tune.data.pixels import decoded, rgb
from tests.image_folders import encoded

WHOLE = Geometry((64, 64), (0, 0), (64, 64), 1.0)


def load(data: bytes, size: tuple[int, int] = (64, 64), shape: Geometry = WHOLE) -> torch.Tensor:
    return pixel_tensors.scaled(pixel_tensors.load(data, size, shape))


def test_orientation_is_applied_to_size_and_pixels() -> None:
    image = Image.new("RGB", (96, 64))
    image.paste("white", (0, 0, 48, 64))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right: the left half comes up
    data = encoded(image, exif=exif)
    assert size_of(io.BytesIO(data), "x.png") == (64, 96)
    pixels = load(data, (64, 96), Geometry((64, 96), (0, 0), (64, 96), 0.67))
    assert pixels.shape == (3, 96, 64)
    assert pixels[:, :40].min() > 0.9 and pixels[:, 60:].max() < -0.9


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def corners(image: Image.Image) -> list[list[bool]]:
    """Which colours the four corners have."""
    width, height = image.size
    places = ((4, 4), (width - 5, 4), (4, height - 5), (width - 5, height - 5))
    return [[value > 128 for value in image.getpixel(at)] for at in places]  # type: ignore[union-attr]


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "JXL", "MPO"])
def test_every_format_has_the_size_and_the_pixels_that_a_viewer_shows(
    format: str, orientation: int
) -> None:
    if format in ("HEIF", "JXL") and format not in formats():
        pytest.skip(f"no decoder for {format} here")
    image = Image.new("RGB", (96, 64), "white")
    for colour, at in (("red", (0, 0)), ("lime", (48, 0)), ("blue", (0, 32))):
        image.paste(colour, (*at, at[0] + 48, at[1] + 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    how: dict[str, Any] = {"exif": exif.tobytes()}
    if format == "TIFF":
        how = {"tiffinfo": {0x0112: orientation}}
    data = encoded(image, format, **how)
    turned = image.transpose(TURNS[orientation])
    got = rgb(decoded(data))
    assert size_of(io.BytesIO(data), f"x.{format.lower()}") == got.size == turned.size
    assert corners(got) == corners(turned)


def test_orientation_behind_the_pixels_of_a_png_counts_as_exiftool_writes_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    plain = encoded(noise((320, 200)))
    data = plain[:-12] + chunk + plain[-12:]
    assert size_of(io.BytesIO(data), "x.png") == decoded(data).size == (200, 320)
    assert size_of(io.BytesIO(plain), "x.png") == decoded(plain).size == (320, 200)
    broken = plain[:-12] + chunk[:-4] + b"none" + plain[-12:]
    assert size_of(io.BytesIO(broken), "x.png") == (320, 200)


@pytest.mark.parametrize(
    "mode, colour, format",
    [("L", 255, "PNG"), ("1", 1, "PNG"), ("CMYK", (0, 0, 0, 0), "TIFF"), ("I;16", 65535, "TIFF"),
     ("CMYK", (0, 0, 0, 0), "JPEG"), ("RGBA", (0, 0, 0, 0), "PNG"), ("LA", (0, 0), "PNG"),
     ("F", 1.0, "TIFF"), ("I", 65535, "TIFF"), ("LAB", (255, 128, 128), "TIFF"),
     ("I;16", 65535, "PNG"), ("RGB", (255, 255, 255), "WEBP"), ("RGB", (255, 255, 255), "AVIF"),
     ("RGBA", (0, 0, 0, 0), "WEBP"), ("RGB", (255, 255, 255), "HEIF"),
     ("RGB", (255, 255, 255), "JXL"), ("YCbCr", (255, 128, 128), "JPEG"),
     ("RGB", (255, 255, 255), "GIF"), ("RGB", (255, 255, 255), "BMP"),
     ("RGB", (255, 255, 255), "JPEG2000")],
)  # fmt: skip
def test_every_mode_and_format_becomes_white_rgb(mode: str, colour: Any, format: str) -> None:
    if format in ("HEIF", "JXL") and format not in formats():
        pytest.skip(f"no decoder for {format} here")
    data = encoded(Image.new(mode, (64, 64), colour), format)
    assert size_of(io.BytesIO(data), "x") == (64, 64)
    assert load(data).min() > 0.98


@pytest.mark.parametrize(
    "step",
    ["Image.open", "ImageOps.exif_transpose", "Image.Image.convert", "Image.Image.crop"],
)
def test_memory_that_ran_out_says_nothing_about_the_file(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise MemoryError

    data = encoded(Image.new("L", (64, 64)))  # RGB needs no conversion
    monkeypatch.setattr(f"PIL.{step}", fail)
    with pytest.raises(NoMemory, match="more memory than there is"):
        load(data)


def test_transparency_of_palettes_and_of_the_first_frame_is_laid_over_white() -> None:
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert load(encoded(palette, transparency=0)).min() > 0.99
    frames = [Image.new("RGB", (64, 64), c) for c in ("white", "black")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load(animated).min() > 0.99


def test_a_dark_16_bit_picture_stays_dark() -> None:
    data = encoded(Image.new("I;16", (64, 64), 200))
    assert load(data).max() < -0.99


def test_a_colour_profile_is_converted() -> None:
    image = Image.new("RGB", (64, 64), (200, 80, 40))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    want = load(encoded(image))
    assert (load(encoded(image, icc_profile=srgb)) - want).abs().max() < 0.02
    # a profile of another space, or none at all, says nothing about the pixels
    assert torch.equal(load(encoded(image, icc_profile=lab)), want)
    assert torch.equal(load(encoded(image, icc_profile=b"nothing of the kind")), want)


def test_the_crop_is_the_one_that_was_planned() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    data = encoded(Image.fromarray(np.stack([ramp] * 3, -1)))
    shape = Geometry((256, 64), (100, 0), (64, 64), 1.0)
    got = ((load(data, (256, 64), shape)[0, 0] + 1) * 127.5).round()
    assert got.tolist() == list(range(100, 164))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_broken_headers_are_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(Unusable):
        size_of(io.BytesIO(content), "x.png")


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_truncated_picture_is_refused_when_it_is_decoded() -> None:
    with pytest.raises(Unusable, match="cannot be decoded"):
        load(encoded(noise())[:3000])


def test_a_size_that_was_only_said_is_checked() -> None:
    with pytest.raises(Unusable, match="it is 64x64, and 65x64 was said"):
        load(encoded(noise()), (65, 64))


@pytest.mark.parametrize("style", [(0, 0), (37, 11), (128, 64)])
def test_a_mask_is_cut_like_its_image(style: tuple[int, int]) -> None:
    """One picture as image and as mask: the mask's cells are the image's averages there."""
    picture = noise((96, 64)).resize((960, 640), Image.Resampling.NEAREST)
    data = encoded(picture)
    shape = Geometry((192, 128), style, (64, 64), 1.0)
    red = (load(data, (960, 640), shape)[0] + 1) * 127.5
    cells = red.reshape(8, 8, 8, 8).mean(dim=(1, 3))
    mask = pixel_tensors.load_mask(data, (960, 640), shape, "mask")
    assert mask.shape == (1, 8, 8) and (mask[0].float() - cells).abs().max() <= 0.5 + 1e-3
    small = pixel_tensors.load_mask(encoded(picture.resize((480, 320))), (960, 640), shape, "mask")
    assert (small.float() - mask.float()).abs().mean() < 8  # another size, the same shape


def test_segmentation_is_black_or_white_before_it_is_averaged() -> None:
    grey = Image.new("RGB", (64, 64), (120, 120, 120))
    grey.paste((130, 130, 130), (0, 0, 32, 64))
    mask = pixel_tensors.load_mask(encoded(grey), (64, 64), WHOLE, "segmentation")
    assert mask[0, 0].tolist() == [255] * 4 + [0] * 4


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(Unusable, match="another shape than 64x64"):
        pixel_tensors.load_mask(encoded(noise((64, 128))), (64, 64), WHOLE, "mask")
