"""A small world of shapes that captions describe completely: what the painter was trained on.

A scene has a background and one to four things; a thing has a shape, a colour, a texture, a size
and a position. `caption` writes a scene in one of several wordings, `draw` paints it. What a
caption leaves out is drawn at random, so a prompt never asks for more than it says. The concepts of
LEFT_OUT never occur in the training of the painter: fine-tuning teaches them. The pairs of
UNSEEN_PAIRS never occur either, though the painter knows the shape and the colour of each.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 35),
    "green": (40, 160, 60),
    "blue": (40, 70, 215),
    "yellow": (245, 215, 40),
    "orange": (245, 135, 25),
    "purple": (130, 45, 165),
    "pink": (245, 140, 185),
    "brown": (125, 75, 35),
    "turquoise": (50, 200, 195),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (140, 140, 140), "black": (20, 20, 20)}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart", "crescent")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = {"small": 0.15, "": 0.22, "large": 0.31}  # radius as a share of the picture's side
POSITIONS = {
    "at the top left": (0.27, 0.27),
    "at the top": (0.5, 0.27),
    "at the top right": (0.73, 0.27),
    "on the left": (0.27, 0.5),
    "in the middle": (0.5, 0.5),
    "on the right": (0.73, 0.5),
    "at the bottom left": (0.27, 0.73),
    "at the bottom": (0.5, 0.73),
    "at the bottom right": (0.73, 0.73),
}
COUNTS = {2: "two", 3: "three", 4: "four"}
LEFT_OUT = {"shape": ("heart", "crescent"), "colour": ("turquoise",), "texture": ("checkered",)}
UNSEEN_PAIRS = (("star", "green"), ("square", "pink"), ("ring", "brown"), ("circle", "purple"))
PLACES = {  # centres of several equal things
    2: ((0.28, 0.5), (0.72, 0.5)),
    3: ((0.27, 0.3), (0.73, 0.3), (0.5, 0.72)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
}
OVERSAMPLING = 4  # in each direction; its mean makes the edges smooth


@dataclass(frozen=True)
class Thing:
    """One thing of a scene. centre, radius: shares of the picture's side."""

    shape: str
    colour: str
    texture: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """A picture and what its caption says of it."""

    background: str
    things: tuple[Thing, ...]
    caption: str


def allowed(kind: str, values: Sequence[str]) -> list[str]:
    """The values of a kind that the painter was trained on."""
    return [v for v in values if v not in LEFT_OUT.get(kind, ())]


@dataclass(frozen=True)
class SceneWords:
    """From which words scenes are made."""

    shapes: Sequence[str] = tuple(allowed("shape", SHAPES))
    colours: Sequence[str] = tuple(allowed("colour", tuple(COLOURS)))
    textures: Sequence[str] = tuple(allowed("texture", TEXTURES))  # the first one is unnamed
    without: Sequence[tuple[str, str]] = UNSEEN_PAIRS  # shape, colour


KNOWN = SceneWords()


def scene(rng: random.Random, words: SceneWords = KNOWN) -> Scene:
    """A random scene: one thing, several equal ones, or two different ones."""
    background = rng.choice(tuple(BACKGROUNDS))
    kind = rng.choices((_one, _several, _two), (0.5, 0.2, 0.3))[0]
    things, text = kind(rng, words)
    if rng.random() < 0.6:
        text += f" on a {background} background"
    return Scene(background, things, text)


