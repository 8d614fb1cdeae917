"""An adapter in every dialect, applied by diffusers and by ComfyUI's rule: the same outputs."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import (
    convert_sd3_transformer_checkpoint_to_diffusers as convert,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.demo import MODELS
from sd3tune.errors import ConfigError, ModelError
from sd3tune.formats import adapter_files
from sd3tune.formats.adapter_folder import adapter_of
from sd3tune.formats.adapter_weights import AdapterFile, LoraWeights, LycorisWeights
from sd3tune.formats.convert import base_of, export
from sd3tune.formats.identify import identify
from sd3tune.formats.weight_deltas import delta
from sd3tune.sd3 import module_names
from sd3tune.sd3.original import to_original
from sd3tune.tables.dialects import DIALECTS
from sd3tune.train.run import train
from tests.cpu import comfyui
from tests.cpu.conftest import Project

FOR_COMFYUI = [row.name for row in DIALECTS.rows if "ComfyUI" in row.keys.read_by]
CLOSE: Any = {"rtol": 0, "atol": 1e-5}


class Tiny:
    """One of the demo's models, and what comes out of it with other weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3", "vae",
                                 "tokenizer", "tokenizer_2", "tokenizer_3"))  # fmt: skip
        self.pipe = StableDiffusion3Pipeline.from_pretrained(folder, **nothing)
        self.model = self.pipe.transformer
        self.clean = copy.deepcopy(self.model)
        self.state: dict[str, Tensor] = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.original = to_original(self.state, prefix="")

    def ask(self, model: Any) -> Tensor:
        dice = torch.Generator().manual_seed(1)
        with torch.no_grad():
            answer: Tensor = model(
                hidden_states=torch.randn(2, 16, 16, 24, generator=dice),
                timestep=torch.tensor([900.0, 120.0]),
                encoder_hidden_states=torch.randn(2, 20, 96, generator=dice),
                pooled_projections=torch.randn(2, 80, generator=dice),
                return_dict=False,
            )[0]
        return answer

    def with_weights(self, state: dict[str, Tensor]) -> Tensor:
        model = copy.deepcopy(self.clean)
        model.load_state_dict(state)
        return self.ask(model)

    def by_diffusers(self, file: Path) -> Tensor:
        self.pipe.load_lora_weights(str(file))
        answer = self.ask(self.pipe.transformer)
        self.pipe.unload_lora_weights()
        return answer

    def by_comfyui(self, file: Path) -> Tensor:
        weights, ignored = comfyui.applied(file, self.original)
        assert not ignored
        return self.with_weights(convert(weights))

    def base(self, name: str) -> Tensor:
        return self.state[f"{name}.weight"]

    def linears(self) -> dict[str, torch.nn.Linear]:
        return {n: m for n, m in self.clean.named_modules() if isinstance(m, torch.nn.Linear)}


@pytest.fixture(scope="module")
def tiny(demo: Path) -> Callable[[str], Tiny]:
    made: dict[str, Tiny] = {}

    def get(name: str) -> Tiny:
        return (
            made.setdefault(name, Tiny(demo / "models" / name)) if name not in made else made[name]
        )

    return get


def random_lora(model: Tiny, ranks: tuple[int, ...] = (3, 4), alpha: float = 5.0) -> AdapterFile:
    """On every linear layer there is, with ranks and alphas that differ."""
    dice = torch.Generator().manual_seed(7)
    modules = {}
    for i, (name, linear) in enumerate(model.linears().items()):
        rank = ranks[i % len(ranks)]
        down = torch.randn(rank, linear.in_features, generator=dice) / linear.in_features**0.5
        up = torch.randn(linear.out_features, rank, generator=dice) * 0.1
        modules[name] = LoraWeights(down, up, alpha + i % 2)
    return AdapterFile(modules, {"modelspec.title": "test"})


