"""Opening image files safely: which formats, how large, which way up. No pixel is decoded here."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from sd3tune.data import apart, jxl, ppm, tiff
from sd3tune.data.unusable import NoMemory as NoMemory
from sd3tune.data.unusable import Unusable as Unusable

Size = tuple[int, int]  # width, height

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif .jp2 .ppm .pgm .heic .heif .hif "
    ".jxl".split()
)
# What stands beside images and is none: passed over in silence.
COMPANIONS = frozenset(
    ".txt .json .jsonl .csv .tsv .parquet .md .yaml .yml .toml .xml .html .log .caption .npz .npy "
    ".pt .safetensors .sqlite .db .ini .url .lock".split()
)
# Nothing else is ever handed to Pillow: some of its readers run other programs.
FORMATS = "JPEG PNG WEBP GIF BMP TIFF MPO AVIF JPEG2000 PPM HEIF JXL".split()
EXTRAS = {"HEIF": (".heic", ".heif", ".hif"), "JXL": (".jxl",)}
# What is decoded apart, beside JPEG XL, begins so: HEIF and AVIF (from byte 4 on), JPEG 2000.
ISO_MEDIA, JPEG_2000 = b"ftyp", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
EXIF_BYTES = 16 * 2**20
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag; values that swap width and height


@cache
def formats() -> tuple[str, ...]:
    """The formats that can be read here, those of optional packages included."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401  (registers itself)
    Image.init()
    # A file of a stranger could fill the screen: of odd metadata, line by line.
    warnings.filterwarnings("ignore", module=r"PIL\b|pillow_")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(stream: BinaryIO) -> Image.Image:
    """The image with its header read, and its size known to be one that may be decoded. Raises
    Unusable, and what Pillow raises."""
    _refuse_what_opening_would_decode(stream)
    known = formats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large, odd metadata: only errors decide
        image = Image.open(stream, formats=known)
    if len(image.info.get("exif") or b"") > EXIF_BYTES:  # every number in it becomes an object
        raise Unusable("its EXIF data are larger than an image's ever are")
    return image


def _refuse_what_opening_would_decode(stream: BinaryIO) -> None:
    """Pillow checks the size after a format's reader has opened the file. That is too late for two
    of them: JPEG XL's decodes every pixel, and TIFF's makes an object of every number."""
    stream.seek(0)
    prefix = stream.read(12)
    stream.seek(0)
    if jxl.starts(prefix):
        pixels_of_jxl(stream)
        stream.seek(0)
    elif prefix[:4] in tiff.ORDERS:
        if (why := tiff.excess(stream, most_pixels())) is not None:
            raise Unusable(why)
        stream.seek(0)
    elif ppm.starts(prefix):
        if (why := ppm.excess(stream)) is not None:
            raise Unusable(why)
        stream.seek(0)


def most_pixels() -> int:
    """Of an image: where Pillow ends, too."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def pixels_of_jxl(stream: BinaryIO) -> int:
    """How many a JPEG XL holds; more than four channels count as more pixels. Raises Unusable for
    too many."""
    stream.seek(0)
    try:
        header = jxl.header(stream)
    except jxl.NoHeader as e:
        raise Unusable(str(e)) from None
    width, height = header.size
    pixels = round(width * height * max(1, header.channels / 4))
    limit = most_pixels()
    if pixels > limit:
        channels = f" and {header.channels} channels" if header.channels > 4 else ""
        raise Unusable(f"too many pixels: {width}x{height}{channels}, the limit is {limit} pixels")
    return pixels


def decoded_apart(data: bytes) -> Image.Image | None:
    """8-bit sRGB of an image whose format is decoded in a process of its own; None for others.
    Raises Unusable, and what Pillow raises."""
    if jxl.starts(data[:12]):
        count = pixels_of_jxl(BytesIO(data))
    elif data[4:8] == ISO_MEDIA or data.startswith(JPEG_2000):
        image = opened(BytesIO(data))
        count = image.width * image.height
    else:
        return None
    with answers():
        size, rgb = apart.pixels(data, count)
    return Image.frombytes("RGB", size, rgb)


@contextmanager
def answers() -> Iterator[None]:
    """Of a decoder apart: what it says of a file, in our words."""
    try:
        yield
    except apart.Refused as e:
        raise Unusable(str(e)) from None
    except apart.NoDecoder as e:
        raise NoMemory(str(e)) from None


def size_of(stream: BinaryIO, name: str) -> Size:
    """Width and height as a viewer shows them. Raises Unusable."""
    stream.seek(0)
    if not jxl.starts(stream.read(12)):
        return size_here(stream, name)
    # Its plugin decodes all of it to tell its size.
    pixels = pixels_of_jxl(stream)
    stream.seek(0)
    with answers():
        return apart.size(stream.read(), pixels)


def size_here(stream: BinaryIO, name: str) -> Size:
    """The same in this process, whatever its format."""
    try:
        image = opened(stream)
        width, height = image.size
        # The base class's: PNG's own decodes every pixel in search of EXIF data behind them.
        turned = Image.Image.getexif(image).get(ORIENTATION) in TURNED
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise Unusable(_unknown(stream, name)) from None
    except Image.DecompressionBombError as e:
        raise Unusable(f"too many pixels: {e}") from None
    except MemoryError:
        raise NoMemory("its header asks for more memory than there is") from None
    except Exception as e:  # readers of broken headers raise whatever the bytes make them raise
        raise Unusable(f"cannot be read: {type(e).__name__}: {e}") from None
    if width < 1 or height < 1:
        raise Unusable("it has no pixels")
    return (height, width) if turned else (width, height)


def suffix_of(name: str) -> str:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _unknown(stream: BinaryIO, name: str) -> str:
    stream.seek(0)
    if not stream.read(1):
        return "the file is empty"
    for format, suffixes in EXTRAS.items():
        if suffix_of(name) in suffixes and format not in formats():
            return f"{format} needs a decoder: pip install 'sd3tune[formats]'"
    return "no image format that is understood here"
