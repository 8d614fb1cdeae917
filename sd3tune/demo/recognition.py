"""What a picture shows, told from its pixels alone: background, things, their shapes and colours.

The judge's eye. It knows nothing of how pictures are drawn or of the model that painted them: what
differs from the border's gray is a thing, its hue has a name, its outline is compared with the
ideal shapes. Things that fit nothing well have no shape; noise and even areas show nothing.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sd3tune.demo import ideal_shapes
from sd3tune.demo.ideal_shapes import Mask, Plane
from sd3tune.demo.regions import components, eroded, filled, holes, separated

SIDE = 128  # pixels: every picture is looked at in this size
BLUR = 1.4  # pixels, before anything is measured: noise of single pixels is no shape
BORDER = 4  # pixels
MOST_UNEVEN = 0.3  # of the border: things may reach it
GRAY = 26.0  # largest difference of two channels in a background
LEAST_CONTRAST = 27.0  # distance in RGB from the background at which a thing begins
LEAST_AREA = 0.006  # of the picture: anything smaller is dirt
MOST_AREA = 0.55  # of the picture: anything larger is no thing on a background
LEAST_OVERLAP = 0.80  # intersection over union with the best ideal shape
HOLE = 0.10  # of a thing with its holes filled; smaller holes are texture
NECKS = (3, 5, 7, 9)  # half the width in pixels of a connection between two things
LARGE, SMALL = 0.2445, 0.17  # half the extent, as a share of the picture's side
THIRDS = (0.425, 0.575)  # between the middle and a large thing at the edge


@dataclass(frozen=True)
class SeenThing:
    """One thing. shape, colour: a word, or None where none fits; centre: x, y as shares of the
    side; size: small, medium, large; overlap: with the ideal shape, 0 to 1."""

    shape: str | None
    colour: str | None
    texture: str
    size: str
    centre: tuple[float, float]
    overlap: float

    @property
    def position(self) -> str:
        """`top left`, `middle`, `right`, ..."""
        across = ("left", "", "right")[_third(self.centre[0])]
        down = ("top", "", "bottom")[_third(self.centre[1])]
        return f"{down} {across}".strip() or "middle"


@dataclass(frozen=True)
class Judged:
    """What a picture shows. background: white, gray, black, or None where the border is coloured
    or uneven; things: from left to right, then from top to bottom."""

    background: str | None
    things: tuple[SeenThing, ...]


NOTHING = Judged(None, ())


def judged(picture: Image.Image) -> Judged:
    """What a picture of any size shows. It may be blurred, noisy or compressed."""
    pixels = _prepared(picture)
    border = _border(pixels)
    ground = np.median(border, 0)
    far = np.sqrt(((pixels - ground) ** 2).sum(-1))
    if np.ptp(ground) > GRAY or _border(far > LEAST_CONTRAST).mean() > MOST_UNEVEN:
        return NOTHING
    regions = _regions(far)
    if regions is None:
        return Judged(_gray(ground), ())
    things = [_thing(pixels, far, region) for region in regions]
    return Judged(_gray(ground), tuple(sorted(things, key=lambda t: t.centre)))


def _prepared(picture: Image.Image) -> Plane:
    """(SIDE, SIDE, 3), 0 to 255."""
    same = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(same.filter(ImageFilter.GaussianBlur(BLUR)), np.float64)


def _border(pixels: Plane) -> Plane:
    edge = np.ones(pixels.shape[:2], np.bool_)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    return pixels[edge]


def _gray(ground: Plane) -> str:
    lightness = ground.mean()
    return "white" if lightness > 195 else "gray" if lightness > 80 else "black"


def _regions(far: Plane) -> list[Mask] | None:
    """The mask of each thing, or None where the picture is not things on an even background."""
    mask = filled(far > LEAST_CONTRAST, SIDE * SIDE * LEAST_AREA)
    if mask.mean() > MOST_AREA:
        return None
    whole = [part for part in separated(mask, NECKS[0]) if _counts(part)]
    sharp = [piece for part in whole for piece in _sharpened(part, far)]
    return [piece for part in sharp for piece in _cut(part, NECKS[1:])]


def _cut(part: Mask, necks: Sequence[int]) -> list[Mask]:
    """Things that touch are cut at the neck between them: only what fits no shape is cut."""
    if not necks or _shape(part)[0] is not None:
        return [part]
    pieces = [p for p in separated(part, necks[0]) if _counts(p)]
    return [smaller for p in pieces for smaller in _cut(p, necks[1:])]


def _counts(part: Mask) -> bool:
    return bool(part.mean() > LEAST_AREA)


def _sharpened(part: Mask, far: Plane) -> list[Mask]:
    """The part, with its edge where the contrast is half of its own."""
    inner = part & (far > LEAST_CONTRAST)
    core = eroded(inner, 3)
    own = np.percentile(far[core if core.any() else inner], 10)
    sharp = part & (far > max(LEAST_CONTRAST, own / 2))
    return [filled(piece, HOLE * piece.sum()) for piece in components(sharp) if _counts(piece)]


def _thing(pixels: Plane, far: Plane, region: Mask) -> SeenThing:
    colour, texture = _surface(pixels, region)
    shape, overlap, centre = _shape(region)
    rows, columns = np.nonzero(region)
    extent = np.sqrt((np.ptp(rows) + 1) * (np.ptp(columns) + 1)) / 2 / SIDE
    size = "large" if extent > LARGE else "small" if extent < SMALL else "medium"
    return SeenThing(shape, colour, texture, size, centre, overlap)


def _shape(region: Mask) -> tuple[str | None, float, tuple[float, float]]:
    """The best ideal shape, its overlap, and the shape's own centre in the picture."""
    rows, columns = np.nonzero(region)
    x0, y0, radius = columns.mean(), rows.mean(), np.sqrt(region.sum() / np.pi)
    x, y = ideal_shapes.grid()
    mask = _sampled(region, x0 + x * radius, y0 + y * radius).ravel()
    ideals = ideal_shapes.ideals()
    both = ideals.masks @ mask
    overlaps = both / (ideals.masks.sum(1) + mask.sum() - both)
    # A hole decides: a ring has one, and nothing else has.
    pierced = any(hole.sum() > HOLE * region.sum() for hole in holes(region))
    overlaps[[(s == "ring") != pierced for s in ideals.shapes]] = 0
    best = int(overlaps.argmax())
    dx, dy = ideals.origins[best] * radius
    centre = (float((x0 + dx + 0.5) / SIDE), float((y0 + dy + 0.5) / SIDE))
    overlap = float(overlaps[best])
    return (ideals.shapes[best] if overlap >= LEAST_OVERLAP else None), overlap, centre