def scenes(seed: int, count: int, words: SceneWords = KNOWN) -> Iterator[Scene]:
    """`count` random scenes, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield scene(rng, words)


Made = tuple[tuple[Thing, ...], str]


def _one(rng: random.Random, words: SceneWords) -> Made:
    size, position = rng.choice(tuple(SIZES)), rng.choice(tuple(POSITIONS))
    thing = _thing(rng, words, SIZES[size])
    where = rng.random() < 0.5
    centre = POSITIONS[position] if where else (rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65))
    # A large thing would be cut off at the edge: it moves inward.
    least = thing.radius * 1.15
    x, y = (min(max(c, least), 1 - least) for c in centre)
    thing = _jittered(rng, replace(thing, centre=(x, y)))
    text = singular(f"{_adjectives(thing, size)}{thing.shape}")
    return (thing,), f"{text} {position}" if where else text


def _several(rng: random.Random, words: SceneWords) -> Made:
    count = rng.choice(tuple(COUNTS))
    first = _thing(rng, words, 0.17)
    things = tuple(_jittered(rng, replace(first, centre=c)) for c in PLACES[count])
    return things, f"{COUNTS[count]} {_adjectives(first, '')}{plural(first.shape)}"


def _two(rng: random.Random, words: SceneWords) -> Made:
    first, second = _thing(rng, words, 0.19), _thing(rng, words, 0.19)
    if rng.random() < 0.5:
        places, text = ((0.27, 0.5), (0.73, 0.5)), "{} on the left and {} on the right"
    else:
        places, text = ((0.5, 0.27), (0.5, 0.73)), "{} above {}"
    things = (replace(first, centre=places[0]), replace(second, centre=places[1]))
    names = [singular(f"{_adjectives(t, '')}{t.shape}") for t in things]
    return tuple(_jittered(rng, t) for t in things), text.format(*names)


def _thing(rng: random.Random, words: SceneWords, radius: float) -> Thing:
    texture = rng.choice(words.textures) if rng.random() < 0.4 else words.textures[0]
    pairs = [(s, c) for s in words.shapes for c in words.colours if (s, c) not in words.without]
    shape, colour = rng.choice(pairs)
    return Thing(shape, colour, texture, (0.5, 0.5), radius)


def _jittered(rng: random.Random, thing: Thing) -> Thing:
    x, y = (c + rng.uniform(-0.02, 0.02) for c in thing.centre)
    return replace(thing, centre=(x, y), radius=thing.radius * rng.uniform(0.94, 1.06))


def _adjectives(thing: Thing, size: str) -> str:
    texture = "" if thing.texture == "plain" else thing.texture
    return "".join(f"{word} " for word in (size, texture, thing.colour) if word)


def singular(name: str) -> str:
    """`a star`, `an orange star`."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(shape: str) -> str:
    """`crosses`, `stars`."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def draw(made: Scene, side: int) -> Image.Image:
    """The scene as a square RGB picture of `side` pixels."""
    fine = side * OVERSAMPLING
    pixels = np.empty((fine, fine, 3), np.float32)
    pixels[:] = BACKGROUNDS[made.background]
    grid = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    for thing in made.things:
        x = (grid[None, :] - thing.centre[0]) / thing.radius
        y = (grid[:, None] - thing.centre[1]) / thing.radius
        inside = INSIDE[thing.shape](x, y)
        colour = np.array(COLOURS[thing.colour], np.float32)
        pixels[inside] = colour
        # Stripes and dots keep their width in pixels, whatever the size of the thing.
        dark = DARK[thing.texture](grid[None, :] * np.ones_like(y), grid[:, None] * np.ones_like(x))
        pixels[inside & dark] = colour * 0.45
    mean = pixels.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).mean((1, 3))
    return Image.fromarray(mean.round().astype(np.uint8))


Plane = np.ndarray[Any, np.dtype[np.floating[Any]]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def _polygon(*corners: tuple[float, float]) -> Callable[[Plane, Plane], Mask]:
    """Inside a polygon, by the even-odd rule."""

    def inside(x: Plane, y: Plane) -> Mask:
        result = np.zeros(np.broadcast(x, y).shape, np.bool_)
        for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if y1 != y2:
                crossing = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
                result ^= ((y1 > y) != (y2 > y)) & (x < crossing)
        return result

    return inside


def _star() -> list[tuple[float, float]]:
    turns = [k / 10 * 2 * np.pi - np.pi / 2 for k in range(10)]
    sizes = [1.1 if k % 2 == 0 else 0.45 for k in range(10)]
    return [(float(s * np.cos(t)), float(s * np.sin(t))) for s, t in zip(sizes, turns, strict=True)]


# x to the right, y down, about -1 to 1. Areas are alike, so that no shape is told by its size.
INSIDE: dict[str, Callable[[Plane, Plane], Mask]] = {
    "circle": lambda x, y: x * x + y * y < 0.92,
    "square": lambda x, y: (abs(x) < 0.85) & (abs(y) < 0.85),
    "triangle": _polygon((0, -1.05), (1.1, 0.9), (-1.1, 0.9)),
    "star": _polygon(*_star()),
    "cross": lambda x, y: ((abs(x) < 0.34) & (abs(y) < 1)) | ((abs(y) < 0.34) & (abs(x) < 1)),
    "ring": lambda x, y: (x * x + y * y < 1) & (x * x + y * y > 0.3),
    "diamond": lambda x, y: abs(x) / 0.85 + abs(y) / 1.15 < 1,
    "heart": lambda x, y: (
        (((abs(x) - 0.5) ** 2 + (y + 0.35) ** 2) < 0.3)
        | ((abs(x) < 0.98 * (0.95 - y) / 1.1) & (y > -0.15) & (y < 0.95))
    ),
    "crescent": lambda x, y: (x * x + y * y < 1) & ((x - 0.5) ** 2 + y * y > 0.6),
}
DARK: dict[str, Callable[[Plane, Plane], Mask]] = {
    "plain": lambda x, y: np.zeros(np.broadcast(x, y).shape, np.bool_),
    "striped": lambda x, y: (y * 10) % 1 < 0.5,
    "dotted": lambda x, y: ((x * 8) % 1 - 0.5) ** 2 + ((y * 8) % 1 - 0.5) ** 2 < 0.08,
    "checkered": lambda x, y: ((x * 6) % 1 < 0.5) ^ ((y * 6) % 1 < 0.5),
}
