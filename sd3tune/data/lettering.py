"""Text of any script on pictures.

Latin letters come from the font inside Pillow. A line with other characters is drawn with GNU
Unifont (data/fonts), which has every character of Unicode's first plane and the emoji. A character
that it does not have is written as an escape, such as `\\U0001fae8`; no character is drawn as a box
or as a question mark.
"""

import gzip
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from sd3tune.escaping import one_line

LATIN_PIXELS, UNIFONT_PIXELS = 11, 16  # Unifont is drawn on a grid of 16 pixels
BASELINE = 13  # pixels below the top of a line
LINE = 17  # height in pixels
MOST_CHARACTERS = 300  # of a line; the rest is cut before anything is measured
MOST_MARKS = 3  # combining marks on one character
MISSING = "\U0010fffe"  # not a character, so every font draws the box of missing ones
FIRST_PLANE, OTHER_PLANES = "unifont.otf.gz", "unifont_upper.otf.gz"


@dataclass(frozen=True)
class FontRun:
    """A part of a line in one font."""

    font: FreeTypeFont
    text: str

    @property
    def width(self) -> float:
        return self.font.getlength(self.text)


def line(text: str, width: int, ink: str, paper: str) -> Image.Image:
    """One line of text as an image of `width` pixels and LINE pixels; what does not fit is cut and
    ends with three dots."""
    image = Image.new("RGB", (width, LINE), paper)
    pen, at = ImageDraw.Draw(image), 0.0
    for run in runs(fitting(text, width)):
        pen.text((at, BASELINE), run.text, fill=ink, font=run.font, anchor="ls")
        at += run.width
    return image


def fitting(text: str, width: int) -> str:
    """The beginning of a text that fits into `width` pixels, with escapes for control characters.
    Takes the same time for a text of any length."""
    short = _bare(one_line(text[:MOST_CHARACTERS]))
    cut = len(text) > MOST_CHARACTERS
    if not cut and _width(short) <= width:
        return short
    least, most = 0, len(short)
    while least < most:
        middle = (least + most + 1) // 2
        if _width(short[:middle] + "...") <= width:
            least = middle
        else:
            most = middle - 1
    return short[:least] + "..."


def runs(text: str) -> list[FontRun]:
    """The parts of a text, each in the font that has its characters."""
    if all(_has(_latin(), c) for c in text):
        return [FontRun(_latin(), text)]
    fonts: list[tuple[FreeTypeFont, str]] = []
    for c in text:
        if fonts and _is_invisible(c):  # as the character before it
            font = fonts[-1][0]
            fonts.append((font, "" if font is _unifont(OTHER_PLANES) else c))
        else:
            fonts.append(_font_of(c))
    return [
        FontRun(font, "".join(c for _, c in some)) for font, some in groupby(fonts, lambda f: f[0])
    ]


def _font_of(c: str) -> tuple[FreeTypeFont, str]:
    """The font of a character in a line of several scripts, and what to draw."""
    font = _unifont(OTHER_PLANES if ord(c) > 0xFFFF else FIRST_PLANE)
    if _has(font, c):
        return font, c
    return _unifont(FIRST_PLANE), c.encode("unicode_escape").decode("ascii")


def _width(text: str) -> float:
    return sum(run.width for run in runs(text))


def _bare(text: str) -> str:
    """The text with composed accents, and with few marks on each character: a hundred of them would
    cover the lines above."""
    kept: list[str] = []
    marks = 0
    for c in unicodedata.normalize("NFC", text):
        marks = marks + 1 if unicodedata.combining(c) else 0
        if marks <= MOST_MARKS:
            kept.append(c)
    return "".join(kept)


def _is_invisible(c: str) -> bool:
    """Whether a character only changes how others look: joiners, selectors of a variant."""
    return unicodedata.category(c) == "Cf" or 0xFE00 <= ord(c) <= 0xFE0F


@cache
def _has(font: FreeTypeFont, c: str) -> bool:
    """Whether a font has a character: what it has not is drawn as its box for missing ones."""
    return c.isspace() or _drawn(font, c) != _drawn(font, MISSING)


@cache
def _drawn(font: FreeTypeFont, c: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(c, "L")
    return mask.size, bytes(mask)


@cache
def _latin() -> FreeTypeFont:
    font = ImageFont.load_default(LATIN_PIXELS)
    assert isinstance(font, FreeTypeFont)  # for any size, or ImportError
    return font


@cache
def _unifont(name: str) -> FreeTypeFont:
    data = gzip.decompress((files("sd3tune.data") / "fonts" / name).read_bytes())
    return ImageFont.truetype(BytesIO(data), UNIFONT_PIXELS)
