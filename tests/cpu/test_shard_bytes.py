"""What looks after a cache without torch agrees with what trains on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sd3tune.data import shard_bytes, shards
from sd3tune.data.cache import SHARDS, TensorCache

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
KEYS = [letter * 40 for letter in "abcd"]


def entries() -> dict[str, dict[str, Tensor]]:
    """Tensors of every type that is kept, coded and not, one of them empty."""
    dice = torch.Generator().manual_seed(0)
    whole = (torch.uint8, torch.int16, torch.int64)
    numbers: dict[str, Tensor] = {str(t): torch.randn(3, 5, generator=dice).to(t) for t in FLOATS}
    numbers |= {str(t): torch.randint(0, 99, (7,), generator=dice).to(t) for t in whole}
    numbers["bool"] = numbers["torch.int64"] > 50
    caption = {"embeds": torch.randn(40, 300, generator=dice).bfloat16()}
    return {
        KEYS[0]: numbers,
        KEYS[1]: caption | {"pooled": torch.randn(1, 8, generator=dice)},
        KEYS[2]: {"nothing": torch.empty(0, 4)},
    }


def written(folder: Path, held: dict[str, dict[str, Tensor]]) -> Path:
    """The shard of a cache with these entries and one problem."""
    cache = TensorCache(folder)
    with cache.claim([*held, KEYS[3]]) as draft:
        assert draft is not None
        draft.write(held, {KEYS[3]: "no image"})
    cache.finish()
    return draft.final


def test_an_intact_shard_is_intact_and_its_coding_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, entries())
    assert shards.opened(path).about.shapes.keys() == {f"{KEYS[1]}.embeds"}
    assert shard_bytes.damage(path) is None


@pytest.mark.parametrize("place", [0.5, 0.9, 0.999])
def test_a_flipped_bit_is_damage(place: float, tmp_path: Path) -> None:
    path = written(tmp_path, entries())
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)
    assert shard_bytes.damage(path) is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_that_are_not_finite_are_damage(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    for count in (9, 20_000):  # the larger one is coded where it is bfloat16
        tensor = torch.zeros(count, dtype=dtype)
        tensor[-1] = value
        path = written(tmp_path / str(count), {KEYS[0]: {"x": tensor}})
        found = shard_bytes.damage(path)
        assert found is not None and found.reason == "it holds NaN or infinity"


def test_a_copy_has_the_wanted_entries_as_they_were(tmp_path: Path) -> None:
    held = entries()
    path = written(tmp_path / "whole", held)
    copy = shard_bytes.copied(path, {KEYS[0], KEYS[1], "e" * 40})
    kept = {key: held[key] for key in KEYS[:2]}
    assert copy.keys == tuple(kept)
    other = tmp_path / "copy.safetensors"
    other.write_bytes(copy.data)
    assert shard_bytes.damage(other) is None
    read = shards.whole(other, set(KEYS))
    assert read.keys() == kept.keys()
    for key, entry in kept.items():
        assert all(torch.equal(read[key][name], tensor) for name, tensor in entry.items())


def test_pruning_keeps_what_is_wanted_of_a_shard(tmp_path: Path) -> None:
    held = entries()
    written(tmp_path, held)
    assert TensorCache(tmp_path).prune({KEYS[1], KEYS[3]}) == 2
    cache = TensorCache(tmp_path)
    assert cache.places.keys() == {KEYS[1], KEYS[3]} and cache.problem(KEYS[3]) == "no image"
    assert torch.equal(cache.get(KEYS[1])["embeds"], held[KEYS[1]]["embeds"])
    assert cache.verify() == []


# Prunes one of two entries, verifies the rest, and counts what a folder without an index holds.
CODE = f"""
import sys
from pathlib import Path
from sd3tune.data.cache import INDEX, TensorCache
folder = Path(sys.argv[1])
assert TensorCache(folder).prune({{{KEYS[0]!r}, {KEYS[1]!r}}}) == 2
assert TensorCache(folder).verify() == []
(folder / INDEX).unlink()
assert len(TensorCache(folder).places) == 2
print("torch" in sys.modules)
"""


def test_caches_are_pruned_verified_and_counted_without_torch(tmp_path: Path) -> None:
    written(tmp_path, entries())
    words = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert len(list((tmp_path / SHARDS).glob("*.safetensors"))) == 1
