"""Seeds: every random number of training is a pure function of its purpose, such as (seed, step,
image)."""

from hashlib import blake2b

Draw = tuple[int, ...]  # stands for one sample of an optimizer step in its seeds


def seed_of(*parts: int | str) -> int:
    """A seed of 63 bits from numbers and text; different parts give unrelated seeds."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def draw_of(image: int, occurrence: int) -> Draw:
    """What stands for an image in the seeds of an optimizer step. occurrence: how often the image
    came before in the same step; 0 leaves the seeds those of the image alone."""
    return (image, occurrence) if occurrence else (image,)
