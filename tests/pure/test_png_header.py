"""The size of a PNG without Pillow: Pillow's own answer, or none at all."""

import io
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import pytest
from PIL import Image, PngImagePlugin

from sd3tune.data import headers, png, png_header
from sd3tune.data.headers import Unusable, size_here, size_of

SIZE = (93, 41)
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def made_png(mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(SIZE, 60).convert(mode).save(stream, "PNG", **options)
    return stream.getvalue()


def texts(**by_key: str) -> PngImagePlugin.PngInfo:
    made = PngImagePlugin.PngInfo()
    for key, text in by_key.items():
        made.add_text(key.replace("_", " "), text)
    return made


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


RAW = f"\nexif\n8\n{exif(6).hex()}"  # as ImageMagick writes it


def behind_the_pixels(chunk: bytes, data: bytes) -> bytes:
    stream = io.BytesIO()
    PngImagePlugin.putchunk(stream, chunk, data)
    plain = made_png()
    return plain[:-12] + stream.getvalue() + plain[-12:]


def pictures() -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes, and whether Pillow is spared."""
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        yield mode, made_png(mode), True
    yield "a resolution", made_png(dpi=(72, 72)), True
    yield "transparent palette", made_png("P", transparency=3), True
    yield "transparent colour", made_png(transparency=(1, 2, 3)), True
    yield (
        "a text of a picture generator",
        made_png(pnginfo=texts(parameters="a cat, steps: 20")),
        True,
    )
    yield "a long text", made_png(pnginfo=texts(workflow="x" * 90_000)), True
    yield "a longer text", made_png(pnginfo=texts(workflow="x" * 200_000)), False
    yield "a profile", made_png(icc_profile=bytes(3000)), True
    yield "a long profile", made_png(icc_profile=bytes(2**20)), True
    yield "turned by EXIF in a text", made_png(pnginfo=texts(Raw_profile_type_exif=RAW)), False
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", XMP)
    yield "turned by XMP", made_png(pnginfo=xmp), False
    yield "turned by XMP in a text", made_png(pnginfo=texts(**{"XML:com.adobe.xmp": XMP})), False
    for orientation in (1, 6):
        yield f"orientation {orientation}", made_png(exif=exif(orientation)), False
        turned = exif(orientation).removeprefix(b"Exif\0\0")
        yield f"orientation {orientation} at the end", behind_the_pixels(b"eXIf", turned), False
    yield "a text at the end", behind_the_pixels(b"tEXt", b"Title\0a cat"), True
    frames = io.BytesIO()
    first = Image.effect_noise(SIZE, 60)
    first.save(frames, "PNG", save_all=True, append_images=[first.rotate(90)])
    yield "several frames", frames.getvalue(), False


PICTURES = list(pictures())


@pytest.mark.parametrize(("data", "spared"), [(d, s) for _, d, s in PICTURES],
                         ids=[name for name, _, _ in PICTURES])  # fmt: skip
def test_an_ordinary_png_has_the_size_that_pillow_says(data: bytes, spared: bool) -> None:
    assert size_of(io.BytesIO(data), "a.png") == size_here(io.BytesIO(data), "a.png")
    read = png_header.size(data[: headers.MORE_BYTES])
    assert (read is not None and not png.may_have_exif_at_the_end(io.BytesIO(data))) == spared


def with_checksums(data: bytes) -> bytes:
    """The same chunks with right checksums: what damages a header on purpose has them."""
    at, made = 8, bytearray(data)
    while at + 12 <= len(made):
        end = at + 8 + int.from_bytes(made[at : at + 4], "big")
        made[end : end + 4] = crc32(made[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(made[: len(data)])


def answered(read: Callable[[BinaryIO, str], tuple[int, int]], data: bytes) -> object:
    try:
        return read(io.BytesIO(data), "a.png")
    except Unusable as e:
        return str(e)


def test_a_damaged_png_is_answered_as_pillow_answers() -> None:
    dice, spared = random.Random(0), 0
    for _, data, _ in PICTURES:
        head = min(len(data), 300)
        damaged = [data[: dice.randrange(head)] for _ in range(10)]
        for _ in range(40):
            changed = bytearray(data)
            for _ in range(dice.randrange(1, 3)):
                changed[dice.randrange(head)] = dice.choice((0, 1, 0xFF, dice.randrange(256)))
            each = bytes(changed)
            damaged.append(with_checksums(each) if dice.random() < 0.8 else each)
        for each in damaged:
            spared += png_header.size(each) is not None
            assert answered(size_of, each) == answered(size_here, each)
    assert spared > 100  # otherwise Pillow was compared with itself


def test_a_profile_that_pillow_refuses_is_refused() -> None:
    data = made_png(icc_profile=bytes(2**20 + 1))
    assert "too large" in str(answered(size_of, data))


def test_too_many_pixels_are_refused_as_before() -> None:
    assert Image.MAX_IMAGE_PIXELS == headers.PILLOW_WARNS
    data = bytearray(made_png())
    data[16:24] = b"\0\1\0\0" * 2
    with pytest.raises(Unusable, match="too many pixels"):
        size_of(io.BytesIO(with_checksums(bytes(data))), "a.png")


def test_pillow_is_imported_for_no_ordinary_file(tmp_path: Path) -> None:
    ordinary, other = tmp_path / "a.png", tmp_path / "b.png"
    ordinary.write_bytes(made_png())
    other.write_bytes(made_png(exif=exif(1)))
    code = "import sys; from sd3tune.data.headers import size_of\n"
    code += "for path in sys.argv[1:]: print(size_of(open(path, 'rb'), path), 'PIL' in sys.modules)"
    words = [sys.executable, "-c", code, str(ordinary), str(other)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [f"{SIZE} False", f"{SIZE} True"]
