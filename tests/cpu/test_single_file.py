"""Models in one safetensors file: the same outputs as from the folder, and what a file says
alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.demo import MODELS
from sd3tune.errors import ModelError
from sd3tune.filesystem.safetensors_header import Header, TensorEntry, read
from sd3tune.formats.convert import export
from sd3tune.formats.identify import identify
from sd3tune.sd3 import models, single, weight_identity, weights
from sd3tune.sd3.original import to_original
from sd3tune.sd3.variants import (
    SD3_MEDIUM,
    SD35_LARGE,
    SD35_MEDIUM,
    Model,
    ModelSource,
    Transformer,
)
from sd3tune.train.run import train
from tests.cpu.conftest import Project
from tests.cpu.weightless import built


def ldm_vae(vae: Any) -> dict[str, Tensor]:
    """diffusers' autoencoder under the names of latent diffusion; its own conversion is the
    check."""
    levels = len(vae.config.block_out_channels)
    renamed = {"mid_block.attentions.0.group_norm": "mid.attn_1.norm",
               "mid_block.attentions.0.to_q": "mid.attn_1.q",
               "mid_block.attentions.0.to_k": "mid.attn_1.k",
               "mid_block.attentions.0.to_v": "mid.attn_1.v",
               "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
               "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
               "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
               ".downsamplers.0.": ".downsample.", ".upsamplers.0.": ".upsample.",
               ".resnets.": ".block."}  # fmt: skip
    renamed |= {f"down_blocks.{i}.": f"down.{i}." for i in range(levels)}
    renamed |= {f"up_blocks.{i}.": f"up.{levels - 1 - i}." for i in range(levels)}
    found = {}
    for name, value in vae.state_dict().items():
        new = name
        for old, ours in renamed.items():
            new = new.replace(old, ours)
        found[new] = value[..., None, None] if "attn_1" in new and value.ndim == 2 else value
    back = convert_ldm_vae_checkpoint(dict(found), dict(vae.config))
    state = vae.state_dict()
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in back)
    return found


@pytest.fixture(scope="module")
def checkpoint(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A demo model as its makers would publish it: transformer, VAE and a text encoder in one."""
    folder = tmp_path_factory.mktemp("single")

    def make(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            source = str(demo / "models" / name)
            tensors = to_original(weights.transformer(source, "fp32").state_dict())
            vae = ldm_vae(weights.vae(source, "fp32"))
            tensors |= {single.VAE + k: v.contiguous() for k, v in vae.items()}
            tensors["text_encoders.clip_l.transformer.text_model.final_layer_norm.bias"] = (
                torch.zeros(8)
            )
            save_file({k: v.clone() for k, v in tensors.items()}, path)
        return path

    return make


@pytest.mark.parametrize("name", MODELS)
def test_a_single_file_is_the_folder_s_model(
    name: str, checkpoint: Any, demo: Path, tmp_path: Path
) -> None:
    folder, file = str(demo / "models" / name), checkpoint(name)
    found = models.find(folder, str(file))
    assert found == Model(
        found.name, ModelSource(folder, str(file), str(file)), *_rest(models.find(folder))
    )
    bare = tmp_path / "bare.safetensors"  # without prefix, without VAE
    prefix = single.TRANSFORMER[0]
    tensors = load_file(file)
    save_file({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, bare)
    without = models.find(folder, str(bare))
    assert without.source.vae == folder and without.transformer == found.transformer
    torch.manual_seed(0)
    question = {
        "hidden_states": torch.randn(1, 16, 16, 24),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 20, 96),
        "pooled_projections": torch.randn(1, 80),
        "return_dict": False,
    }
    z = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        expected = weights.transformer(folder, "fp32")(**question)[0]
        for source in (found.source, without.source):
            answer = weights.transformer(source, "fp32")(**question)[0]
            torch.testing.assert_close(answer, expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(
                weights.vae(source, "fp32").decode(z).sample,
                weights.vae(folder, "fp32").decode(z).sample,
                rtol=0,
                atol=1e-6,
            )
    assert weights.transformer(found.source, "bf16").dtype == torch.bfloat16


def _rest(model: Model) -> tuple[Any, ...]:
    return model.transformer, model.text_encoders, model.vae


@pytest.mark.slow
def test_training_on_a_single_file_is_training_on_the_folder(
    checkpoint: Any, project: Project
) -> None:
    """Caches filled by the VAE in the file, loss and adapter as from the folder."""
    for seed in range(4):
        project.picture(f"{seed}.png", seed)
    folder, file = project.config["pretrained_model_name_or_path"], checkpoint("sd3.5-medium")
    prepared = project.prepare(f"pretrained_transformer_model_name_or_path={file}")
    assert prepared.plan.model.source == ModelSource(folder, str(file), str(file))
    of_file = train(prepared, ())
    plan = replace(prepared.plan, model=models.find(folder), output_dir=project.root / "again")
    of_folder = train(replace(prepared, plan=plan), ())
    assert of_file.loss_before == pytest.approx(of_folder.loss_before, rel=1e-5)
    assert of_file.loss_after == pytest.approx(of_folder.loss_after, rel=1e-5)
    assert len(project.entries("vae")) == 8  # of two identities


def test_the_transformer_may_come_from_another_folder(demo: Path, tmp_path: Path) -> None:
    medium, large = (demo / "models" / n for n in ("sd3-medium", "sd3.5-large"))
    found = models.find(str(medium), str(large))
    assert found.name == "sd3.5-large (tiny)" and found.source.base == str(medium)
    expected = weights.transformer(str(large), "fp32").state_dict()
    state = weights.transformer(found.source, "fp32", variant="none").state_dict()
    assert all(torch.equal(state[k], expected[k]) for k in expected)
    inner = models.find(str(medium), str(large / "transformer"), ".")
    state = weights.transformer(inner.source, "fp32").state_dict()
    assert all(torch.equal(state[k], expected[k]) for k in expected)
    with pytest.raises(ModelError, match=r"holds no transformer/config\.json") as e:
        models.find(str(medium), str(large / "transformer"))
    assert "pretrained_transformer_subfolder=." in e.value.hint


def test_identities_follow_the_file(checkpoint: Any, demo: Path, tmp_path: Path) -> None:
    folder, file = str(demo / "models" / "sd3-medium"), checkpoint("sd3-medium")
    source = models.find(folder, str(file)).source
    first = {c: weight_identity.identity(source, c) for c in ("transformer", "vae", "text_encoder")}
    assert first["text_encoder"] == weight_identity.identity(folder, "text_encoder")
    tensors = load_file(file)
    tensors["first_stage_model.decoder.conv_in.bias"] += 1
    changed = tmp_path / "changed.safetensors"
    save_file(tensors, changed)
    second = models.find(folder, str(changed)).source
    assert weight_identity.identity(second, "vae") != first["vae"]
    assert weight_identity.identity(second, "transformer") == first["transformer"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("model.diffusion_model.joint_blocks.1.x_block.mlp.fc1.bias"),
         r"`joint_blocks.1.x_block.mlp.fc1.bias` is missing"),
        (lambda t: t.update({"model.diffusion_model.extra": torch.zeros(1)}),
         "`extra` is not a tensor of SD3"),
        (lambda t: t.update({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.scale_weight":
                             torch.zeros(1)}), "scaled fp8"),
        (lambda t: t.update({"unet.x": torch.zeros(1)}), "`unet.x` is not a tensor of SD3"),
        (lambda t: t.update({"transformer_blocks.0.attn.to_q.weight": torch.zeros(1)}),
         "is a transformer in the layout of diffusers"),
        (lambda t: [t.pop(k) for k in list(t) if "x_block.attn.qkv" in k],
         "does not contain an SD3 transformer in the original layout"),
    ],
    ids=["missing", "extra", "fp8", "stranger", "diffusers", "other"],
)  # fmt: skip
def test_a_file_with_other_tensors_is_refused_by_name(
    change: Any, words: str, checkpoint: Any, demo: Path, tmp_path: Path
) -> None:
    tensors = load_file(checkpoint("sd3-medium"))
    change(tensors)
    file = tmp_path / "odd.safetensors"
    save_file(tensors, file)
    with pytest.raises(ModelError, match=words):
        models.find(str(demo / "models" / "sd3-medium"), str(file))


