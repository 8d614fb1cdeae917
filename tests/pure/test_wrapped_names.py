"""Names of a module that was wrapped when its adapter was saved: the wrappers carry nothing."""

from pathlib import Path

import pytest

from sd3tune.errors import ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import key_names
from sd3tune.formats.identify import identify
from tests import safetensors_files

QUERY = "transformer_blocks.3.attn.to_q"
FUSED = "joint_blocks.3.x_block.attn.qkv"
DOTTED = [  # how a name begins, and the module it is
    ("transformer.base_model.model.", QUERY),
    ("base_model.model.transformer.", QUERY),
    ("base_model.model.base_model.model.", QUERY),
    ("_orig_mod.", QUERY),
    ("module.", QUERY),
    ("module.module._orig_mod.", QUERY),
    ("unet.", QUERY),
    ("unet.base_model.model.", QUERY),
    ("model.transformer.", QUERY),
    ("transformer._fsdp_wrapped_module._orig_mod.", QUERY),
    ("_fsdp_wrapped_module.base_model.model.transformer._orig_mod.", QUERY),
    ("diffusion_model._orig_mod.", FUSED),
    ("model.diffusion_model.", FUSED),
    ("transformer.module.", "context_embedder"),
]


@pytest.mark.parametrize("prefix, module", DOTTED)
def test_what_a_name_begins_with_is_left_out(prefix: str, module: str) -> None:
    found = key_names.group([f"{prefix}{module}.lora_A.weight", f"{prefix}{module}.lora_B.weight"])
    (only,) = found.modules.values()
    assert not found.unknown and only.algorithm == "lora"
    assert (only.prefix, only.module) == (prefix, module)
    assert only.layout == ("original" if module == FUSED else "diffusers")


@pytest.mark.parametrize(
    "key, module",
    [
        ("transformer._fsdp_wrapped_module.transformer_blocks.3._fsdp_wrapped_module.attn.to_q."
         "lora_A.weight", QUERY),
        ("transformer.transformer_blocks.3._orig_mod.attn.to_q.lora_A.default.weight", QUERY),
        ("transformer_blocks.3._checkpoint_wrapped_module._orig_mod.attn.to_q."
         "lora_A.weight", QUERY),
        ("lora_unet__orig_mod_joint_blocks_3_x_block_attn_qkv.lora_down.weight", FUSED),
        ("lora_unet_joint_blocks_3__orig_mod_x_block_attn_qkv.lora_down.weight", FUSED),
        ("lora_transformer__orig_mod_transformer_blocks_3_attn_to_q.lora_down.weight", QUERY),
        ("lycoris__orig_mod_transformer_blocks_3_attn_to_q.lora_down.weight", QUERY),
        ("base_model.model.transformer_blocks.3.attn.to_q.lora_A.my_style.weight", QUERY),
        ("base_model.model.transformer_blocks.3.attn.to_q.lora_A.my style-2.weight", QUERY),
        ("_forward_module.transformer_blocks.3._fpw_module.attn.to_q.lora_A.weight", QUERY),
    ],
)  # fmt: skip
def test_wrappers_inside_a_name_and_names_of_adapters_are_left_out(key: str, module: str) -> None:
    (only,) = key_names.group([key]).modules.values()
    assert only.module == module and dict(only.parts) == {"down": key}


@pytest.mark.parametrize("prefix", ["module.text_encoder.", "other.", "transformer.other."])
def test_other_names_stay_unknown(prefix: str) -> None:
    assert key_names.group([f"{prefix}{QUERY}.lora_A.weight"]).unknown


def test_a_long_name_is_not_searched_for_wrappers() -> None:
    assert key_names.group(["unet." * 300_000 + f"{QUERY}.lora_A.weight"]).unknown


def test_a_second_adapter_in_a_file_is_not_dropped() -> None:
    keys = [f"transformer.{QUERY}.lora_A.{name}.weight" for name in ("one", "two")]
    assert key_names.group(keys).unknown == keys[1:]


def test_what_is_left_out_is_said_and_other_programs_load_nothing(tmp_path: Path) -> None:
    name = f"transformer.base_model.model.{QUERY}"
    shapes = {f"{name}.lora_A.weight": [4, 1536], f"{name}.lora_B.weight": [1536, 4]}
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes)
    seen = identify(path).adapter
    assert seen is not None and seen.model.startswith("sd3")
    assert "`transformer.base_model.model.`, which is left out" in seen.assumed[0]
    assert "alpha = rank is assumed" in seen.assumed[1]
    reads = {program: verdict.reads for program, verdict in seen.readers.items()}
    assert reads == {"sd3tune": "yes", "diffusers": "no", "ComfyUI": "no"}


@pytest.mark.needs_torch
def test_whole_weights_beside_a_lora_are_named(tmp_path: Path) -> None:
    from sd3tune.formats import adapter_files

    name = f"base_model.model.{QUERY}"
    shapes = {f"{name}.lora_A.weight": [4, 64], f"{name}.lora_B.weight": [64, 4],
              "base_model.model.proj_out.weight": [64, 64]}  # fmt: skip
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes)
    assert safetensors_header.read(path).tensors
    with pytest.raises(ModelError, match=r"proj_out\.weight` is not a part") as e:
        adapter_files.read(path)
    assert "modules_to_save" in e.value.hint
