"""A folder of files that people really have: what each is, and what must become of it.

`write` makes them and says for each name either None (it is trained on) or a part of the reason.
"""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from sd3tune.data.headers import formats
from tests.image_folders import encoded
from tests.special_files import socket_at

Make = Callable[[Path], object]


def noise(size: tuple[int, int] = (128, 96)) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_of(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 4) + b"IDAT" + b"\0" * 8


def raw(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def saved(image: Image.Image, format: str, **options: Any) -> Make:
    return raw(encoded(image, format, **options))


def turned(value: int) -> Make:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(noise(), "JPEG", exif=exif)


def cases() -> dict[str | bytes, tuple[Make, str | None]]:
    jpeg, png = encoded(noise(), "JPEG"), encoded(noise(), "PNG")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 5000, zip=True)
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    apng = encoded(noise(), "PNG", save_all=True, append_images=[noise((128, 96)).rotate(90)])
    gif = encoded(noise(), "GIF", save_all=True, append_images=[noise().rotate(180)])
    found: dict[str | bytes, tuple[Make, str | None]] = {
        # nothing is wrong with these, however odd
        "plain.png": (raw(png), None),
        "plain.jpg": (raw(jpeg), None),
        "upper.JPG": (raw(jpeg), None),
        "jpeg named.png": (raw(jpeg), None),
        "png named.jpeg": (raw(png), None),
        "progressive.jpg": (saved(noise(), "JPEG", progressive=True), None),
        "cmyk.jpg": (saved(noise().convert("CMYK"), "JPEG"), None),
        "grey.jpg": (saved(noise().convert("L"), "JPEG"), None),
        "bilevel.png": (saved(noise().convert("1"), "PNG"), None),
        "palette.png": (saved(noise().convert("P"), "PNG"), None),
        "palette with holes.png": (saved(noise().convert("P"), "PNG", transparency=3), None),
        "alpha.png": (saved(noise().convert("RGBA"), "PNG"), None),
        "grey alpha.png": (saved(noise().convert("LA"), "PNG"), None),
        "sixteen bits.png": (saved(Image.new("I;16", (128, 96), 30000), "PNG"), None),
        "sixteen bits.tif": (saved(Image.new("I;16", (128, 96), 30000), "TIFF"), None),
        "floats.tiff": (saved(Image.new("F", (128, 96), 0.5), "TIFF"), None),
        "lab.tif": (saved(Image.new("LAB", (128, 96), (128, 128, 128)), "TIFF"), None),
        "cmyk.tif": (saved(noise().convert("CMYK"), "TIFF"), None),
        "pages.tif": (saved(noise(), "TIFF", save_all=True, append_images=[noise()]), None),
        "animated.gif": (raw(gif), None),
        "animated.png": (raw(apng), None),
        "lossy.webp": (saved(noise(), "WEBP"), None),
        "modern.avif": (saved(noise(), "AVIF"), None),
        "wavelets.jp2": (saved(noise(), "JPEG2000"), None),
        "old.bmp": (saved(noise(), "BMP"), None),
        "portable.ppm": (saved(noise(), "PPM"), None),
        "sRGB profile.png": (saved(noise(), "PNG", icc_profile=srgb), None),
        "broken profile.png": (saved(noise(), "PNG", icc_profile=b"not a profile"), None),
        "long comment.png": (saved(noise(), "PNG", pnginfo=text), None),
        "trailing rubbish.png": (raw(png + b"rubbish" * 100), None),
        "trailing rubbish.jpg": (raw(jpeg + b"rubbish" * 100), None),
        "turned 3.jpg": (turned(3), None),
        "turned 6.jpg": (turned(6), None),
        "turned 8.jpg": (turned(8), None),
        "turned 99.jpg": (turned(99), None),
        "one pixel.png": (saved(noise((1, 1)), "PNG"), None),
        "name with\nline end.png": (raw(png), None),
        "naïve 猫 🐈.png": (raw(png), None),
        "quote ' and \".png": (raw(png), None),
        "-rf.png": (raw(png), None),
        "a" * 240 + ".png": (raw(png), None),
        "deep/er/and deeper/x.png": (raw(png), None),
        "good link.png": (lambda p: p.symlink_to("plain.png"), None),
        # what no header betrays
        "truncated.jpg": (raw(jpeg[: len(jpeg) // 2]), "cannot be decoded"),
        "truncated.png": (raw(png[: len(png) // 2]), "cannot be decoded"),
        "truncated.webp": (raw(encoded(noise(), "WEBP")[:900]), ""),
        "flipped bits.png": (raw(bytes(flipped)), "cannot be decoded"),
        "no pixels behind it.png": (raw(png_of(128, 96)), "cannot be decoded"),
        # what the header says
        "empty.png": (raw(b""), "the file is empty"),
        "zeros.jpg": (raw(b"\0" * 4000), "no image format"),
        "text.png": (raw(b"this is no picture at all"), "no image format"),
        "page.jpg": (raw(b"<!DOCTYPE html><html><body>404</body></html>"), "no image format"),
        "header only.png": (raw(b"\x89PNG\r\n\x1a\n"), "no image format"),
        "start only.jpg": (raw(b"\xff\xd8\xff\xe0"), ""),
        "bomb.png": (raw(png_of(60_000, 60_000)), "too many pixels"),
        "no width.png": (raw(png_of(0, 96)), ""),
        "movie.png": (raw(b"\0\0\0\x18ftypmp42" + b"\0" * 400), "no image format"),
        "postscript.png": (raw(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no image"),
        "archive.jpg": (raw(b"PK\3\4" + b"\0" * 400), "no image format"),
        "vectors.svg": (raw(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), ".svg is not a suffix"),
        "photoshop.psd": (raw(b"8BPS" + b"\0" * 200), ".psd is not a suffix"),
        "camera.cr2": (raw(b"II*\0" + b"\0" * 200), ".cr2 is not a suffix"),
        "no suffix": (raw(png), "its name has no suffix"),
        "half download.png.part": (raw(png[:99]), ".part is not a suffix"),
        # no files at all
        "broken link.png": (lambda p: p.symlink_to("nowhere.png"), "cannot be read"),
        "circle.png": (lambda p: p.symlink_to("circle.png"), "cannot be read"),
        "pipe.png": (os.mkfifo, "not a regular file"),
        "endless.png": (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
        "socket.png": (socket_at, "not a regular file"),
        b"latin \xe9.png": (raw(png), "not UTF-8"),
        "___.png": (raw(png), "leaves no caption"),
    }
    if {"HEIF", "JXL"} <= set(formats()):
        found |= {
            "phone.heic": (saved(noise(), "HEIF"), None),
            "future.jxl": (saved(noise(), "JXL"), None),
        }
    return found


def write(folder: Path) -> dict[str, str | None]:
    """Name, as Python has it, to a part of the reason it is set aside for; None: it is used."""
    expected = {}
    for name, (make, reason) in cases().items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))  # noqa: PTH118
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        expected[path.relative_to(folder).as_posix()] = reason
    # Silent company: no images, and nobody takes them for such.
    (folder / "captions.txt").write_text("x")
    (folder / ".DS_Store").write_bytes(b"\0")
    picture = folder / "a folder.png"
    picture.mkdir()
    return expected
