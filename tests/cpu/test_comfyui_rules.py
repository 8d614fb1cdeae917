"""What `inspect` and the writers say of ComfyUI, for modules that lycoris-lora does not make by
default: alpha that is zero or absent, biases, layers whose rows have another order there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats import adapter_files
from sd3tune.formats.adapter_weights import AdapterFile, LycorisWeights
from sd3tune.formats.identify import identify
from sd3tune.formats.weight_deltas import delta
from sd3tune.sd3.original import to_original
from tests.cpu import comfyui

QUERY, OUT = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0"
LAST, OTHER = (f"transformer_blocks.{i}.norm1_context.linear" for i in (2, 0))


def part(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))) * 0.1


def loha(rows: int, columns: int) -> dict[str, Tensor]:
    return {"hada_w1_a": part(rows, 2) * 10, "hada_w1_b": part(2, columns),
            "hada_w2_a": part(rows, 2) * 10, "hada_w2_b": part(2, columns)}  # fmt: skip


def glora(rows: int, columns: int) -> dict[str, Tensor]:
    return {"a1.weight": part(columns, 2), "a2.weight": part(2, columns),
            "b1.weight": part(rows, 2), "b2.weight": part(2, columns)}  # fmt: skip


def lokr(rows: int, columns: int) -> dict[str, Tensor]:
    return {"lokr_w1": part(4, 4), "lokr_w2_a": part(rows // 4, 2) * 10,
            "lokr_w2_b": part(2, columns // 4)}  # fmt: skip


def lokr_whole(rows: int, columns: int) -> dict[str, Tensor]:
    return {"lokr_w1": part(4, 4), "lokr_w2": part(rows // 4, columns // 4)}


def boft(rows: int, columns: int) -> dict[str, Tensor]:
    return {"oft_blocks": part(3, rows // 8, 8, 8)}


def full(rows: int, columns: int) -> dict[str, Tensor]:
    return {"diff": part(rows, columns), "diff_b": part(rows)}


def weight_only(rows: int, columns: int) -> dict[str, Tensor]:
    return {"diff": part(rows, columns)}


def bias_only(rows: int, columns: int) -> dict[str, Tensor]:
    return {"diff_b": part(rows)}


# Kind, layer, alpha -> how ComfyUI reads it.
CASES = [
    (boft, QUERY, None, "wrong"),
    (boft, QUERY, 0.0, "yes"),
    (loha, QUERY, 0.0, "wrong"),
    (loha, QUERY, None, "yes"),
    (glora, QUERY, 0.0, "wrong"),
    (lokr, QUERY, 0.0, "wrong"),
    (lokr_whole, QUERY, 0.0, "yes"),  # it has no scale
    (weight_only, QUERY, 0.0, "yes"),  # neither has a difference
    (full, QUERY, None, "wrong"),
    (full, OUT, None, "yes"),
    (full, "norm_out.linear", None, "wrong"),
    (full, LAST, None, "wrong"),
    (full, OTHER, None, "yes"),  # has six chunks in the same order
    (bias_only, "norm_out.linear", None, "wrong"),
    (bias_only, OUT, None, "yes"),
]


class Weights:
    """Of one of the demo's models, in both layouts."""

    def __init__(self, folder: Path) -> None:
        self.state: dict[str, Tensor] = load_file(folder / "diffusion_pytorch_model.safetensors")
        self.original = to_original(self.state, prefix="")

    def base(self, name: str) -> Tensor:
        return self.state[f"{name}.weight"]

    def merged(self, adapter: AdapterFile) -> dict[str, Tensor]:
        state = dict(self.state)
        for name, module in adapter.modules.items():
            for end, added in zip(("weight", "bias"), delta(name, module, self.base), strict=True):
                if added is not None and added.ndim:
                    state[f"{name}.{end}"] = state[f"{name}.{end}"] + added
        return to_original(state, prefix="")

    def is_read_exactly(self, file: Path, expected: dict[str, Tensor]) -> bool:
        seen, ignored = comfyui.applied(file, self.original)
        same = all(torch.allclose(seen[k], expected[k], rtol=0, atol=1e-5) for k in seen)
        return same and not ignored


@pytest.fixture(scope="module")
def model(demo: Path) -> Weights:
    return Weights(demo / "models" / "sd3.5-medium" / "transformer")


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__} {c[1]} alpha {c[2]}")
def test_comfyui_reads_what_is_said_of_it_and_what_is_written_for_it(
    case: tuple[Callable[[int, int], dict[str, Tensor]], str, float | None, str],
    model: Weights, tmp_path: Path,
) -> None:  # fmt: skip
    kind, layer, alpha, reads = case
    rows, columns = model.base(layer).shape
    key = f"lycoris_{layer.replace('.', '_')}"
    tensors = {f"{key}.{name}": t for name, t in kind(rows, columns).items()}
    if alpha is not None:
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    file, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(tensors, file)
    adapter = adapter_files.read(file)
    expected = model.merged(adapter)
    assert any(not torch.equal(expected[k], model.original[k]) for k in expected)
    seen = identify(file).adapter
    assert seen is not None and seen.readers["ComfyUI"].reads == reads
    assert model.is_read_exactly(file, expected) == (reads == "yes")
    adapter_files.write(out, adapter, "comfyui", base=model.base)
    assert model.is_read_exactly(out, expected)
    again = model.merged(adapter_files.read(out))
    assert all(torch.allclose(again[k], expected[k], rtol=0, atol=1e-5) for k in expected)


def test_a_bias_whose_order_is_unknown_is_refused_both_ways(tmp_path: Path) -> None:
    module = LycorisWeights("full", {"diff_b": torch.ones(256)})
    with pytest.raises(ModelError, match=r"norm1_context\.linear` changes its bias alone"):
        adapter_files.write(tmp_path / "a", AdapterFile({LAST: module}), "kohya")
    key = "lora_unet_joint_blocks_0_context_block_adaLN_modulation_1.diff_b"
    save_file({key: torch.ones(256)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="changes its bias alone"):
        adapter_files.read(tmp_path / "b.safetensors")


@pytest.mark.parametrize("more", [{}, {"dora_scale": (1, 8)}], ids=["plain", "by columns"])
def test_an_alpha_of_zero_is_refused_where_inspect_says_so(more: Any, tmp_path: Path) -> None:
    name = "lycoris_transformer_blocks_0_attn_to_q"
    tensors = {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(8, 2),
               "alpha": torch.tensor(0.0)}  # fmt: skip
    tensors |= {k: torch.ones(shape) for k, shape in more.items()}
    save_file({f"{name}.{k}": v for k, v in tensors.items()}, tmp_path / "a.safetensors")
    seen = identify(tmp_path / "a.safetensors").adapter
    assert seen is not None and seen.readers["sd3tune"].reads == "no"
    with pytest.raises(ModelError, match="alpha 0"):
        adapter_files.read(tmp_path / "a.safetensors")