def by_hand(model: Tiny, adapter: AdapterFile) -> Tensor:
    """Hu et al. 2021, equation 3, on the layers' own weights."""
    state = dict(model.state)
    for name, m in adapter.modules.items():
        assert isinstance(m, LoraWeights)
        update = m.alpha / m.down.shape[0] * m.up.double() @ m.down.double()
        state[f"{name}.weight"] = (state[f"{name}.weight"].double() + update).float()
    return model.with_weights(state)


@pytest.mark.parametrize("name", MODELS)
def test_every_name_is_where_diffusers_conversion_puts_it(name: str, tiny: Any) -> None:
    model = tiny(name)
    back = convert(dict(model.original))
    assert back.keys() == model.state.keys()
    assert all(torch.equal(back[k], model.state[k]) for k in back)
    rows = comfyui.numbered(model.original)
    for module, linear in model.linears().items():
        place = module_names.original_of(module)
        assert place is not None and f"{place.original}.weight" == rows[module][0]
        size = linear.out_features
        start = (place.part or 0) * size
        mine = torch.arange(start, start + size)
        turned = module_names.swaps(module, *linear.weight.shape)
        assert torch.equal(rows[module][1], mine.roll(size // 2) if turned else mine)
        assert module in module_names.diffusers_names(place.original)
        assert module_names.unflattened(module_names.flattened(module)) == module
        assert module_names.unflattened(module_names.flattened(place.original)) == place.original


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_on_every_layer_means_the_same_to_diffusers_and_to_comfyui(
    name: str, tiny: Any, tmp_path: Path
) -> None:
    model = tiny(name)
    adapter = random_lora(model)
    expected = by_hand(model, adapter)
    assert (expected - model.ask(model.clean)).abs().max() > 0.05
    for dialect in DIALECTS:
        assert adapter_files.write(tmp_path / f"{dialect}.safetensors", adapter, dialect) == ()
    torch.testing.assert_close(model.by_diffusers(tmp_path / "diffusers.safetensors"), expected,
                               **CLOSE)  # fmt: skip
    for dialect in ("comfyui", "kohya"):
        answer = model.by_comfyui(tmp_path / f"{dialect}.safetensors")
        torch.testing.assert_close(answer, expected, **CLOSE)
    # A file with alpha = rank means the same to everybody.
    answer = model.by_comfyui(tmp_path / "diffusers.safetensors")
    torch.testing.assert_close(answer, expected, **CLOSE)


def test_every_dialect_is_read_back_with_the_ranks_it_had(tiny: Any, tmp_path: Path) -> None:
    model = tiny("sd3.5-medium")
    adapter = random_lora(model)
    for dialect in DIALECTS:
        adapter_files.write(tmp_path / "a.safetensors", adapter, dialect)
        again = adapter_files.read(tmp_path / "a.safetensors")
        assert again.modules.keys() == adapter.modules.keys()
        assert again.metadata["modelspec.title"] == "test"
        for name, old in adapter.modules.items():
            new = again.modules[name]
            assert (
                isinstance(old, LoraWeights)
                and isinstance(new, LoraWeights)
                and new.rank == old.rank
            )
            torch.testing.assert_close(
                delta(name, new, None)[0], delta(name, old, None)[0], **CLOSE
            )


def test_a_fused_matrix_with_equal_scales_has_three_times_the_alpha(
    tiny: Any, tmp_path: Path
) -> None:
    model = tiny("sd3-medium")
    adapter = random_lora(model, ranks=(4,))
    block = "transformer_blocks.0.attn"
    three = {f"{block}.to_{x}": adapter.modules[f"{block}.to_{x}"] for x in "qkv"}
    three = {n: LoraWeights(m.down, m.up, 2.0) for n, m in three.items()}  # type: ignore[union-attr]
    adapter_files.write(tmp_path / "a.safetensors", AdapterFile(three), "kohya")
    found = load_file(tmp_path / "a.safetensors")
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    assert found.keys() == {f"{name}.{p}" for p in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert found[f"{name}.lora_down.weight"].shape[0] == 12 and found[f"{name}.alpha"] == 6


def test_the_same_adapter_is_the_same_bytes(tiny: Any, tmp_path: Path) -> None:
    adapter = random_lora(tiny("sd3-medium"))
    adapter = AdapterFile(adapter.modules, {f"key{i}": str(i) for i in range(20)})
    for dialect in DIALECTS:
        adapter_files.write(tmp_path / "one", adapter, dialect)
        adapter_files.write(tmp_path / "two", adapter, dialect)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def peft(model: Tiny, tmp_path: Path, **config: Any) -> tuple[Path, Tensor]:
    """A file of peft's own making as diffusers saves it, and peft's own outputs."""
    from diffusers.training_utils import _collate_lora_metadata

    net = copy.deepcopy(model.clean)
    net.add_adapter(LoraConfig(target_modules=["to_q", "to_out.0", "norm_out.linear", "add_k_proj",
                                               "ff.net.2", "proj_out"], **config))  # fmt: skip
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
            elif "magnitude" in name:
                p.mul_(1 + 0.2 * torch.rand_like(p))
    StableDiffusion3Pipeline.save_lora_weights(
        str(tmp_path), transformer_lora_layers=get_peft_model_state_dict(net),
        **_collate_lora_metadata({"transformer": net}),
    )  # fmt: skip
    return tmp_path / "pytorch_lora_weights.safetensors", model.ask(net.eval())


# peft 0.21 takes the biases of a LoRA for torn shards.
@pytest.mark.filterwarnings("ignore:Adapter 'default'. 18 LoRA tensor:UserWarning")
@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 6},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {"r": 4, "lora_alpha": 6, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_q": 9}},
        {"r": 4, "lora_alpha": 4, "lora_bias": True},
    ],
    ids=["alpha", "rslora", "patterns", "bias"],
)
def test_what_peft_says_in_the_metadata_alone_reaches_comfyui(
    config: dict[str, Any], tiny: Any, tmp_path: Path
) -> None:
    model = tiny("sd3.5-medium")
    file, expected = peft(model, tmp_path, **config)
    if not config.get("lora_bias"):  # ComfyUI reads diffusers' own file at scale 1
        wrong = (model.by_comfyui(file) - expected).abs().max()
        assert wrong > 1e-3
    adapter = adapter_files.read(file)
    for dialect in FOR_COMFYUI:
        out = tmp_path / f"{dialect}.safetensors"
        adapter_files.write(out, adapter, dialect)
        read = model.by_diffusers if dialect == "diffusers" else model.by_comfyui
        torch.testing.assert_close(read(out), expected, **CLOSE)


def test_dora_is_full_differences_for_comfyui_and_peft_s_own_for_diffusers(
    tiny: Any, tmp_path: Path
) -> None:
    model = tiny("sd3.5-medium")
    file, expected = peft(model, tmp_path, r=4, lora_alpha=6, use_dora=True)
    adapter = adapter_files.read(file)
    magnitudes = [m.magnitude for m in adapter.modules.values() if isinstance(m, LoraWeights)]
    assert len(magnitudes) == len(adapter.modules) and None not in magnitudes
    with pytest.raises(ModelError, match="relative to the base model's weight") as e:
        adapter_files.write(tmp_path / "c.safetensors", adapter, "comfyui")
    assert "--model" in e.value.hint
    for dialect in FOR_COMFYUI:
        out = tmp_path / f"{dialect}.safetensors"
        adapter_files.write(out, adapter, dialect, base=model.base)
        if dialect == "diffusers":
            assert any("lora_magnitude_vector" in k for k in load_file(out))
            answer = model.by_diffusers(out)
        else:
            assert any(k.endswith(".diff") for k in load_file(out))
            answer = model.by_comfyui(out)
        torch.testing.assert_close(answer, expected, **CLOSE)


def test_plain_lora_beside_dora_keeps_its_meaning_in_diffusers(tiny: Any, tmp_path: Path) -> None:
    model = tiny("sd3-medium")
    adapter = random_lora(model)
    name = "transformer_blocks.0.attn.to_q"
    m = adapter.modules[name]
    assert isinstance(m, LoraWeights)
    modules = {**adapter.modules, name: LoraWeights(m.down, m.up, m.alpha, torch.full((128,), 0.9))}
    with pytest.raises(ModelError, match="beside DoRA"):
        adapter_files.write(tmp_path / "a.safetensors", AdapterFile(modules), "diffusers")
    adapter_files.write(
        tmp_path / "a.safetensors", AdapterFile(modules), "diffusers", base=model.base
    )
    adapter_files.write(tmp_path / "b.safetensors", AdapterFile(modules), "kohya", base=model.base)
    torch.testing.assert_close(model.by_diffusers(tmp_path / "a.safetensors"),
                               model.by_comfyui(tmp_path / "b.safetensors"), **CLOSE)  # fmt: skip


def test_a_difference_beside_lora_in_one_fused_matrix_is_read_again(
    tiny: Any, tmp_path: Path
) -> None:
    """comfyui has DoRA of the query as a difference of the fused matrix, which is zero for the key,
    and LoRA of the key under a name of its own."""
    model = tiny("sd3-medium")
    adapter = random_lora(model)
    name = "transformer_blocks.0.attn.to_q"
    m = adapter.modules[name]
    assert isinstance(m, LoraWeights)
    dora = LoraWeights(m.down, m.up, m.alpha, torch.full((128,), 0.9))
    mixed = AdapterFile({**adapter.modules, name: dora})
    first, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    adapter_files.write(first, mixed, "comfyui", base=model.base)
    adapter_files.write(again, adapter_files.read(first), "kohya")
    torch.testing.assert_close(model.by_comfyui(again), model.by_comfyui(first), **CLOSE)


LYCORIS = {
    "lokr": {"algo": "lokr", "linear_dim": 4, "linear_alpha": 3, "factor": 4},
    "lokr both": {"algo": "lokr", "linear_dim": 2, "linear_alpha": 1, "factor": 8,
                  "decompose_both": True},
    "lokr whole": {"algo": "lokr", "linear_dim": 4, "linear_alpha": 1, "factor": 4,
                   "full_matrix": True},
    "loha": {"algo": "loha", "linear_dim": 4, "linear_alpha": 3},
    "locon": {"algo": "locon", "linear_dim": 4, "linear_alpha": 3},
    "full": {"algo": "full", "linear_dim": 4, "linear_alpha": 1},
    "oft": {"algo": "diag-oft", "linear_dim": 8, "linear_alpha": 1, "constraint": 0.01},
    "glora": {"algo": "glora", "linear_dim": 4, "linear_alpha": 3},
    "dora lokr": {"algo": "lokr", "linear_dim": 4, "linear_alpha": 3, "factor": 4,
                  "dora_wd": True},
    "dora locon": {"algo": "locon", "linear_dim": 4, "linear_alpha": 3, "dora_wd": True},
    "oft rescaled": {"algo": "diag-oft", "linear_dim": 8, "rescaled": True},
    "oft free": {"algo": "diag-oft", "linear_dim": 8},
    "boft": {"algo": "boft", "linear_dim": 8, "rescaled": True},
    "boft bound": {"algo": "boft", "linear_dim": 8, "constraint": 0.002, "rescaled": True},
    "column locon": {"algo": "locon", "linear_dim": 4, "linear_alpha": 3, "dora_wd": True,
                     "wd_on_output": False},
    "column lokr": {"algo": "lokr", "linear_dim": 4, "linear_alpha": 3, "factor": 4,
                    "dora_wd": True, "wd_on_output": False},
    "glora of swapped rows": {"algo": "glora", "linear_dim": 4, "linear_alpha": 3, "where": True},
    "oft of swapped rows": {"algo": "diag-oft", "linear_dim": 8, "where": True},
}  # fmt: skip


def lycoris(model: Tiny, kind: str, file: Path) -> tuple[dict[str, Tensor], Tensor]:
    """A file of lycoris-lora's own making; the weights it merges to by module, its own outputs."""
    pytest.importorskip("lycoris")
    from lycoris import LycorisNetwork, create_lycoris

    net = copy.deepcopy(model.clean)
    options = dict(LYCORIS[kind])
    swapped = [".*norm_out.linear", ".*norm1_context.linear"] if options.pop("where", 0) else []
    LycorisNetwork.apply_preset({"enable_conv": False, "target_name": swapped,
                                 "target_module": [] if swapped else ["Attention"]})  # fmt: skip
    made = create_lycoris(net, 1.0, **options)
    made.apply_to()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith("dora_scale"):
                p.mul_(1.1)
            elif "diff" not in name:
                p.normal_(std=0.3 if "oft" not in name else 0.05)
            else:
                p.normal_(std=0.01)
    made.save_weights(str(file), None, {})
    net.eval(), made.eval()
    merged = {}
    for module in made.loras:  # as its forward uses it: its own merging scales some kinds twice
        name = str(module_names.unflattened(module.lora_name.removeprefix("lycoris_")))
        layer = net.get_submodule(name)
        with torch.no_grad():
            eye = torch.eye(layer.in_features)
            merged[name] = (layer(eye) - layer(torch.zeros_like(eye))).T - model.base(name)
    return merged, model.ask(net)


# Kinds whose rule another kind covers as well.
SLOW = ("lokr both", "oft free", "boft", "column lokr", "oft of swapped rows")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in LYCORIS]
)
def test_lycoris_means_what_lycoris_says_and_comfyui_gets_what_it_renders_right(
    kind: str, tiny: Any, tmp_path: Path
) -> None:
    model = tiny("sd3.5-medium")
    file = tmp_path / "lycoris.safetensors"
    merged, expected = lycoris(model, kind, file)
    adapter = adapter_files.read(file)
    assert adapter.modules.keys() == merged.keys()
    for name, update in merged.items():
        mine, _ = delta(name, adapter.modules[name], model.base)
        torch.testing.assert_close(mine, update, rtol=1e-4, atol=1e-5)
    seen = identify(file).adapter
    weights, ignored = comfyui.applied(file, model.original)
    error = (model.with_weights(convert(weights)) - expected).abs().max()
    assert seen is not None and ignored <= {k for k in ignored if k.endswith("diff_b")}
    assert seen.readers["ComfyUI"].reads == ("yes" if error < 1e-5 else "wrong"), error
    for dialect in ("comfyui", "kohya"):
        out = tmp_path / f"{dialect}.safetensors"
        assert adapter_files.write(out, adapter, dialect, base=model.base) == ()
        torch.testing.assert_close(model.by_comfyui(out), expected, **CLOSE)
        if seen.readers["ComfyUI"].reads == "yes" and dialect == "comfyui" and "locon" not in kind:
            old, new = load_file(file), load_file(out)  # tensors as they were
            assert all(torch.equal(old[k], new[k]) for k in new) and old.keys() == new.keys()
        again = identify(out).adapter
        assert again is not None and again.readers["ComfyUI"].reads == "yes"