def test_text_encoders_of_another_width_are_refused(
    checkpoint: Any, demo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo / "models" / "sd3-medium", folder)
    shutil.rmtree(folder / "transformer")
    shutil.rmtree(folder / "vae")  # the file holds one
    path = folder / "text_encoder_3" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_model": 4096}))
    with pytest.raises(ModelError, match="of width 4096, but the transformer takes 96"):
        models.find_whole(models.ModelRequest(str(folder), str(checkpoint("sd3-medium"))))


def test_a_file_of_a_released_shape_takes_its_text_encoders_from_its_repository(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Any
) -> None:
    shapes = {"sd3-medium": SD3_MEDIUM, "sd3.5-medium": SD35_MEDIUM, "sd3.5-large": SD35_LARGE}
    for name, shape in shapes.items():
        header = _header_of(shape)
        monkeypatch.setattr("sd3tune.filesystem.safetensors_header.read", lambda path, h=header: h)
        found = models.find("somewhere.safetensors")
        assert (found.name, found.transformer) == (name, shape)
        assert name.replace("sd3", "stable-diffusion-3") in found.source.base
        assert found.source.vae == found.source.base and "somewhere" in found.source.transformer
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"sd3-medium \(tiny\), and no repository"):
        models.find(str(checkpoint("sd3-medium")))


