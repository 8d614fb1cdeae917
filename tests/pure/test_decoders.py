"""Sizes are known before a pixel is decoded, and decoding takes a few times what an image holds."""

import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd3tune.data import apart, jxl, tiff
from sd3tune.data.headers import Unusable, formats, size_of
from sd3tune.data.pixels import decoded, decoded_here, rgb

# Peak memory beyond what the imports take, in a process of its own.
CHILD = """
import io, json, resource, sys
from pathlib import Path
from sd3tune.data import apart, headers, pixels
headers.formats()
def peak():
    status = Path("/proc/self/status").read_text()
    return next(int(l.split()[1]) for l in status.splitlines() if l.startswith("VmHWM")) * 1024
data = Path(sys.argv[1]).read_bytes()
before, why, reached = peak(), None, []
for step in (lambda: headers.size_of(io.BytesIO(data), sys.argv[1]),
             lambda: pixels.rgb(pixels.decoded(data))):
    try:
        step()
    except headers.Unusable as e:
        why = str(e)
    reached.append(peak() - before)
apart.end_all()
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"why": why, "bytes": reached, "children": children}))
"""
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are Linux's")


def measured(path: Path) -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)  # type: ignore[no-any-return]


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def bits(*fields: tuple[int, int]) -> bytes:
    """(value, how many bits), lowest first."""
    value, at = 0, 0
    for number, count in fields:
        value |= number << at
        at += count
    return value.to_bytes(at // 8 + 1, "little")


def large(side: int) -> list[tuple[int, int]]:
    return [(3, 2), (side - 1, 30)]


def codestream(width: int, height: int, *rest: tuple[int, int]) -> bytes:
    size = [(0, 1), *large(height), (0, 3), *large(width)]
    return jxl.CODESTREAM + bits(*size, *rest, (0, 64))


ALL_DEFAULT = [(1, 1)]
EXTRA = [(0, 1), (0, 1), (0, 1), (0, 2), (0, 1)]  # up to the number of extra channels


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


@linux
@pytest.mark.parametrize("boxed", [False, True])
def test_a_jpeg_xl_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, boxed: bool
) -> None:
    """Real: 14000x14000 pixels of one colour in some kilobytes took 2.9 GiB."""
    if "JXL" not in formats():
        pytest.skip("needs pillow-jxl-plugin")
    data = bytearray(saved(Image.new("RGB", (64, 64), "white"), "JXL", use_container=boxed))
    at = data.index(jxl.CODESTREAM + b"\x4f")  # 64x64 is written small: 8 times 8, as square
    head = bits((0, 1), *large(14000), (1, 3))  # the size alone takes 36 bits, and was 9
    data[at + 2 : at + 4] = head
    path = tmp_path / "bomb.jxl"
    path.write_bytes(data)
    got = measured(path)
    assert "too many pixels: 14000x14000" in got["why"]
    assert max(got["bytes"]) < 50 * 2**20