def test_lycoris_becomes_lora_for_diffusers_with_the_error_of_the_best_approximation(
    tiny: Any, tmp_path: Path
) -> None:
    model = tiny("sd3.5-medium")
    file, out = tmp_path / "lokr.safetensors", tmp_path / "d.safetensors"
    merged, expected = lycoris(model, "lokr", file)
    adapter = adapter_files.read(file)
    with pytest.raises(ModelError, match="takes LoRA only") as e:
        adapter_files.write(out, adapter, "diffusers")
    assert "--rank" in e.value.hint
    notes = adapter_files.write(out, adapter, "diffusers", rank=192)
    assert "0.00%" in notes[0]
    torch.testing.assert_close(model.by_diffusers(out), expected, rtol=0, atol=2e-5)
    (words,) = adapter_files.write(out, adapter, "diffusers", rank=6)
    values = [torch.linalg.svdvals(w.double()) for w in merged.values()]
    lost = sum(float(s[6:].square().sum()) for s in values)
    best = math.sqrt(lost / sum(float(s.square().sum()) for s in values))
    said = float(words.split(": ")[1].split("%")[0]) / 100
    assert said == pytest.approx(best, abs=2e-4) and best > 0.1


def test_a_fused_lycoris_file_is_split_by_its_differences(tiny: Any, tmp_path: Path) -> None:
    model = tiny("sd3-medium")
    name = "lora_unet_joint_blocks_1_x_block_attn_qkv"
    torch.manual_seed(0)
    tensors = {"hada_w1_a": torch.randn(384, 2), "hada_w1_b": torch.randn(2, 128) * 0.05,
               "hada_w2_a": torch.randn(384, 2), "hada_w2_b": torch.randn(2, 128) * 0.05,
               "alpha": torch.tensor(1.0)}  # fmt: skip
    file, out = tmp_path / "loha.safetensors", tmp_path / "c.safetensors"
    save_file({f"{name}.{k}": v for k, v in tensors.items()}, file)
    adapter = adapter_files.read(file)
    assert set(adapter.modules) == {f"transformer_blocks.1.attn.to_{x}" for x in "qkv"}
    adapter_files.write(out, adapter, "comfyui")
    torch.testing.assert_close(model.by_comfyui(out), model.by_comfyui(file), **CLOSE)


