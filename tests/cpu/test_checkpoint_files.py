"""The files of a checkpoint: the library's bytes, and checksums made while they are written."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from sd3tune.data import safetensors_writer
from sd3tune.formats import manifest
from sd3tune.train.checkpoint_draft import LARGE_BYTES, filling

DTYPES = ("float64 float32 bfloat16 float16 int64 int32 int16 int8 uint8 bool float8_e4m3fn "
          "float8_e5m2 float8_e8m0fnu complex64 uint16 uint32 uint64")  # fmt: skip


def tensors() -> dict[str, Tensor]:
    """One of each type the format has, in an order that the format changes."""
    dice = torch.Generator().manual_seed(0)
    found = {f"{i}.{n}": torch.zeros(3, i + 1).to(getattr(torch, n))
             for i, n in enumerate(reversed(DTYPES.split()))}  # fmt: skip
    found |= {"z \u00e9\"\\": torch.randn(5, generator=dice), "a": torch.randn((), generator=dice),
              "empty": torch.zeros(0, 4), "scalar": torch.tensor(7)}  # fmt: skip
    return found


def test_files_are_byte_for_byte_those_of_the_library() -> None:
    named = tensors()
    assert b"".join(safetensors_writer.contents(named)) == save(named)
    assert b"".join(safetensors_writer.contents({})) == save({})
    about = {"sd3tune": '{"problems": {"k": "\\u00e9 \\"quoted\\""}}'}
    assert b"".join(safetensors_writer.contents(named, about)) == save(named, about)


def test_a_tensor_that_is_not_contiguous_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`w` is not a contiguous tensor"):
        safetensors_writer.contents({"w": torch.zeros(4, 4).t()[:2]})


def test_every_file_has_its_checksum_whoever_wrote_it(tmp_path: Path) -> None:
    large = {"w": torch.randn(LARGE_BYTES // 4 + 5), "b": torch.randn(7)}
    with filling(tmp_path) as draft:
        draft.write_tensors("large.safetensors", large)
        draft.write_tensors("small.safetensors", tensors())
        draft.write_bytes("state.json", b"{}")
        (tmp_path / "beside.txt").write_text("by an adapter")
        draft.seal()
    listed = manifest.listing(tmp_path)
    assert set(listed) == {"large.safetensors", "small.safetensors", "state.json", "beside.txt"}
    assert all(manifest.checksum(tmp_path / name) == digest for name, digest in listed.items())
    read = load_file(tmp_path / "large.safetensors")
    assert all(torch.equal(read[name], value) for name, value in large.items())


def test_a_disk_error_beside_the_writing_is_raised(tmp_path: Path) -> None:
    with filling(tmp_path) as draft:
        draft.write_tensors("large.safetensors", {"w": torch.zeros(LARGE_BYTES, dtype=torch.int8)})
        (tmp_path / "large.safetensors").unlink()
        (tmp_path / "gone.txt").symlink_to(tmp_path / "gone.txt")
        (tmp_path / "link.txt").symlink_to(__file__)
        with pytest.raises(OSError, match="symbolic link"):
            draft.seal()
