"""The size of a JPEG without Pillow: Pillow's own answer, or none at all."""

import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from sd3tune.data import jpeg_header
from sd3tune.data.headers import Unusable, size_here, size_of

SIZE = (93, 41)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    image = Image.effect_noise(SIZE, 60).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def exif(orientation: int, *, rest: int = 0) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010E] = "a description " * (1 + rest)
    return made.tobytes()


def pictures() -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes, and whether Pillow is spared."""
    yield "plain", jpeg(), True
    yield "grey", jpeg("L"), True
    yield "CMYK", jpeg("CMYK"), True
    yield "progressive", jpeg(progressive=True, quality=95), True
    yield "full chroma", jpeg(subsampling=0, optimize=True), True
    yield "restarts and a comment", jpeg(comment=b"\xff\xd9 seen", restart_marker_rows=1), True
    yield "a profile", jpeg(icc_profile=bytes(3000)), True
    yield "a long profile", jpeg(icc_profile=bytes(200_000)), False
    yield "turned by XMP", jpeg(xmp=XMP), False
    yield "other XMP", jpeg(xmp=b"<x:xmpmeta/>"), True
    for orientation in range(1, 9):
        yield f"orientation {orientation}", jpeg(exif=exif(orientation)), True
    yield "long EXIF", jpeg(exif=exif(8, rest=900)), True
    yield "EXIF of no order", jpeg(exif=b"Exif\0\0" + bytes(30)), False
    several = io.BytesIO()
    first = Image.effect_noise(SIZE, 60)
    first.save(several, "MPO", save_all=True, append_images=[first])
    yield "several images", several.getvalue(), False


PICTURES = list(pictures())


@pytest.mark.parametrize(("data", "spared"), [(d, s) for _, d, s in PICTURES],
                         ids=[name for name, _, _ in PICTURES])  # fmt: skip
def test_an_ordinary_jpeg_has_the_size_that_pillow_says(data: bytes, spared: bool) -> None:
    wanted = size_here(io.BytesIO(data), "a.jpg")
    assert size_of(io.BytesIO(data), "a.jpg") == wanted
    assert (jpeg_header.size(data[: 2**17]) is not None) == spared


def answer(data: bytes) -> tuple[int, int] | None:
    try:
        return size_here(io.BytesIO(data), "a.jpg")
    except Unusable:
        return None


def test_a_damaged_jpeg_has_pillows_size_or_is_left_to_pillow() -> None:
    dice = random.Random(0)
    for _, data, _ in PICTURES:
        head = len(data) if len(data) < 2000 else 1500
        damaged = [data[: dice.randrange(head)] for _ in range(40)]
        for _ in range(160):
            changed = bytearray(data)
            for _ in range(dice.randrange(1, 4)):
                changed[dice.randrange(head)] = dice.choice((0, 1, 0xFF, dice.randrange(256)))
            damaged.append(bytes(changed))
        for each in damaged:
            found = jpeg_header.size(each)
            assert found is None or found == answer(each)


def test_too_many_pixels_are_refused_as_before() -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(Unusable, match="too many pixels"):
        size_of(io.BytesIO(bytes(data)), "a.jpg")
