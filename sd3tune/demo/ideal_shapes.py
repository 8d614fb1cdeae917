"""What a circle, a star or a heart is to the judge: its own definitions, as small masks.

Each shape is a family: a circle is one, a cross has arms of several widths, a crescent opens to
either side. A mask is scaled to the same area and moved to its centroid, so that a shape is told by
its outline alone. Nothing here knows how the world draws.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Plane = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Outline = Callable[[Plane, Plane], Mask]

CELLS = 40  # a normalised mask has CELLS x CELLS values
SPAN = 2.1  # its half side, in units of the radius of the disc with the same area
FINE = 240  # samples a side of the plane on which a definition is measured
SCALES = (0.92, 1.0, 1.09)  # of the definition: a blurred edge makes a thing larger or smaller
SHIFTS = (-0.08, 0.0, 0.08)  # of its centroid, in the same units


@dataclass(frozen=True)
class Ideals:
    """All members of all families. masks: (n, CELLS * CELLS), 0 or 1; shapes: n names; origins:
    (n, 2), where a shape's own centre lies from its centroid, in units of the disc's radius."""

    masks: Plane
    shapes: tuple[str, ...]
    origins: Plane


def grid() -> tuple[Plane, Plane]:
    """The cells' centres of a normalised mask: x to the right, y down."""
    ticks = (np.arange(CELLS) + 0.5) / CELLS * 2 * SPAN - SPAN
    x, y = np.meshgrid(ticks, ticks)
    return x, y


@cache
def ideals() -> Ideals:
    masks, shapes, origins = [], [], []
    for shape, outline in _families():
        middle, radius = _measured(outline)
        x, y = grid()
        for scale in SCALES:
            for dx in SHIFTS:
                for dy in SHIFTS:
                    u = (x - dx) / scale * radius + middle[0]
                    v = (y - dy) / scale * radius + middle[1]
                    masks.append(outline(u, v).ravel())
                    shapes.append(shape)
                    origins.append((dx - middle[0] / radius, dy - middle[1] / radius))
    return Ideals(np.array(masks, np.float64), tuple(shapes), np.array(origins))


def _measured(outline: Outline) -> tuple[tuple[float, float], float]:
    """Centroid and radius of the disc of the same area, of a shape within -2 to 2."""
    ticks = (np.arange(FINE) + 0.5) / FINE * 4 - 2
    x, y = np.meshgrid(ticks, ticks)
    inside = outline(x, y)
    area = inside.mean() * 16
    return (float(x[inside].mean()), float(y[inside].mean())), float(np.sqrt(area / np.pi))


def _families() -> Iterator[tuple[str, Outline]]:
    yield "circle", _disc(0.0, 1.0)
    yield "square", lambda x, y: np.maximum(abs(x), abs(y)) < 1
    for height in (1.5, 1.75, 2.0):  # of a base of 2, point up
        yield "triangle", _above_base(height)
    for inner in (0.36, 0.42, 0.5):
        yield "star", _star(inner)
    for arm in (0.27, 0.34, 0.42):
        yield "cross", _cross(arm)
    for hole in (0.45, 0.55, 0.65):
        yield "ring", _ring(hole)
    for width in (0.65, 0.75, 0.9, 1.0):
        yield "diamond", _rhombus(width)
    for lobes, depth in ((0.5, 1.0), (0.5, 1.25), (0.55, 1.1)):
        yield "heart", _heart(lobes, depth)
    for shift, size in ((0.4, 0.8), (0.5, 0.8), (0.6, 0.9), (0.45, 0.7), (0.55, 1.0)):
        yield "crescent", _moon(shift, size)
        yield "crescent", _moon(-shift, size)


def _disc(middle: float, radius: float) -> Outline:
    return lambda x, y: (x - middle) ** 2 + y**2 < radius**2


def _above_base(height: float) -> Outline:
    top = -height / 2
    return lambda x, y: (y > top) & (y < -top) & (abs(x) < (y - top) / height)


def _star(inner: float) -> Outline:
    """Five points, one up. Between a point and the next notch the outline is a straight line."""
    tenth = np.pi / 5
    notch = inner * np.array([np.cos(tenth), np.sin(tenth)])
    normal = np.array([notch[1], 1 - notch[0]])  # of the line from the point (1, 0) to the notch

    def inside(x: Plane, y: Plane) -> Mask:
        turn = np.arctan2(x, -y) % (2 * tenth)
        turn = np.minimum(turn, 2 * tenth - turn)  # from the nearest point
        size = np.hypot(x, y)
        return np.asarray(size * np.cos(turn) * normal[0] + size * np.sin(turn) * normal[1]
                          < normal[0])  # fmt: skip

    return inside


def _cross(arm: float) -> Outline:
    return lambda x, y: (np.minimum(abs(x), abs(y)) < arm) & (np.maximum(abs(x), abs(y)) < 1)


def _ring(hole: float) -> Outline:
    return lambda x, y: (np.hypot(x, y) < 1) & (np.hypot(x, y) > hole)


def _rhombus(width: float) -> Outline:
    return lambda x, y: abs(x) / width + abs(y) < 1


def _heart(lobes: float, depth: float) -> Outline:
    """Two discs side by side, and below them the tangents that meet in a point."""

    def inside(x: Plane, y: Plane) -> Mask:
        discs = (abs(x) - 0.5) ** 2 + (y + 0.3) ** 2 < lobes**2
        # The tangent of a disc from the point (0, depth): all points on the near side of it.
        reach = depth + 0.3
        far = np.hypot(0.5, reach)
        half = np.arcsin(min(1.0, lobes / far)) + np.arctan2(0.5, reach)
        below = np.arctan2(abs(x), depth - y) < half
        under = (y > -0.3 + 0.15) & (y < depth)
        touch = np.hypot(x, depth - y) < np.sqrt(far**2 - lobes**2) + 0.1
        return np.asarray(discs | (below & under & touch))

    return inside


def _moon(shift: float, size: float) -> Outline:
    return lambda x, y: (np.hypot(x, y) < 1) & (np.hypot(x - shift, y) > size)
