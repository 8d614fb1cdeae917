"""alpha / rank multiplied into stored numbers: in float32, in a type that holds the products."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats import adapter_files
from sd3tune.formats.convert import export
from sd3tune.formats.identify import identify

FLAT = "lora_transformer_transformer_blocks_0_attn_to_{}"
F8, F16, BF16, F32 = torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32
# Number type, rank, alpha, size of lora_B -> the type it is stored in.
CASES: list[tuple[torch.dtype, int, float, float, torch.dtype]] = [
    (F8, 64, 1.0, 0.05, F16),  # fp8 holds no product
    (torch.float8_e5m2, 4, 6.0, 0.05, F16),
    (torch.float8_e5m2, 4, 64.0, 3e4, F32),  # beyond fp16
    (F8, 4, 4.0, 0.05, F8),  # nothing is multiplied
    (F16, 128, 1.0, 1e-4, F32),  # below fp16's normal numbers
    (F16, 4, 640.0, 3e3, F32),  # beyond its largest
    (F16, 4, 6.0, 0.05, F16),  # rounded as every fp16 number is
    (BF16, 3, 1.0, 1e-4, BF16),
    (F32, 128, 1.0, 1e-4, F32),
]


def stored(
    name: str, dtype: torch.dtype, rank: int, alpha: float, size: float
) -> dict[str, Tensor]:
    torch.manual_seed(len(name))
    down = (torch.randn(rank, 64) * 0.05).to(dtype)
    up = (torch.rand(64, rank) * 2 * size - size).to(dtype)
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(alpha)}  # fmt: skip


def difference(tensors: dict[str, Tensor], down: str, up: str, scale: float = 1.0) -> Tensor:
    (a,) = (v for k, v in tensors.items() if k.endswith(down))
    (b,) = (v for k, v in tensors.items() if k.endswith(up))
    return b.double() @ a.double() * scale


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{str(c[0])[6:]}-{c[1]}-{c[2]:g}-{c[3]:g}")
def test_a_folded_scale_is_stored_in_a_type_that_holds_it(case: Any, tmp_path: Path) -> None:
    dtype, rank, alpha, size, expected = case
    tensors = stored(FLAT.format("q"), dtype, rank, alpha, size)
    save_file(tensors, tmp_path / "a.safetensors")
    done = export(tmp_path / "a.safetensors", "diffusers")
    written = load_file(done.path)
    assert {t.dtype for t in written.values()} == {expected}  # both matrices: peft multiplies them
    want = difference(tensors, "down.weight", "up.weight", alpha / rank)
    error = (difference(written, "lora_A.weight", "lora_B.weight") - want).norm() / want.norm()
    assert error <= torch.finfo(expected).eps / 2
    about = identify(done.path).metadata  # of this file, whose alpha is its rank
    assert about["ss_network_dim"] == about["ss_network_alpha"] == str(rank)
    shown = about.get("sd3tune_widened")
    if expected == dtype:
        assert done.notes == () and shown is None
    else:
        assert f"stored as {str(expected)[6:]}" in done.notes[0]
        assert shown == f"{str(dtype)[6:]} to {str(expected)[6:]} in 1 modules"


def test_a_fused_matrix_holds_the_numbers_of_its_widest_part(tmp_path: Path) -> None:
    tensors = stored(FLAT.format("q"), F16, 4, 4.0, 0.05) | stored(
        FLAT.format("k"), F32, 4, 4.0, 0.05
    )
    tensors |= stored(FLAT.format("v"), F8, 4, 2.0, 0.05)
    save_file(tensors, tmp_path / "a.safetensors")
    written = load_file(export(tmp_path / "a.safetensors", "kohya").path)
    assert {t.dtype for t in written.values()} == {F32}
    whole = difference(written, "down.weight", "up.weight")
    for i, part in enumerate("qkv"):
        mine = {k: v for k, v in tensors.items() if k.startswith(FLAT.format(part))}
        want = difference(mine, "down.weight", "up.weight", 0.5 if part == "v" else 1.0)
        assert torch.equal(whole[64 * i : 64 * i + 64], want)


def test_whole_numbers_are_not_taken_for_an_adapter(tmp_path: Path) -> None:
    tensors = stored(FLAT.format("q"), F32, 4, 2.0, 0.05)
    tensors = {k: (v * 100).to(torch.int8) if v.ndim else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="is int8, not floating-point numbers"):
        adapter_files.read(tmp_path / "a.safetensors")
    seen = identify(tmp_path / "a.safetensors").adapter
    assert seen is not None and seen.readers["sd3tune"].reads == "no"
