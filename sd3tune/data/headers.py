"""Opens image files safely and finds format, size and orientation, without decoding a pixel.

Pillow is imported for the files that need it: discovery reads the headers of ordinary ones itself.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from sd3tune.data import apart, jpeg_header, jxl, png, png_header, ppm, tiff
from sd3tune.data.unusable import NoMemory as NoMemory
from sd3tune.data.unusable import Unusable as Unusable

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # width, height

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif .jp2 .ppm .pgm .heic .heif .hif "
    ".jxl".split()
)
# Files that are often stored beside images; they are ignored silently.
COMPANIONS = frozenset(
    ".txt .json .jsonl .csv .tsv .parquet .md .yaml .yml .toml .xml .html .log .caption .npz .npy "
    ".pt .safetensors .sqlite .db .ini .url .lock".split()
)
# Pillow gets no other formats: some of its readers run other programs.
FORMATS = "JPEG PNG WEBP GIF BMP TIFF MPO AVIF JPEG2000 PPM HEIF JXL".split()
EXTRAS = {"HEIF": (".heic", ".heif", ".hif"), "JXL": (".jxl",)}
# First bytes of formats that are decoded in a separate process, besides JPEG XL: HEIF and AVIF
# (from byte 4 on), JPEG 2000.
ISO_MEDIA, JPEG_2000 = b"ftyp", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
FIRST_BYTES, MORE_BYTES = 4096, 2**17  # before the first pixels: usual, and nearly all
PILLOW_WARNS = 2**30 // 12  # pixels: Pillow's MAX_IMAGE_PIXELS
EXIF_BYTES = 16 * 2**20
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag; values that swap width and height
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags


@cache
def formats() -> tuple[str, ...]:
    """The formats that this installation can read, optional packages included."""
    from PIL import Image

    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401  (registers itself)
    Image.init()
    # Untrusted files could fill the screen with warnings about unusual metadata.
    warnings.filterwarnings("ignore", module=r"PIL\b|pillow_")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(stream: BinaryIO) -> "Image.Image":
    """The image after reading its header and checking that its size may be decoded. Raises
    Unusable, and the exceptions of Pillow."""
    from PIL import Image

    _refuse_what_opening_would_decode(stream)
    known = formats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about size or metadata; only errors matter
        image = Image.open(stream, formats=known)
    if len(image.info.get("exif") or b"") > EXIF_BYTES:  # each number in it becomes an object
        raise Unusable("its EXIF data are larger than an image's ever are")
    return image


def _refuse_what_opening_would_decode(stream: BinaryIO) -> None:
    """Checks formats for which Pillow's own check of the size comes too late: the reader of JPEG XL
    decodes every pixel when it opens a file, the one of TIFF makes an object of every number, and
    the one of PPM reads comments byte by byte. Raises Unusable."""
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
    """The largest number of pixels of an image, the same as Pillow's limit."""
    return 2 * PILLOW_WARNS


def pixels_of_jxl(stream: BinaryIO) -> int:
    """Number of pixels of a JPEG XL image; more than four channels count as more pixels. Raises
    Unusable if they are too many."""
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


def decoded_apart(data: bytes) -> "Image.Image | None":
    """An image as 8-bit sRGB, if its format is decoded in a separate process; None for other
    formats. Raises Unusable, and the exceptions of Pillow."""
    from PIL import Image

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
    """Turns the errors of the decoder process into Unusable and NoMemory."""
    try:
        yield
    except apart.Refused as e:
        raise Unusable(str(e)) from None
    except apart.NoDecoder as e:
        raise NoMemory(str(e)) from None


def size_of(stream: BinaryIO, name: str) -> Size:
    """Width and height as a viewer shows them. Raises Unusable."""
    stream.seek(0)
    first = stream.read(FIRST_BYTES)
    if (found := _size_without_pillow(stream, first)) is not None:
        return found
    if not jxl.starts(first[:12]):
        return size_here(stream, name)
    # The plugin for JPEG XL decodes the whole image to find its size.
    pixels = pixels_of_jxl(stream)
    stream.seek(0)
    with answers():
        return apart.size(stream.read(), pixels)


def _size_without_pillow(stream: BinaryIO, first: bytes) -> Size | None:
    """The size of an ordinary JPEG or PNG; None for any other file. first: its beginning."""
    for beginning, read in ((jpeg_header.SOI, jpeg_header.size),
                            (png_header.SIGNATURE, png_header.size)):  # fmt: skip
        if first.startswith(beginning):
            found = read(first)
            if found is None and len(first) == FIRST_BYTES:  # profiles and previews come first
                found = read(first + stream.read(MORE_BYTES))
            if found is None or found[0] * found[1] > PILLOW_WARNS:
                return None
            turned = read is png_header.size and png.may_have_exif_at_the_end(stream)
            return None if turned else found
    return None


def size_here(stream: BinaryIO, name: str) -> Size:
    """Like `size_of`, in this process for every format."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = opened(stream)
        width, height = _stored_size(image)
        # The base class's method: PNG's own decodes every pixel to find EXIF data after them.
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and ORIENTATION not in exif:
            exif = png.exif_at_the_end(stream)
        turned = exif.get(ORIENTATION) in TURNED
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise Unusable(_unknown(stream, name)) from None
    except Image.DecompressionBombError as e:
        raise Unusable(f"too many pixels: {e}") from None
    except MemoryError:
        raise NoMemory("its header asks for more memory than there is") from None
    except Exception as e:  # readers can raise anything for a broken header
        raise Unusable(f"cannot be read: {type(e).__name__}: {e}") from None
    if width < 1 or height < 1:
        raise Unusable("it has no pixels")
    return (height, width) if turned else (width, height)


def _stored_size(image: "Image.Image") -> Size:
    """The size before its orientation is applied; Pillow applies that of a TIFF to its size when it
    opens the file."""
    from PIL.TiffImagePlugin import TiffImageFile

    if isinstance(image, TiffImageFile):
        return int(image.tag_v2[TIFF_WIDTH]), int(image.tag_v2[TIFF_HEIGHT])
    return image.size


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its dot; "" if the name has none."""
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
