"""Seeds: every random number of training is a pure function of its purpose, such as (seed, step,
image)."""

from hashlib import blake2b


def seed_of(*parts: int | str) -> int:
    """A seed of 63 bits from numbers and text; different parts give unrelated seeds."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
