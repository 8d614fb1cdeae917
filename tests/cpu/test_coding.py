"""Captions in the cache: the coding loses nothing, is small, and trusts no file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zstandard
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.data import coding, shards
from sd3tune.data.cache import SHARDS, TensorCache, shard_name
from sd3tune.errors import DataError
from sd3tune.sd3.text import packed, unpacked

KEY = "k"


def caption(tokens: int) -> dict[str, Tensor]:
    """Embeddings of SD3.5's sizes; values of T5 are far from normal: a few columns are large."""
    dice = torch.Generator().manual_seed(tokens)
    embeds = torch.zeros(77 + tokens, 4096)
    embeds[:77, :2048].normal_(generator=dice)
    columns = torch.randn(4096, generator=dice).exp() * 0.05
    embeds[77:] = torch.randn(tokens, 4096, generator=dice) * columns
    return packed(embeds, torch.randn(2048, generator=dice))


def stored(folder: Path, entry: dict[str, Tensor]) -> TensorCache:
    cache = TensorCache(folder)
    with cache.claim([KEY]) as draft:
        assert draft is not None
        draft.write({KEY: entry}, {})
    cache.finish()
    return TensorCache(folder)


def rewritten(folder: Path, **changes: object) -> Path:
    """The shard with other metadata."""
    (path,) = TensorCache(folder).shard_paths()
    tensors = {name: t.clone() for name, t in load_file(path).items()}
    about = json.loads(shards.opened(path).file.metadata()[shards.ABOUT]) | changes
    save_file(tensors, path, {shards.ABOUT: json.dumps(about)})
    return path


@pytest.mark.parametrize("tokens", [154, 256])
def test_a_caption_comes_back_bit_for_bit_and_is_a_quarter_smaller(
    tokens: int, tmp_path: Path
) -> None:
    entry = caption(tokens)
    cache = stored(tmp_path, entry)
    found = cache.get(KEY)
    assert found.keys() == entry.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in entry.items())
    assert torch.equal(unpacked(found, tokens, 4096)[0], unpacked(entry, tokens, 4096)[0])
    assert cache.size_bytes() < 0.75 * sum(t.nbytes for t in entry.values())
    assert cache.verify() == []


def test_every_bit_pattern_survives_and_other_types_are_not_coded() -> None:
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    patterns = patterns.sort().values.view(torch.bfloat16).reshape(256, 256)
    frame = coding.coded(patterns)
    assert frame is not None
    back = coding.decoded(frame, (256, 256))
    assert torch.equal(back.view(torch.int16), patterns.view(torch.int16))
    assert coding.coded(torch.zeros(512)) is None and coding.coded(torch.zeros(512).half()) is None
    assert coding.coded(torch.zeros(0, 4, dtype=torch.bfloat16)) is None


def test_frames_do_not_depend_on_those_before_or_on_the_thread() -> None:
    entries = {f"k{i}": caption(100 + i) for i in range(5)}
    assert sum(t.nbytes for e in entries.values() for t in e.values()) > shards.MANY_BYTES
    tensors, _ = shards.stored(entries, {})
    for key, entry in entries.items():
        for name, tensor in entry.items():
            turned = (
                tensor.reshape(-1).view(torch.int16).numpy().view("uint16").astype("uint32") * 2
            )
            turned = turned % 2**16 + turned // 2**16
            planes = (turned // 256).astype("uint8").tobytes() + turned.astype("uint8").tobytes()
            fresh = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(planes)
            assert tensors[f"{key}.{name}"].numpy().tobytes() == fresh


def test_a_shard_from_before_the_coding_is_read(tmp_path: Path) -> None:
    entry = caption(20)
    folder = tmp_path / SHARDS
    folder.mkdir()
    tensors = {f"{KEY}.{name}": t for name, t in entry.items()}
    about = {"problems": {}, "digests": {KEY: shards.digest(entry)}}
    path = folder / f"{shard_name([KEY])}.safetensors"
    save_file(tensors, path, {shards.ABOUT: json.dumps(about)})
    cache = TensorCache(tmp_path)
    assert all(torch.equal(cache.get(KEY)[name], t) for name, t in entry.items())
    assert cache.verify() == []


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a bomb": lambda: zstandard.ZstdCompressor().compress(bytes(2**28)),
    "no size": lambda: zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**20)),
    "another size": lambda: zstandard.ZstdCompressor().compress(bytes(100)),
    "not a frame": lambda: b"\x28\xb5\x2f\xfd" + bytes(40),
    "half a frame": lambda: zstandard.ZstdCompressor().compress(bytes(range(256)) * 64)[:40],
    "nothing": lambda: b"\0",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_frame_is_refused_before_it_is_decompressed(kind: str) -> None:
    frame = torch.frombuffer(bytearray(HOSTILE[kind]()), dtype=torch.uint8)
    with pytest.raises(coding.BadCoding):
        coding.decoded(frame, (128, 64))
    with pytest.raises(coding.BadCoding, match="shape"):
        coding.decoded(frame, (2**20, 2**20))


@pytest.mark.parametrize("at", [30, -1, -500])
def test_a_flipped_bit_is_one_error_each_time_it_is_read(at: int, tmp_path: Path) -> None:
    cache = stored(tmp_path, caption(20))
    (path,) = cache.shard_paths()
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + at if at > 0 else at] ^= 4
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(DataError, match=r"cannot be read|not those that were") as error:
            cache.get(KEY)
        assert "cache verify --repair" in (error.value.hint or "")
    assert [d.path for d in cache.verify()] == [path]


def test_shapes_that_do_not_fit_are_damage_and_a_newer_coding_is_left_alone(
    tmp_path: Path,
) -> None:
    stored(tmp_path, caption(20))
    rewritten(tmp_path, shapes={f"{KEY}.t5": [2**30, 2**30]})
    with pytest.raises(DataError, match="cannot be read"):
        TensorCache(tmp_path).get(KEY)
    rewritten(tmp_path, shapes="many")
    assert not TensorCache(tmp_path).has(KEY)
    path = tmp_path / SHARDS / f"{shard_name([KEY])}.safetensors"
    tensors = {name: t.clone() for name, t in load_file(path).items()}
    about = {"problems": {}, "digests": {}, "coding": "better", "shapes": {}}
    save_file(tensors, path, {shards.ABOUT: json.dumps(about)})
    cache = TensorCache(tmp_path)
    assert not cache.has(KEY) and cache.mend() == 0 and cache.verify() == [] and path.exists()
    with pytest.raises(DataError, match="newer sd3tune"):
        cache.look_again([KEY])


def test_an_entry_is_compared_with_its_checksum_again_when_its_file_changed(
    tmp_path: Path,
) -> None:
    cache = stored(tmp_path, {"mean": torch.ones(16, 8, 8).half()})
    assert float(cache.get(KEY)["mean"].sum()) == 1024
    (path,) = cache.shard_paths()
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-2] + b"\0\0")
    again = TensorCache(tmp_path)
    with pytest.raises(DataError, match="not those that were written"):
        again.get(KEY)
