"""What a prompt of the world asks for, word by word: the judge's own reader of captions.

    a large striped blue star at the top left on a white background
    three dotted red rings
    a green cross above an orange diamond on a gray background
    a pink heart on the left and a brown star on the right

A word that is absent asks for nothing. Any other sentence is refused.
"""

from dataclasses import dataclass

from sd3tune.errors import ConfigError

SHAPES = frozenset("circle square triangle star cross ring diamond heart crescent".split())
COLOURS = frozenset("red green blue yellow orange purple pink brown turquoise".split())
TEXTURES = frozenset("striped dotted checkered".split())
SIZES = frozenset("small large".split())
BACKGROUNDS = frozenset("white gray black".split())
COUNTS = {"two": 2, "three": 3, "four": 4}
POSITIONS = {"in the middle": "middle"} | {
    f"{word} {part}": part
    for word, parts in {
        "at the": ("top left", "top right", "bottom left", "bottom right", "top", "bottom"),
        "on the": ("left", "right"),
    }.items()
    for part in parts
}
EXAMPLE = "a prompt such as `a large striped blue star at the top left on a white background`"


@dataclass(frozen=True)
class Described:
    """One thing as a prompt describes it; None: the prompt does not say."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for. things: one description of all things, or two of two things, from
    left to right or from above to below; along: `x` or `y` for two descriptions."""

    things: tuple[Described, ...]
    count: int
    position: str | None = None
    background: str | None = None
    along: str | None = None


def read(prompt: str) -> Asked:
    """Raises ConfigError for a sentence of another form."""
    text = " ".join(prompt.lower().strip().rstrip(".").split())
    background = None
    for gray in BACKGROUNDS:
        if text.endswith(end := f" on a {gray} background"):
            text, background = text.removesuffix(end), gray
    try:
        return _read(text, background)
    except ValueError as e:
        raise ConfigError(f"the judge cannot read the prompt `{prompt}`: {e}", hint=EXAMPLE) from e


def _read(text: str, background: str | None) -> Asked:
    if " above " in text:
        upper, lower = text.split(" above ", 1)
        return Asked((_one(upper), _one(lower)), 2, None, background, "y")
    if " on the left and " in text and text.endswith(" on the right"):
        left, right = text.removesuffix(" on the right").split(" on the left and ", 1)
        return Asked((_one(left), _one(right)), 2, None, background, "x")
    position = None
    for words in sorted(POSITIONS, key=len, reverse=True):
        if text.endswith(f" {words}") and position is None:
            text, position = text.removesuffix(f" {words}"), POSITIONS[words]
    first, _, rest = text.partition(" ")
    if first in COUNTS:
        return Asked((_described(_singular(rest)),), COUNTS[first], position, background)
    return Asked((_one(text),), 1, position, background)


def _one(text: str) -> Described:
    article, _, rest = text.partition(" ")
    if article not in ("a", "an", "the", "one"):
        raise ValueError(f"`{article}` is not an article or a number")
    return _described(rest)


def _singular(text: str) -> str:
    for end in ("es", "s"):
        short = text.removesuffix(end)
        if short != text and short.rpartition(" ")[2] in SHAPES:
            return short
    return text


def _described(text: str) -> Described:
    *adjectives, shape = text.split() or [""]
    if shape not in SHAPES:
        raise ValueError(f"`{shape}` is not a shape")
    kinds = {"colour": COLOURS, "texture": TEXTURES, "size": SIZES}
    values: dict[str, str] = {}
    for word in adjectives:
        kind = next((k for k, known in kinds.items() if word in known and k not in values), None)
        if kind is None:
            raise ValueError(f"`{word}` is not a colour, texture or size, or is a second one")
        values[kind] = word
    return Described(shape, **values)
