"""Twins: an image that occurs several times in one optimizer step.

Twins happen with `repeats`, with few images, and where an epoch ends within a step. They are
different samples, because their occurrence is part of their seeds (data/seeds.py). Other images
would still teach more, so `apart` orders the batches of an epoch so that steps hold no twins where
the images allow it.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TypeVar

from sd3tune.data.discover import Sample

Batch = tuple[Sample, ...]
T = TypeVar("T")
NEAR = 256  # places among which a partner for an exchange is looked for


def numbered(batch: Batch, before: Counter[int]) -> Batch:
    """The batch, each image with its occurrence in the optimizer step. before: image id -> how
    often it occurred earlier in the step; counts these images too afterwards."""
    found = []
    for s in batch:
        found.append(replace(s, occurrence=before[s.id]) if before[s.id] else s)
        before[s.id] += 1
    return tuple(found)


def apart(
    batches: Sequence[Batch], steps: Sequence[int], before: Sequence[Batch] = ()
) -> list[Batch]:
    """The same images in batches of the same sizes, with as few twins as possible; unchanged where
    there are none. Datasets keep their batches' positions, and buckets stay unmixed.

    steps: the optimizer step of each batch, ascending. before: the batches that the first of these
    steps has already.
    """
    ordered = list(batches)
    for at in _grouped(ordered, lambda batch: batch[0].dataset):
        _move_batches(ordered, at, steps, before)
    for at in _grouped(ordered, _bucket):
        _move_images(ordered, at, steps, before)
    return ordered


def _move_batches(
    ordered: list[Batch], at: Sequence[int], steps: Sequence[int], before: Sequence[Batch]
) -> None:
    """Exchanges whole batches of a dataset, so that no step has more batches of a bucket than the
    bucket has different images for. at: the indexes of the dataset's batches."""
    images: dict[Hashable, set[int]] = defaultdict(set)
    for i in at:
        images[_bucket(ordered[i])] |= {s.id for s in ordered[i]}
    room = {key: max(1, len(ids) // len(ordered[at[0]])) for key, ids in images.items()}
    count: Counter[Hashable] = Counter()
    keys = []
    for i in at:  # two batches of a bucket may share a step unless their keys are equal
        key = _bucket(ordered[i])
        keys.append((key, count[key] % room[key]))
        count[key] += 1
    taken: set[Hashable] = set()
    for key, used in Counter(map(_bucket, before)).items():
        if key in room and steps[at[0]] == steps[0]:
            taken |= {(key, -j % room[key]) for j in range(1, used + 1)}
    moved = _spread([ordered[i] for i in at], keys, [steps[i] for i in at], taken)
    for i, batch in zip(at, moved, strict=True):
        ordered[i] = batch


def _move_images(
    ordered: list[Batch], at: Sequence[int], steps: Sequence[int], before: Sequence[Batch]
) -> None:
    """Exchanges images of a bucket between its batches. at: the indexes of these batches."""
    images = [s for i in at for s in ordered[i]]
    own_steps = [steps[i] for i in at for _ in ordered[i]]
    taken = {s.id for batch in before for s in batch} if steps[at[0]] == steps[0] else set()
    moved = iter(_spread(images, [s.id for s in images], own_steps, taken))
    for i in at:
        ordered[i] = tuple(next(moved) for _ in ordered[i])


def _spread(
    items: Sequence[T], keys: Sequence[Hashable], steps: Sequence[int], taken: Collection[Hashable]
) -> list[T]:
    """The items in an order in which no step has a key twice, where possible. steps: of each place,
    ascending. taken: keys that the first step has already."""
    order = _swapped(keys, steps, taken)
    if order is None:
        order = _dealt(keys, steps, taken)
    return [items[i] for i in order]


def _swapped(
    keys: Sequence[Hashable], steps: Sequence[int], taken: Collection[Hashable]
) -> list[int] | None:
    """Indexes of the items in such an order, reached by exchanging each repeated key with one near
    it, so that most of an epoch stays as it is. None where that does not succeed."""
    order = list(range(len(keys)))
    have: dict[int, Counter[Hashable]] = defaultdict(Counter)
    have[steps[0]].update(taken)
    for key, step in zip(keys, steps, strict=True):
        have[step][key] += 1
    for i in reversed(range(len(keys))):  # of two twins, the second one moves
        key, step = keys[order[i]], steps[i]
        if have[step][key] < 2:
            continue
        near = chain(range(i + 1, min(i + NEAR, len(keys))), range(i - 1, max(i - NEAR, -1), -1))
        for j in near:
            other = keys[order[j]]
            if not have[step][other] and not have[steps[j]][key]:
                break
        else:
            return None
        order[i], order[j] = order[j], order[i]
        have[step] += Counter({other: 1, key: -1})
        have[steps[j]] += Counter({key: 1, other: -1})
    return order


def _dealt(
    keys: Sequence[Hashable], steps: Sequence[int], taken: Collection[Hashable]
) -> list[int]:
    """Indexes of the items in such an order. Each step takes the keys with the most items left,
    which succeeds whenever any order does (Gale and Ryser, 1957); equal counts keep their order."""
    places: dict[Hashable, deque[int]] = defaultdict(deque)
    for i, key in enumerate(keys):
        places[key].append(i)
    entries = [(-len(left), left[0], key) for key, left in places.items()]
    free = [e for e in entries if e[2] not in taken]
    used = [e for e in entries if e[2] in taken]
    heapify(free)
    order, step = [], steps[0]
    for now in steps:
        if now != step:
            step = now
            for e in used:
                heappush(free, e)
            used = []
        if not free:  # the step has every key: twins cannot be avoided
            free, used = used, []
            heapify(free)
        _, i, key = heappop(free)
        order.append(i)
        places[key].popleft()
        if places[key]:
            used.append((-len(places[key]), places[key][0], key))
    return order


def _bucket(batch: Batch) -> Hashable:
    return batch[0].dataset, batch[0].geometry.bucket


def _grouped(batches: Sequence[Batch], key: Callable[[Batch], Hashable]) -> Iterable[list[int]]:
    """The indexes of the batches with equal keys, for each key."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for i, batch in enumerate(batches):
        found[key(batch)].append(i)
    return found.values()
