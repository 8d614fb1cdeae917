"""What `sd3tune inspect` says, from headers alone: dialect, scale, model, who reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.cli import inspect
from sd3tune.errors import ModelError
from sd3tune.formats.identify import identify
from tests import safetensors_files

LORA = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")


def lora(path: Path, name: str, parts: tuple[str, str] = LORA, width: int = 1536, rank: int = 8,
         extra: dict[str, list[int]] | None = None, alpha: float | None = None,
         metadata: dict[str, str] | None = None, rows: int = 1) -> Path:  # fmt: skip
    down, up = parts
    shapes = {f"{name}.{down}": [rank, width], f"{name}.{up}": [rows * width, rank]}
    numbers = {} if alpha is None else {f"{name}.alpha": alpha}
    return safetensors_files.write(path, shapes | (extra or {}), numbers, metadata)


MODULE = "transformer_blocks.3.attn.to_q"
QKV = "joint_blocks_3_x_block_attn_qkv"
DORA = {f"transformer.{MODULE}.lora_magnitude_vector": [1536]}
SAID = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})}


@pytest.mark.parametrize(
    "name, options, diffusers, comfyui, scale",
    [
        (f"transformer.{MODULE}", {}, "yes", "yes", "1"),
        (f"transformer.{MODULE}", {"alpha": 4}, "no: it refuses", "yes", "0.5"),
        (f"transformer.{MODULE}", {"metadata": SAID}, "yes", "wrong: alpha is in the metadata",
         "0.5"),
        (f"transformer.{MODULE}", {"extra": DORA},
         "yes", "wrong: it does not know lora_magnitude_vector", "1"),
        (f"base_model.model.{MODULE}", {}, "no: it loads nothing", "yes", "1"),
        (f"diffusion_model.{MODULE}", {}, "no: it loads nothing", "no: it loads nothing", "1"),
        (f"lora_unet_{QKV}", {"parts": KOHYA, "alpha": 16, "rows": 3}, "no", "yes", "2"),
        ("lora_unet_transformer_blocks_3_attn_to_q", {"parts": KOHYA}, "no",
         "no: it loads nothing", "1"),
        ("diffusion_model.joint_blocks.3.x_block.attn.qkv", {"rows": 3}, "no", "yes", "1"),
        ("lora_transformer_transformer_blocks_3_attn_to_q", {"parts": KOHYA, "alpha": 8}, "no",
         "yes", "1"),
        ("lycoris_transformer_blocks_3_attn_to_q", {"parts": KOHYA, "alpha": 8,
         "extra": {"lycoris_transformer_blocks_3_attn_to_q.dora_scale": [1536, 1]}}, "no",
         "wrong: it divides DoRA by |W|", "1"),
    ],
)  # fmt: skip
def test_who_reads_which_dialect(
    name: str, options: dict[str, Any], diffusers: str, comfyui: str, scale: str, tmp_path: Path
) -> None:
    seen = identify(lora(tmp_path / "a.safetensors", name, **options)).adapter
    assert seen is not None and seen.readers["sd3tune"].reads == "yes"
    assert list(seen.scales) == [scale] and list(seen.ranks) == ["8"]
    for program, expected in (("diffusers", diffusers), ("ComfyUI", comfyui)):
        verdict = seen.readers[program]
        assert f"{verdict.reads}: {verdict.reason}".startswith(expected), verdict


@pytest.mark.parametrize(
    "name, options, model",
    [
        (f"transformer.{MODULE}", {"width": 2432}, "sd3.5-large"),
        ("transformer.transformer_blocks.3.attn2.to_q", {}, "sd3.5-medium"),
        ("transformer.transformer_blocks.3.norm1.linear", {"rows": 9}, "sd3.5-medium"),
        (f"transformer.{MODULE}", {}, "sd3-medium"),
        (f"transformer.{MODULE}", {"metadata": {"base_model": "sd3.5-medium"}}, "sd3.5-medium"),
        ("transformer.transformer_blocks.0.attn2.to_k", {"width": 192}, "sd3.5-medium (tiny)"),
        (f"lora_unet_{QKV}", {"parts": KOHYA, "rows": 3, "width": 2432}, "sd3.5-large"),
    ],
)
def test_the_model_is_guessed_from_shapes(
    name: str, options: dict[str, Any], model: str, tmp_path: Path
) -> None:
    seen = identify(lora(tmp_path / "a.safetensors", name, **options)).adapter
    assert seen is not None and seen.model == model


def test_every_algorithm_is_named(tmp_path: Path) -> None:
    name = "lycoris_transformer_blocks_0_attn_to_k"
    kinds = {
        "loha": {"hada_w1_a": [64, 4], "hada_w1_b": [4, 64], "hada_w2_a": [64, 4],
                 "hada_w2_b": [4, 64]},
        "lokr": {"lokr_w1": [8, 8], "lokr_w2": [8, 8]},
        "oft": {"oft_blocks": [8, 8, 8]},
        "glora": {"a1.weight": [64, 4], "a2.weight": [4, 64], "b1.weight": [64, 4],
                  "b2.weight": [4, 64]},
        "full": {"diff": [64, 64], "diff_b": [64]},
        "ia3": {"on_input": [1]},
    }  # fmt: skip
    for kind, parts in kinds.items():
        shapes = {f"{name}.{part}": shape for part, shape in parts.items()}
        seen = identify(safetensors_files.write(tmp_path / f"{kind}.safetensors", shapes)).adapter
        assert seen is not None and seen.algorithms == {kind: 1}
        assert seen.readers["diffusers"].reads == "no"
        reads = {"full": "wrong", "ia3": "unknown"}.get(kind, "yes")
        assert seen.readers["ComfyUI"].reads == reads
    both = {f"{name}.lokr_w1": [8, 8], f"{name}.lokr_w2": [8, 8], f"{name}.dora_scale": [64, 1]}
    seen = identify(safetensors_files.write(tmp_path / "dora", both)).adapter
    assert seen is not None and seen.algorithms == {"lokr with DoRA": 1}


def test_text_encoders_and_unknown_keys_are_counted(tmp_path: Path) -> None:
    extra = {"text_encoder.x.lora_A.weight": [2, 2], "transformer.nothing.lora_A.weight": [2, 2]}
    seen = identify(lora(tmp_path / "a.safetensors", f"transformer.{MODULE}", extra=extra)).adapter
    assert seen is not None and seen.text_encoder_keys == 1
    assert seen.unknown_keys == ("transformer.nothing.lora_A.weight",)
    assert seen.readers["sd3tune"].reads == "no"


def test_words_and_json_say_the_same(tmp_path: Path) -> None:
    name = f"transformer.{MODULE}"
    metadata = SAID | {"modelspec.title": "grey cats", "long": "x" * 200}
    found = identify(lora(tmp_path / "a.safetensors", name, metadata=metadata))
    shown, data = inspect.lines(found), json.loads(inspect.document(found))
    assert data["kind"] == "adapter" and data["schema"] == 1
    assert data["adapter"]["readers"]["ComfyUI"]["reads"] == "wrong"
    for line in ("  rank         8", "  alpha/rank   0.5 (from the metadata alone)",
                 "  targets      attn.to_q", "  modelspec.title: grey cats",
                 "  diffusers    yes"):  # fmt: skip
        assert line in shown
    text = "\n".join(map(str, shown))
    assert "(200 characters)" in text and "lora_adapter_metadata" not in text


@pytest.mark.parametrize(
    "content, words",
    [
        (b"PK\x03\x04\x00\x00\x08\x08" + b"x" * 40, "a PyTorch pickle"),
        (b"\x80\x02}q\x00X\x01" + b"x" * 40, "a pickle"),
        (b"GGUF\x03\x00\x00\x00" + b"x" * 40, "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "or only its beginning"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "damaged header"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}more", "is 14 bytes long where its header says 10"),
        (b"", "or only its beginning"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        identify(path)


def test_a_file_cut_short_and_a_place_without_anything_are_errors(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", f"transformer.{MODULE}")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="bytes long where its header says"):
        identify(path)
    with pytest.raises(ModelError, match="does not exist"):
        identify(tmp_path / "nothing.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds nothing sd3tune knows"):
        identify(tmp_path / "empty")


def test_a_header_of_a_hundred_and_twenty_eight_bytes_is_no_pickle(tmp_path: Path) -> None:
    for padding in range(200):
        path = tmp_path / "a.safetensors"
        safetensors_files.write(path, {"x" * (padding + 1): [2]})
        assert identify(path).kind == "other"