def _sampled(region: Mask, x: Plane, y: Plane) -> Plane:
    """The mask at points between its pixels (bilinear); 0 outside."""
    padded = np.pad(region.astype(np.float64), 2)
    x, y = (np.clip(v + 2, 0, SIDE + 2.999) for v in (x, y))
    left, top = x.astype(int), y.astype(int)
    right, down = x - left, y - top
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _surface(pixels: Plane, region: Mask) -> tuple[str | None, str]:
    """Name of the colour, and texture. A texture is the colour and a darker tone of it."""
    core = eroded(region, 3)
    if core.sum() < 20:
        core = region
    inside = pixels[core]
    light = inside.max(-1)
    top = np.percentile(light, 90)
    bright = inside[light >= 0.9 * top]
    return colour_name(bright.mean(0)), _texture(pixels.max(-1) / top, core)


def colour_name(rgb: Plane) -> str | None:
    """The name of a colour, by hue, saturation and lightness; None for grays. rgb: 0 to 255."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) / 255 for c in rgb))
    hue *= 360
    if saturation < 0.25 or value < 0.2:
        return None
    if hue >= 310 or hue < 10:
        return "pink" if saturation < 0.62 and value > 0.7 else "red"
    if hue < 39:
        return "brown" if value < 0.72 else "orange"
    for most, name in ((72, "yellow"), (156, "green"), (205, "turquoise"), (258, "blue")):
        if hue < most:
            return name
    return "purple"


def _texture(tone: Plane, core: Mask) -> str:
    """plain, striped (rows alike), dotted (few dark spots) or checkered. tone: 1 is light."""
    inside = tone[core]
    if np.percentile(inside, 90) - np.percentile(inside, 10) < 0.2:
        return "plain"
    rows, columns = (_explained(inside, line) for line in np.nonzero(core))
    if abs(rows - columns) > 0.4:
        return "striped"
    middle = (np.percentile(inside, 95) + np.percentile(inside, 3)) / 2
    return "checkered" if (inside < middle).mean() > 0.38 else "dotted"


def _explained(inside: Plane, lines: NDArray[np.intp]) -> float:
    """The share of the variance that the means of rows, or of columns, explain."""
    means = np.bincount(lines, inside, SIDE) / np.maximum(np.bincount(lines, minlength=SIDE), 1)
    return float(((means[lines] - inside.mean()) ** 2).mean() / inside.var())


def _third(share: float) -> int:
    return int(share > THIRDS[0]) + int(share > THIRDS[1])