@pytest.mark.parametrize(
    "size", [(64, 64), (8, 16), (256, 200), (1, 1), (333, 1000), (1200, 1000), (640, 360), (9, 300)]
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_size_of_a_jpeg_xl_is_what_its_decoder_says(
    size: tuple[int, int], mode: str, boxed: bool
) -> None:
    if "JXL" not in formats():
        pytest.skip("needs pillow-jxl-plugin")
    stream = io.BytesIO(saved(Image.new(mode, size), "JXL", effort=1, use_container=boxed))
    assert jxl.header(stream) == jxl.JxlHeader(size, 4 if mode == "RGBA" else 3)
    assert size_of(stream, "a.jxl") == size


def test_the_size_of_a_jpeg_xl_is_found_in_parts_and_behind_other_boxes() -> None:
    data = codestream(70_000, 50_000, *ALL_DEFAULT)
    start = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    exif = box(b"Exif", b"\0" * 50)
    parts = box(b"jxlp", b"\0\0\0\0" + data[:5]) + box(b"jxlp", b"\x80\0\0\1" + data[5:])
    wide = struct.pack(">I4sQ", 1, b"jxlc", 16 + len(data)) + data
    rest = struct.pack(">I4s", 0, b"jxlc") + data
    for body in (exif + parts, wide, rest):
        stream = io.BytesIO(start + exif + body)
        assert jxl.header(stream).size == (70_000, 50_000)
        with pytest.raises(Unusable, match="too many pixels: 70000x50000"):
            size_of(stream, "a.jxl")


@pytest.mark.parametrize(
    "data",
    [b"\xff\n", b"\xff\n\0", box(b"JXL ", b"\r\n\x87\n"), box(b"JXL ", b"") * 2000,
     struct.pack(">I4sQ", 1, b"JXL ", 3), struct.pack(">I4s", 4, b"JXL ")],
)  # fmt: skip
def test_what_has_no_jpeg_xl_header_is_set_aside(data: bytes) -> None:
    with pytest.raises(Unusable, match="JPEG XL"):
        size_of(io.BytesIO(data), "a.jxl")


def test_channels_that_nobody_sees_count_as_pixels() -> None:
    image = codestream(8_000, 8_000, *EXTRA, (3, 2), (200 - 1, 12))
    assert jxl.header(io.BytesIO(image)).channels == 203
    with pytest.raises(Unusable, match="8000x8000 and 203 channels"):
        size_of(io.BytesIO(image), "a.jxl")


@linux
@pytest.mark.parametrize(
    "name, make, most",  # bytes a pixel, of what it holds: 2, 4, 4, 3
    [
        ("a.png", lambda n: Image.fromarray(np.full((n, n), 30000, np.uint16)), 10),
        ("i.tif", lambda n: Image.new("I", (n, n), 30000), 13),
        ("f.tif", lambda n: Image.new("F", (n, n), 0.5), 13),
        ("a.jpg", lambda n: Image.new("RGB", (n, n)), 13),
    ],
)
def test_decoding_takes_a_few_times_what_an_image_holds(
    name: str, make: Callable[[int], Image.Image], most: float, tmp_path: Path
) -> None:
    side = 2500
    make(side).save(tmp_path / name)
    header, whole = measured(tmp_path / name)["bytes"]
    assert header < 2**20 and whole / side**2 < most


def test_sixteen_bits_become_eight_as_before() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (values.astype(np.float64) / 65535 * 255).round().astype(np.uint8)
    image = rgb(decoded(saved(Image.fromarray(values), "PNG")))
    assert (np.asarray(image)[..., 0] == expected).all()
    many = Image.fromarray(np.tile(values, (8, 8)))  # more than is turned at a time
    assert (np.asarray(rgb(many))[..., 0] == np.tile(expected, (8, 8))).all()
    for top, mode in ((1.0, "F"), (255.0, "F"), (65535.0, "F"), (255.0, "I"), (65535.0, "I")):
        ramp = np.linspace(0, top, 2048 * 600).reshape(600, 2048)
        ramp = ramp.astype(np.float32 if mode == "F" else np.int32)
        shown = (ramp.astype(np.float64) / top * 255).round().astype(np.uint8)
        assert (np.asarray(rgb(Image.fromarray(ramp)))[..., 0] == shown).all()


def directory(order: str, *entries: tuple[int, int, int], big: bool = False) -> bytes:
    """A TIFF of one directory; entries: tag, type, count."""
    mark = b"II" if order == "<" else b"MM"
    form, width = ("HHQ8x", "Q") if big else ("HHI4x", "H")
    head = struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8)))
    return mark + head + struct.pack(order + width, len(entries)) + b"".join(
        struct.pack(order + form, *entry) for entry in entries
    )  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_with_millions_of_numbers_is_not_read(order: str, big: bool) -> None:
    data = directory(order, (256, 4, 1), (273, 4, 25_000_000), big=big)
    with pytest.raises(Unusable, match="its TIFF tag 273 has 25000000 values"):
        size_of(io.BytesIO(data), "a.tif")
    assert tiff.excess(io.BytesIO(directory(order, (700, 1, 25_000_000), big=big)), 64) is None
    many = directory(order, *[(256, 4, 1)] * 1001, big=big)
    assert tiff.excess(io.BytesIO(many), 64) == "its directory has 1001 entries"
    assert tiff.excess(io.BytesIO(data[:20]), 64) is None


def test_a_good_tiff_is_read_as_before() -> None:
    for options in ({}, {"compression": "tiff_lzw"}, {"big_tiff": True}):
        data = saved(Image.new("RGB", (300, 200)), "TIFF", **options)
        assert size_of(io.BytesIO(data), "a.tif") == (300, 200)


def test_a_book_of_exif_is_not_read() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0" + b"\0" * (17 * 2**20)
    with pytest.raises(Unusable, match="its EXIF data are larger"):
        size_of(io.BytesIO(saved(Image.new("RGB", (64, 64)), "PNG", exif=exif)), "a.png")


# Decoders apart.


def jpeg_2000(side: int, boxed: bool = False) -> bytes:
    """One tile whose precincts hold 2x2 samples: OpenJPEG makes an object of each before it looks
    for their data, of which there is none."""
    sizes = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, side, side, 0, 0, 3) + b"\7\1\1" * 3
    style = b"\1\0\0\1\0\5\0\0\0\1" + b"\x11" * 6
    quantisation = b"\x40" + b"\x48" * 16
    segments = (b"\x51", sizes), (b"\x52", style), (b"\x5c", quantisation)
    head = b"".join(b"\xff" + m + struct.pack(">H", len(d) + 2) + d for m, d in segments)
    tile = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 114, 0, 1) + b"\xff\x93" + b"\0" * 100
    code = b"\xff\x4f" + head + tile + b"\xff\xd9"
    if not boxed:
        return code
    about = box(b"ihdr", struct.pack(">IIH4B", side, side, 3, 7, 7, 0, 0))
    about += box(b"colr", b"\1\0\0" + struct.pack(">I", 16))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", about) + box(b"jp2c", code)