def _header_of(shape: Transformer) -> Header:
    """Of the released model, whose weights exist on the meta device only."""
    tensors = to_original(built(shape).state_dict())
    entries = {k: TensorEntry("BF16", tuple(v.shape), 0, 0) for k, v in tensors.items()}
    return Header(Path("somewhere.safetensors"), entries, {})


def test_a_model_exported_as_one_file_is_read_back(demo: Path, tmp_path: Path) -> None:
    folder = demo / "models" / "sd3.5-large"
    file = export(folder, "comfyui", output=tmp_path / "one.safetensors").path
    state = weights.transformer(models.find(str(folder), str(file)).source, "fp32").state_dict()
    expected = weights.transformer(str(folder), "fp32").state_dict()
    assert all(torch.equal(state[k], expected[k]) for k in expected)
    assert identify(file).facts["model"] == "sd3.5-large (tiny)"
    assert read(file).metadata["modelspec.architecture"] == "stable-diffusion-v3.5-large"


def test_the_commands_work_from_a_shell(checkpoint: Any, demo: Path, tmp_path: Path) -> None:
    def sd3tune(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sd3tune", *words]
        return subprocess.run(command, capture_output=True, text=True)

    said = json.loads(sd3tune("inspect", str(checkpoint("sd3.5-medium")), "--json").stdout)
    assert said["kind"] == "model file"
    assert said["facts"]["contains"] == ["transformer", "vae", "clip_l"]
    out = tmp_path / "model.safetensors"
    done = sd3tune("export", str(demo / "models" / "sd3-medium"), "--to", "comfyui", "--output",
                   str(out))  # fmt: skip
    assert done.returncode == 0 and out.exists(), done.stderr
    (tmp_path / "empty").mkdir()
    refused = sd3tune("inspect", str(tmp_path / "empty"))
    assert refused.returncode == 1 and refused.stderr.startswith("error: ")
    assert "hint: " in refused.stderr and "Traceback" not in refused.stderr
