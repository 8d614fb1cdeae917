"""Seeds: every random number of training is a function of the words it is drawn for."""

from hashlib import blake2b


def seed_of(*parts: int | str) -> int:
    """63 bits from any numbers and words; unrelated parts give unrelated seeds."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
