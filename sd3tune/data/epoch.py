"""The order of training: a pure function of (samples, batch size, seed, epoch).

Batches hold images of one size. A bucket that does not divide into batches is completed with its
own images again: nothing is dropped, and no thin bucket can stop a run.
"""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from random import Random

from sd3tune.data.discover import Sample

Bucket = tuple[str, tuple[int, int]]  # dataset id and size: batches mix neither


def order(
    samples: Sequence[Sample], batch_size: int, seed: int, epoch: int
) -> list[tuple[Sample, ...]]:
    """The batches of one epoch; each image appears at least `repeats + 1` times."""
    dice = Random(_seed(seed, epoch))
    batches = []
    for images in _buckets(samples).values():
        chosen = [s for s in images for _ in range(s.repeats + 1)]
        dice.shuffle(chosen)
        short = -len(chosen) % batch_size
        chosen += [chosen[i % len(chosen)] for i in range(short)]
        batches += [tuple(chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size)]
    dice.shuffle(batches)
    return batches


def batches_per_epoch(samples: Sequence[Sample], batch_size: int) -> int:
    """len(order(…)), without making it."""
    counts = (sum(s.repeats + 1 for s in images) for images in _buckets(samples).values())
    return sum(-(-count // batch_size) for count in counts)


def _buckets(samples: Sequence[Sample]) -> dict[Bucket, list[Sample]]:
    """In an order that does not depend on the order of `samples`."""
    found: dict[Bucket, list[Sample]] = defaultdict(list)
    for s in sorted(samples, key=lambda s: (s.dataset, s.relative)):
        found[s.dataset, s.geometry.bucket].append(s)
    return dict(sorted(found.items()))


def _seed(seed: int, epoch: int) -> int:
    return int.from_bytes(blake2b(f"order {seed} {epoch}".encode(), digest_size=8).digest(), "big")