def test_a_fused_dora_is_split_by_rows(tiny: Any, tmp_path: Path) -> None:
    """Of a query that alone has an update, key and value still have their magnitudes."""
    model = tiny("sd3-medium")
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    weight = model.original["joint_blocks.0.x_block.attn.qkv.weight"]
    torch.manual_seed(0)
    down, up = torch.randn(2, 128) * 0.1, torch.zeros(384, 2)
    up[:128] = torch.randn(128, 2) * 0.1
    length = weight.norm(dim=1, keepdim=True) * torch.linspace(0.8, 1.2, 384)[:, None]
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": length,
               "alpha": torch.tensor(3.0)}  # fmt: skip
    file, out = tmp_path / "dora.safetensors", tmp_path / "c.safetensors"
    save_file({f"{name}.{k}": v for k, v in tensors.items()}, file)
    adapter_files.write(out, adapter_files.read(file), "comfyui", base=model.base)
    whole = weight.double() + 1.5 * up.double() @ down.double()
    expected = length.double() * whole / whole.norm(dim=1, keepdim=True)  # arXiv:2402.09353 eq. 5
    changed, ignored = comfyui.applied(out, model.original)
    got = changed["joint_blocks.0.x_block.attn.qkv.weight"]
    torch.testing.assert_close(got, expected.float(), **CLOSE)
    assert not ignored