@linux
@pytest.mark.parametrize("boxed", [False, True])
def test_some_bytes_of_jpeg_2000_do_not_take_gigabytes(tmp_path: Path, boxed: bool) -> None:
    """Real: 208 bytes that say 6000x6000 took more than 8 GiB."""
    path = tmp_path / "bomb.jp2"
    path.write_bytes(jpeg_2000(2200, boxed))
    got = measured(path)
    assert "cannot be decoded" in got["why"] and max(got["bytes"]) < 50 * 2**20
    assert got["children"] < 850 * 2**20


def test_a_decoder_that_takes_too_long_is_ended_and_the_next_image_is_decoded() -> None:
    with pytest.raises(apart.Refused, match="takes more than 1 seconds"):
        asked(jpeg_2000(6_000), apart.ProcessLimits(8 * 2**30, 1))
    good = saved(Image.new("RGB", (64, 48), "red"), "JPEG2000")
    assert decoded(good).size == (64, 48)


def asked(data: bytes, limits: apart.ProcessLimits) -> Any:
    decoder = apart.Decoder()
    try:
        return decoder.ask(data, limits, whole=True)
    finally:
        decoder.end()


@pytest.mark.parametrize("format", ["JXL", "HEIF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_image_decoded_apart_has_the_pixels_it_has_here(format: str, mode: str) -> None:
    if format not in formats():
        pytest.skip(f"needs a decoder of {format}")
    ramp = Image.linear_gradient("L").resize((250, 166))
    image = Image.merge("RGBA", [ramp, ramp.rotate(90), ramp.rotate(180), ramp]).convert(mode)
    data = saved(image, format)
    apart_from_us = decoded(data)
    assert apart_from_us.size == size_of(io.BytesIO(data), f"a.{format.lower()}") == (250, 166)
    assert (np.asarray(rgb(apart_from_us)) == np.asarray(rgb(decoded_here(data)))).all()


def test_a_jpeg_of_thousands_of_scans_is_not_decoded() -> None:
    """Real: 730 kB that say 13000x13000, in 306 scans, took more than a minute."""
    data = saved(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[scan:-2] * 1000 + data[-2:]
    with pytest.raises(Unusable, match="16,000,000 pixels are written in 1006 scans"):
        decoded(bomb)
    assert decoded(data).size == (4000, 4000)


@pytest.mark.parametrize("kind", [3, 4, 9, 16])
def test_a_small_tiff_in_one_huge_tile_is_not_read(kind: int) -> None:
    """Real: 64x64 pixels in a tile of 43008x43008 took 1.8 GiB and 12 seconds."""
    form = {3: "H6x", 4: "I4x", 9: "i4x", 16: "Q"}[kind]
    entries = [struct.pack("<HHQ" + form, tag, kind, 1, 43_008) for tag in (322, 323)]
    head = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, 2)
    with pytest.raises(Unusable, match="its tiles are 43008x43008"):
        size_of(io.BytesIO(head + b"".join(entries)), "a.tif")


def test_a_book_in_the_header_of_a_ppm_is_not_read() -> None:
    pixels = b"\0" * (3 * 64 * 64)
    with pytest.raises(Unusable, match="its header is longer than"):
        size_of(io.BytesIO(b"P6\n#" + b"x" * 2**17 + b"\n64 64 255\n" + pixels), "a.ppm")
    for head in (b"P6\n# by hand\n64 64 # wide\n255\n", b"P5 64 64 255\n", b"P4 64 64\n"):
        assert size_of(io.BytesIO(head + b"\xff" * 2**17), "a.ppm") == (64, 64)


def test_odd_metadata_print_nothing(tmp_path: Path) -> None:
    entries = b"".join(struct.pack("<HHII", 300 + i, 7, 60_000, 26) for i in range(500))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 500) + entries + b"\0" * 4
    path = tmp_path / "odd.png"
    path.write_bytes(saved(Image.new("RGB", (64, 64)), "PNG", exif=exif))
    code = """
import sys
from pathlib import Path
from sd3tune.data import headers, pixels
headers.size_of(open(sys.argv[1], "rb"), "odd.png")
pixels.rgb(pixels.decoded(Path(sys.argv[1]).read_bytes()))
"""
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
