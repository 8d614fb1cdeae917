"""Whether a picture shows what its prompt asks for.

The judge looks at pixels (recognition.py) and reads the prompt (prompts_read.py). It shares no
code, table or label with the world that the painter learned from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from sd3tune.demo.prompts_read import Asked, Described, read
from sd3tune.demo.recognition import Judged, SeenThing, judged

ATTRIBUTES = ("count", "shape", "colour", "texture", "size", "position", "background")


@dataclass(frozen=True)
class Judgement:
    """What the judge says of one picture. answers: attribute that the prompt asks for -> right."""

    prompt: str
    seen: Judged
    answers: Mapping[str, bool]

    @property
    def is_right(self) -> bool:
        """Right in shape and colour: the promise. Other attributes are counted apart."""
        return all(self.answers.get(name, True) for name in ("shape", "colour"))


@dataclass(frozen=True)
class Score:
    """Judgements of many pictures, in order."""

    verdicts: tuple[Judgement, ...]

    @property
    def right(self) -> float:
        """The share of pictures that are right in shape and colour, 0 to 1."""
        return sum(v.is_right for v in self.verdicts) / max(len(self.verdicts), 1)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Attribute -> (right, asked for), of the attributes that any prompt asks for."""
        given = {n: [v.answers[n] for v in self.verdicts if n in v.answers] for n in ATTRIBUTES}
        return {name: (sum(all_), len(all_)) for name, all_ in given.items() if all_}

    @property
    def lines(self) -> list[str]:
        """The table to print: one line for shape and colour together, one per attribute."""
        n, right = len(self.verdicts), sum(v.is_right for v in self.verdicts)
        rows = {"shape and colour": (right, n)} | self.counts
        return [f"{name:<17}{a:>5} of {b:<5}{100 * a / max(b, 1):>4.0f} %"
                for name, (a, b) in rows.items()]  # fmt: skip


def score(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Score:
    """Judges pictures[i] by prompts[i]. Raises ConfigError for a prompt of another world."""
    return Score(tuple(verdict(*pair) for pair in zip(pictures, prompts, strict=True)))


def verdict(picture: Image.Image, prompt: str) -> Judgement:
    """Judges one picture by its prompt."""
    seen = judged(picture)
    return Judgement(prompt, seen, answers(prompt, seen))


def answers(prompt: str, seen: Judged) -> dict[str, bool]:
    """For each attribute that the prompt asks for: whether all things have it. Shape and colour of
    a picture without things are wrong; a missing or additional thing makes `count` wrong, and for
    two different things also the rest."""
    asked = read(prompt)
    pairs = _pairs(asked, seen)
    result = {"count": len(seen.things) == asked.count}
    for name in ("shape", "colour", "texture", "size"):
        wanted = [getattr(described, name) for described in asked.things]
        if any(wanted):
            result[name] = bool(pairs) and all(
                getattr(described, name) in (None, getattr(thing, name))
                for described, thing in pairs
            )
    if asked.position is not None:
        result["position"] = bool(pairs) and all(t.position == asked.position for _, t in pairs)
    if asked.background is not None:
        result["background"] = seen.background == asked.background
    return result


def _pairs(asked: Asked, seen: Judged) -> list[tuple[Described, SeenThing]]:
    """Which thing has to be what; none where that cannot be said."""
    if asked.along is None:
        return [(asked.things[0], thing) for thing in seen.things]
    axis = "xy".index(asked.along)
    things = sorted(seen.things, key=lambda t: t.centre[axis])
    if len(things) != 2 or things[1].centre[axis] - things[0].centre[axis] < 0.15:
        return []
    return list(zip(asked.things, things, strict=True))


def said(seen: Judged) -> str:
    """What a picture shows, in words: `a red star at the top, on a white background`."""
    if not seen.things:
        return "nothing"
    names = [_named(thing) for thing in seen.things]
    return ", ".join(names) + (f" on {seen.background}" if seen.background else "")


def _named(thing: SeenThing) -> str:
    texture = "" if thing.texture == "plain" else thing.texture
    words: Iterable[str | None] = (texture, thing.colour, thing.shape or "unclear shape")
    return " ".join(word for word in words if word)