@pytest.mark.parametrize(
    "keys, words",
    [
        (["transformer.transformer_blocks.0.attn.to_z.lora_A.weight"], "to_z"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], "cannot be understood"),
        (["text_encoder.text_model.x.lora_A.weight"], "text encoders too"),
        (["transformer_blocks.0.attn.to_q.lora_A.weight",
          "transformer_blocks.0.attn.to_q.lora_B.weight"], "does not state its alpha"),
        (["lora_unet_joint_blocks_0_x_block_attn_proj.lora_down.weight",
          "lora_unet_joint_blocks_0_x_block_attn_proj.lora_up.weight",
          "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight",
          "transformer.transformer_blocks.0.attn.to_out.0.lora_B.weight"], "under two names"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in.alpha"], "is not a part of an SD3 adapter"),
    ],
)  # fmt: skip
def test_nothing_is_dropped_silently(keys: list[str], words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({k: torch.ones(2, 2) for k in keys}, file)
    with pytest.raises(ModelError, match=words):
        adapter_files.read(file)


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "manifest.json").write_text('{"gone.safetensors": "0"}')
    assert identify(tmp_path).facts["whole"] is False
    with pytest.raises(ModelError, match=r"is damaged: gone\.safetensors is missing"):
        export(tmp_path, "comfyui")


