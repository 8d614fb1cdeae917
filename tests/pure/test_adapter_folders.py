"""A folder that holds one adapter is that adapter; and where its alpha is stated."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.errors import ModelError
from sd3tune.formats.adapter_folder import adapter_of
from sd3tune.formats.identify import identify
from sd3tune.formats.initial_adapter import refuse_unfit
from tests import safetensors_files

NAME = "base_model.model.transformer_blocks.0.attn.to_q"
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def lora(path: Path, name: str = NAME, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {f"{name}.lora_A.weight": [4, 1536], f"{name}.lora_B.weight": [1536, 4]}
    return safetensors_files.write(path, shapes, {}, metadata)


def peft(folder: Path, **config: Any) -> Path:
    lora(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | config))
    return folder


@pytest.mark.parametrize(
    "config, scale",
    [
        ({}, "2"),
        ({"use_rslora": True}, "4"),
        ({"alpha_pattern": {"to_q": 2}}, "0.5"),
        ({"alpha_pattern": {"transformer.transformer_blocks.0.attn.to_q": 2}}, "0.5"),
        ({"rank_pattern": {"to_q": 4}, "r": 16}, "2"),  # the rank is that of the tensors
    ],
)
def test_a_folder_of_peft_has_the_scale_of_its_configuration(
    config: dict[str, Any], scale: str, tmp_path: Path
) -> None:
    found = identify(peft(tmp_path, **config))
    assert found.kind == "adapter folder" and found.adapter is not None
    assert list(found.adapter.scales) == [scale]
    assert found.adapter.alpha_source == "adapter_config.json" and found.adapter.assumed == ()
    verdict = found.adapter.readers["ComfyUI"]
    assert verdict.reads == "wrong" and "adapter_config.json alone" in verdict.reason


@pytest.mark.parametrize(
    "config, words",
    [
        ({"peft_type": "LOKR"}, "`peft_type` is 'LOKR'"),
        ({"init_lora_weights": "pissa_niter_16"}, "which changes the base weights too"),
        ({"init_lora_weights": "olora"}, "which changes the base weights too"),
        ({"lora_alpha": "8"}, "its alpha cannot be understood"),
    ],
)
def test_what_peft_says_and_a_lora_cannot_is_refused(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        identify(peft(tmp_path, **config))
    with pytest.raises(ModelError, match=r"`init_lora=.*" + words):
        refuse_unfit(tmp_path, lycoris=False, rank=8)


def test_the_one_file_of_a_folder_is_its_adapter(tmp_path: Path) -> None:
    ours = lora(tmp_path / "a" / "my_style.safetensors")
    lora(tmp_path / "a" / "my_style.comfyui.safetensors")  # as export writes it beside its source
    lora(tmp_path / "a" / "trained.safetensors")  # the state of a checkpoint
    assert adapter_of(tmp_path / "a") == ours and adapter_of(ours) == ours
    below = lora(tmp_path / "b" / "style" / "adapter_model.safetensors")
    assert adapter_of(tmp_path / "b") == below
    found = identify(tmp_path / "b")
    assert found.path == tmp_path / "b" and "style/adapter_model.safetensors" in found.summary
    for name in ("x", "pytorch_lora_weights"):
        lora(tmp_path / "c" / f"{name}.safetensors")
    assert adapter_of(tmp_path / "c").name == "pytorch_lora_weights.safetensors"
    lora(tmp_path / "c" / "y.safetensors", metadata={"sd3tune_step": "5"})  # another run's result
    with pytest.raises(ModelError, match=r"pytorch_lora_weights\.safetensors, y\.safetensors"):
        adapter_of(tmp_path / "c")
    assert refuse_unfit(tmp_path / "a", lycoris=False, rank=8)


def test_an_output_folder_names_its_results(tmp_path: Path) -> None:
    """output_name was changed between two runs, or the model is trained as a whole."""
    (tmp_path / "checkpoint-5").mkdir()
    assert identify(tmp_path).summary == "output of a run, not finished"
    for name in ("Grüße v1.2", "pytorch_lora_weights"):
        lora(tmp_path / f"{name}.safetensors", metadata={"sd3tune_step": "5"})
    found = identify(tmp_path)
    assert found.kind == "output folder" and "2 results" in found.summary
    names = ["Grüße v1.2.safetensors", "pytorch_lora_weights.safetensors"]
    assert found.facts["results"] == names
    with pytest.raises(ModelError, match=", ".join(names)):
        adapter_of(tmp_path)
    (tmp_path / names[0]).unlink()
    found = identify(tmp_path)
    assert found.summary == "output of a run, finished" and found.adapter is not None
    (tmp_path / names[1]).unlink()
    model = tmp_path / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    model.parent.mkdir(parents=True)
    model.touch()
    assert identify(tmp_path).summary == "output of a run, finished"


def test_a_folder_of_none_or_several_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lora(tmp_path / "several" / f"{name}.safetensors")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"\x80")
    (tmp_path / "empty").mkdir()
    for folder, words in (("several", r"one\.safetensors, two\.safetensors"),
                          ("pickled", r"adapter_model\.bin` is a PyTorch pickle"),
                          ("empty", "holds no")):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            identify(tmp_path / folder)
        with pytest.raises(ModelError, match="init_lora="):
            refuse_unfit(tmp_path / folder, lycoris=False, rank=8)


STATED: list[tuple[dict[str, str], str, str | None]] = [
    ({"ss_network_alpha": "8.0"}, "2", "ss_network_alpha"),
    ({"lora_alpha": "2"}, "0.5", "lora_alpha"),
    ({"alpha": "16"}, "4", "alpha"),
    ({"adapter_config": json.dumps(PEFT)}, "2", "adapter_config"),
    ({"lora_config": json.dumps(PEFT | {"use_rslora": True})}, "4", "lora_config"),
    ({"lora_config": json.dumps({"alpha": 8, "rank": 4})}, "2", "lora_config"),
    ({"lora_config": json.dumps({"rank": 4}), "alpha": "8"}, "2", "alpha"),
    ({"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 8})}, "1", None),
    ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2}), "alpha": "16"}, "0.5",
     "lora_adapter_metadata"),
    ({"ss_network_alpha": "Dynamic"}, "1", None),
    ({"ss_network_alpha": "None", "ss_network_dim": "4"}, "1", None),
]  # fmt: skip


@pytest.mark.parametrize("metadata, scale, source", STATED)
def test_alpha_is_taken_from_the_header_and_that_is_said(
    metadata: dict[str, str], scale: str, source: str | None, tmp_path: Path
) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q"
    seen = identify(lora(tmp_path / "a.safetensors", name, metadata)).adapter
    assert seen is not None and list(seen.scales) == [scale] and seen.alpha_source == source
    plain = source == "lora_adapter_metadata"  # diffusers' own: nothing is assumed
    assert plain == (seen.assumed == ())
    assert plain or (f"`{source}`" if source else "alpha = rank is assumed") in seen.assumed[0]
    others = {p: v.reads for p, v in seen.readers.items()}
    assert others["ComfyUI"] == ("yes" if scale == "1" else "wrong")
    assert others["diffusers"] == ("yes" if plain or scale == "1" else "wrong")


@pytest.mark.parametrize("value", ["0", "nan", "inf", "1e300"])
def test_an_alpha_in_the_header_that_makes_no_sense_is_refused(value: str, tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", metadata={"ss_network_alpha": value})
    with pytest.raises(ModelError, match=r"`ss_network_alpha=.*cannot be understood"):
        identify(path)


def test_an_error_of_init_lora_names_the_file_and_the_setting(tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match=r"^`init_lora=.*torn\.safetensors` .*safetensors file"):
        refuse_unfit(tmp_path / "torn.safetensors", lycoris=False, rank=8)
