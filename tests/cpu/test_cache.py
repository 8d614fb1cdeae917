"""Shards on disk: whole or absent, found again, checked, pruned."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from sd3tune.data.buckets import Geometry
from sd3tune.data.cache import INDEX, TensorCache, latent_key, mask_key, text_key
from sd3tune.data.digests import Known, KnownFiles
from sd3tune.encode.fill import Made, fill
from sd3tune.errors import DataError
from sd3tune.report.progress import stage

SQUARE = Geometry((64, 64), (0, 0), (64, 64), 1.0)


def put(cache: TensorCache, entries: dict[str, torch.Tensor], **problems: str) -> None:
    with cache.claim([*entries, *problems]) as draft:
        assert draft is not None
        draft.write({key: {"a": value} for key, value in entries.items()}, problems)


def test_entries_come_back_in_this_process_and_the_next(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    put(cache, {"k1": torch.arange(6.0), "k2": torch.ones(2)}, k3="no picture")
    for other in (cache, TensorCache(cache.folder)):  # no index was written
        assert torch.equal(other.get("k1")["a"], torch.arange(6.0))
        assert other.has("k3") and other.problem("k3") == "no picture"
        assert not other.has("k4") and other.problem("k4") is None
    cache.finish()
    again = TensorCache(cache.folder)
    assert torch.equal(again.get("k2")["a"], torch.ones(2)) and again.problem("k3") == "no picture"


def test_a_shard_is_written_once_and_by_one_writer(tmp_path: Path) -> None:
    first, second = TensorCache(tmp_path), TensorCache(tmp_path)
    with first.claim(["k"]) as mine:
        with second.claim(["k"]) as other:
            assert mine is not None and other is None
        mine.write({"k": {"a": torch.ones(1)}}, {})
    with second.claim(["k"]) as other:
        assert other is None  # it is there


def test_a_dead_writers_draft_is_written_over_and_others_are_cleared(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    with cache.claim(["k"]):
        pass  # left without writing, as a killed process leaves it
    with cache.claim(["other"]):
        pass
    assert len(list(tmp_path.rglob("*.draft"))) == 2
    put(cache, {"k": torch.ones(1)})
    cache.finish()
    assert not list(tmp_path.rglob("*.draft")) and TensorCache(tmp_path).has("k")


@pytest.mark.parametrize("indexed", [True, False])
def test_a_torn_shard_is_as_if_it_were_not_there(indexed: bool, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"k": torch.arange(600.0)})
    put(cache, {"sound": torch.arange(600.0)})
    if indexed:
        cache.finish()
    path = tmp_path / "shards" / cache.places["k"].shard
    path.write_bytes(path.read_bytes()[:-3])
    again = TensorCache(tmp_path)
    assert not again.has("k") and again.has("sound")
    assert again.mend() == 1 and not path.exists()
    put(again, {"k": torch.arange(600.0)})


def test_flipped_bits_are_found_by_verify(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"k": torch.arange(600.0)})
    put(cache, {"sound": torch.arange(600.0)})
    path = tmp_path / "shards" / cache.places["k"].shard
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    (damage,) = TensorCache(tmp_path).verify()
    assert damage.path == path and "not those that were written" in damage.reason
    cache.remove([path])
    assert not TensorCache(tmp_path).has("k") and TensorCache(tmp_path).verify() == []


def test_infinite_latents_do_not_come_out_of_the_cache(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"ab": torch.tensor([1.0, float("inf")])})
    with pytest.raises(DataError, match="NaN or infinity"):
        cache.get("ab")


def test_pruning_leaves_what_is_wanted(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {f"k{i}": torch.full((3,), float(i)) for i in range(6)}, bad="broken")
    put(cache, {"z": torch.zeros(3)})
    assert cache.prune({"k1", "k4", "bad"}) == 5
    again = TensorCache(tmp_path)
    assert sorted(again.places) == ["bad", "k1", "k4"]
    assert again.get("k4")["a"].tolist() == [4.0] * 3 and again.problem("bad") == "broken"
    assert len(again.shard_paths()) == 1 and again.verify() == []


def test_a_damaged_index_only_costs_time(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"k": torch.ones(1)})
    cache.finish()
    for content in (b"", b"SQLite format 3\0 and then nothing", None):
        index = tmp_path / "index.sqlite"
        index.unlink() if content is None else index.write_bytes(content)
        assert TensorCache(tmp_path).has("k")


def test_a_folder_that_takes_no_writes_is_two_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match="cannot write the cache"),
        TensorCache(tmp_path / "file" / "cache").claim(["k"]),
    ):
        pass


def test_keys_change_with_everything_that_changes_the_result() -> None:
    moved = Geometry((65, 64), (1, 0), (64, 64), 1.0)
    keys = {
        latent_key((64, 64), SQUARE, b"bytes", "vae"),
        latent_key((65, 64), SQUARE, b"bytes", "vae"),
        latent_key((64, 64), moved, b"bytes", "vae"),
        latent_key((64, 64), SQUARE, b"other bytes", "vae"),
        latent_key((64, 64), SQUARE, b"bytes", "other vae"),
        mask_key((64, 64), SQUARE, b"bytes", "mask"),
        mask_key((64, 64), SQUARE, b"bytes", "segmentation"),
        text_key("a cat", "encoders"),
        text_key("a cat ", "encoders"),
        text_key("a cat", "others"),
    }
    assert len(keys) == 10


def test_what_is_known_about_files_holds_as_long_as_their_stamp(tmp_path: Path) -> None:
    memory = KnownFiles(tmp_path, "d")
    memory.files["a.png"] = Known("1", 3, 4, b"digest")
    memory.files["half \udcff.png"] = Known("2", 5, 6, None)
    memory.write()
    other = KnownFiles(tmp_path, "e")
    other.files["a.png"] = Known("9", 9, 9, None)
    other.write()
    again = KnownFiles(tmp_path, "d")
    assert again.files == memory.files
    assert again.get("a.png", "1") == Known("1", 3, 4, b"digest")
    assert again.get("a.png", "2") is None and again.get("b.png", "1") is None


@pytest.mark.parametrize("change", [(b"k1.a", b"kx.a"), (b"k1.a", b"k1.b"), (b"\x07", b"\x08")])
def test_what_was_changed_on_disk_is_not_trained_on(
    change: tuple[bytes, bytes], tmp_path: Path
) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"k1": torch.full((3,), 7, dtype=torch.uint8), "k2": torch.ones(1)})
    cache.finish()
    (shard,) = cache.shard_paths()
    data = shard.read_bytes()
    at = data.rindex(change[0])
    shard.write_bytes(data[:at] + change[1] + data[at + len(change[1]) :])
    with pytest.raises(DataError, match="not those that were written"):
        TensorCache(tmp_path).get("k1")
    assert len(TensorCache(tmp_path).verify()) == 1


def test_pruning_removes_shards_that_are_not_whole(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"k1": torch.ones(3)})
    put(cache, {"k2": torch.ones(3)})
    for path in cache.shard_paths():
        path.write_bytes(path.read_bytes()[:-1])
        break
    assert TensorCache(tmp_path).prune(set()) == 1
    assert TensorCache(tmp_path).shard_paths() == []


@pytest.mark.parametrize("holds", ["its own", "another", "nothing"])
def test_a_shard_that_the_index_is_wrong_about_does_not_stop_filling(
    holds: str, tmp_path: Path
) -> None:
    cache = TensorCache(tmp_path)
    put(cache, {"k1": torch.ones(3)})
    cache.finish()
    (shard,) = cache.shard_paths()
    if holds == "another":
        shard.write_bytes(shard.read_bytes().replace(b"k1", b"k2"))
    elif holds == "nothing":
        shard.write_bytes(b"\0" * shard.stat().st_size)
    with closing(sqlite3.connect(tmp_path / INDEX)) as db, db:
        db.execute("delete from entries")
    with stage("test", 1) as bar:
        made: Made = {"k1": {"a": torch.ones(3)}}, {}
        fill(TensorCache(tmp_path), ["k1"], 1, lambda keys: lambda: made, bar)
    assert torch.equal(TensorCache(tmp_path).get("k1")["a"], torch.ones(3))