def test_an_adapter_without_modules_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no modules"):
        adapter_files.write(tmp_path / "a.safetensors", AdapterFile({}), "comfyui")
    assert not list(tmp_path.iterdir())


def test_an_algorithm_nobody_converts_is_named(tmp_path: Path) -> None:
    core = {"hada_t1": torch.zeros(4, 4, 3, 3)}
    adapter = AdapterFile({"transformer_blocks.0.attn.to_q": LycorisWeights("loha", core, 1.0)})
    with pytest.raises(ModelError, match="to_q` is loha"):
        adapter_files.write(
            tmp_path / "a", adapter, "diffusers", rank=4, base=lambda n: torch.zeros(64, 64)
        )


def test_a_run_writes_the_dialect_it_is_asked_for(project: Project, tiny: Any) -> None:
    """At its end and in checkpoints, with the values that were trained, under the name that it is
    asked for, and with what is known of the run."""
    for seed in range(2):
        project.picture(f"{seed}.png", seed)
    words = ("lora_format=kohya", "lora_alpha=5", "learning_rate=0.01", "lr_warmup_steps=0",
             "output_name=grey cat v1.2")  # fmt: skip
    outcome = train(project.prepare(*words), ())
    folder = outcome.output / f"checkpoint-{outcome.steps}"
    held = load_file(folder / "trained.safetensors")
    model, changed = tiny("sd3.5-medium"), 0
    assert outcome.adapter == outcome.output / "grey cat v1.2.safetensors"
    assert adapter_of(outcome.output) == outcome.adapter
    about = identify(outcome.adapter).metadata
    for key, value in {
        "modelspec.title": "grey cat v1.2", "base_model": "sd3.5-medium (tiny)",
        "ss_base_model_version": "sd3.5-medium", "ss_output_name": "grey cat v1.2",
        "ss_steps": str(outcome.steps), "ss_learning_rate": "0.01", "ss_num_train_images": "2",
        "ss_network_module": "sd3tune.adapters.lora",
    }.items():  # fmt: skip
        assert about[key] == value, key
    for file in (outcome.adapter, folder / outcome.adapter.name):
        assert all(key.startswith("lora_unet_joint_blocks_") for key in load_file(file))
        weights, ignored = comfyui.applied(file, model.original)
        assert not ignored
        state = convert(weights)
        for key in [k for k in held if ".lora_A." in k]:
            name = key.split(".lora_A.")[0]
            update = 5 / 2 * held[key.replace("lora_A", "lora_B")] @ held[key]
            torch.testing.assert_close(state[f"{name}.weight"], model.base(name) + update, **CLOSE)
            changed += bool(update.abs().max() > 1e-3)
    assert changed


def test_export_takes_a_folder_a_model_and_refuses_to_write_over(tiny: Any, tmp_path: Path) -> None:
    model = tiny("sd3.5-medium")
    file, expected = peft(model, tmp_path, r=4, lora_alpha=6, use_dora=True)
    done = export(tmp_path, "comfyui", model=str(model.folder))
    assert done.path == tmp_path / "pytorch_lora_weights.comfyui.safetensors"
    torch.testing.assert_close(model.by_comfyui(done.path), expected, **CLOSE)
    assert torch.equal(base_of(str(model.folder))("proj_out"), model.base("proj_out"))
    with pytest.raises(ConfigError, match="exists"):
        export(file, "comfyui", model=str(model.folder))
    with pytest.raises(ConfigError, match="the source itself"):
        export(file, "diffusers", output=file, force=True)
    with pytest.raises(ModelError, match="holds no"):
        export(model.folder.parent.parent / "photos", "diffusers")
