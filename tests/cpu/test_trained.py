"""What can be trained: LoRA in its variants, LyCORIS, whole weights; and their averages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from sd3tune.adapters import lora, lycoris
from sd3tune.adapters.trained import Trained, take
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.demo import tiny
from sd3tune.errors import ConfigError, PlanError
from sd3tune.formats.earlier_weights import TrainedLayers
from sd3tune.plan import lycoris_size
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3 import variants, weights
from sd3tune.sd3.linears import linears
from sd3tune.sd3.models import find
from sd3tune.train.begin import begin
from sd3tune.train.ema import Ema
from tests.cpu.conftest import Project, Train

SHORT = ("max_train_steps=8", "lr_scheduler=constant", "lr_warmup_steps=0", "learning_rate=1e-2")


def question(seed: int = 0) -> dict[str, Any]:
    dice = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(1, 16, 16, 16, generator=dice),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 20, 96, generator=dice),
        "pooled_projections": torch.randn(1, 80, generator=dice),
        "return_dict": False,
    }


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**question())[0]
    return found


def shape_of(model: Any) -> variants.Transformer:
    config = {**model.config, "_class_name": "SD3Transformer2DModel"}
    return variants.from_config(config, "test")


def moved(trained: Trained) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for p in trained.named().values():
            p.add_(0.05 * torch.randn_like(p))


@pytest.mark.parametrize("name", tiny.SHAPES)
def test_the_table_of_linears_is_the_models(name: str) -> None:
    model = tiny.transformer(tiny.SHAPES[name])
    real = {n: (m.in_features, m.out_features) for n, m in model.named_modules()
            if isinstance(m, nn.Linear)}  # fmt: skip
    ours = list(linears(shape_of(model)))
    assert {found.name: (found.inputs, found.outputs) for found in ours} == real
    for found in ours:
        for place, kind in found.inside:
            assert type(model.get_submodule(place)).__name__ == kind


VARIANTS = {
    "plain, alpha 3 rank": {"alpha": 12.0},
    "rslora": {"rslora": True, "alpha": 2.0},
    "dora": {"dora": True, "alpha": 8.0},
    "gaussian": {"init": "gaussian"},
    "pissa": {"init": "pissa", "alpha": 6.0},
    "olora": {"init": "olora"},
    "every linear of a block": {"targets": ("norm1.linear", "to_q", "net.2", "add_k_proj")},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_of_lora_begins_as_the_model_and_is_what_diffusers_loads(
    options: dict[str, Any], demo: Path, tmp_path: Path
) -> None:
    folder = demo / "models" / "sd3.5-medium"
    model = SD3Transformer2DModel.from_pretrained(folder, subfolder="transformer")
    base = answer(model)
    usual: dict[str, Any] = {
        "rank": 4,
        "alpha": 4.0,
        "dropout": 0.0,
        "targets": ("to_q", "to_v", "to_out.0"),
    }
    made = lora.attach(model.requires_grad_(False), lora.Shape(**usual | options),
                       dtype=torch.float32, seed=1)  # fmt: skip
    torch.testing.assert_close(answer(model), base, rtol=0, atol=2e-5)
    moved(made)
    trained = answer(model)
    assert (trained - base).abs().max() > 1e-3
    with made.off():
        torch.testing.assert_close(answer(model), base, rtol=0, atol=2e-5)
    assert torch.equal(answer(model), trained)
    made.write(tmp_path, made.values(), {})
    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    pipe.load_lora_weights(str(tmp_path))
    torch.testing.assert_close(answer(pipe.transformer), trained, rtol=0, atol=1e-5)


NETWORKS = {
    "lokr": {"algo": "lokr", "factor": 4, "linear_dim": 4, "linear_alpha": 2},
    "lokr whole": {"algo": "lokr", "factor": 8, "full_matrix": True},
    "loha": {"algo": "loha", "linear_dim": 4, "linear_alpha": 2, "multiplier": 0.5},
    "locon with dora": {"algo": "locon", "linear_dim": 4, "dora_wd": True, "use_scalar": True},
    "glora": {"algo": "glora", "linear_dim": 2},
    "oft": {"algo": "diag-oft", "linear_dim": 8, "rescaled": True},
    "boft": {"algo": "boft", "linear_dim": 8},
    "mixed": {"algo": "lokr", "factor": 4, "apply_preset": {
        "target_module": ["Attention", "FeedForward"],
        "module_algo_map": {"Attention": {"factor": 16}, "FeedForward": {"algo": "loha", "dim": 2}},
    }},
    "by name": {"algo": "locon", "apply_preset": {
        "target_module": ["FeedForward"], "target_name": ["transformer_blocks.*to_q"],
        "name_algo_map": {".*add_k_proj": {"dim": 3}}, "exclude_name": [".*ff_context.*"],
    }},
}  # fmt: skip


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_every_lycoris_network_is_counted_switched_off_and_read_back_by_its_library(
    options: dict[str, Any], tmp_path: Path
) -> None:
    import lycoris as library

    model = tiny.transformer(tiny.SHAPES["sd3.5-medium"]).requires_grad_(False)
    fresh = tiny.transformer(tiny.SHAPES["sd3.5-medium"])
    fresh.load_state_dict(model.state_dict())
    base, config = answer(model), Lycoris.model_validate(options)
    made = lycoris.attach(model, config, dtype=torch.float32, seed=1)
    shape = shape_of(fresh)
    assert sum(p.numel() for p in made.named().values()) == lycoris_size.parameters(shape, config)
    names = {f"lycoris_{n.replace('.', '_')}" for n in lycoris_size.matched(shape, config)}
    assert {part.lora_name for part in made.network.loras} == names
    torch.testing.assert_close(answer(model), base, rtol=0, atol=1e-4)
    moved(made)
    trained = answer(model)
    assert (trained - base).abs().max() > 1e-3
    with made.off():
        assert torch.equal(answer(model), base)
    assert torch.equal(answer(model), trained)
    file = made.write(tmp_path, made.values(), {})
    network, _ = library.create_lycoris_from_weights(1.0, str(file), fresh)
    network.apply_to()
    torch.testing.assert_close(answer(fresh), trained, rtol=0, atol=1e-4)


def test_one_network_does_not_leak_its_targets_into_the_next() -> None:
    def layers(**preset: Any) -> int:
        model = tiny.transformer(tiny.SHAPES["sd3-medium"]).requires_grad_(False)
        config = Lycoris.model_validate({"algo": "lokr", "apply_preset": preset})
        return len(lycoris.attach(model, config, dtype=torch.float32, seed=1).network.loras)

    alone = layers(target_module=["FeedForward"])
    layers(target_module=["Attention"], target_name=[".*to_q"], exclude_name=[".*ff.*"])
    assert layers(target_module=["FeedForward"]) == alone > 0


BAD_NETWORKS = [
    ({"algo": "full"}, "model_type=full does that"),
    ({"multiplier": 0}, "multiplier=0 would train nothing"),
    ({"algo": "boft", "multiplier": 0.5}, "cannot be folded"),
    ({"factorr": 4}, "unknown setting `factorr`"),
    ({"algo": "loha", "factor": 4}, "factor belongs to lokr"),
    ({"conv_dim": 4}, "no convolutions|convolutions, and SD3"),
    ({"linear_dim": "four"}, "`linear_dim=four` must be a whole number"),
    ({"apply_preset": {"target_module": ["UNet"]}}, "matches no linear layer"),
    ({"apply_preset": {"target_name": ["("]}}, "is not a regular expression"),
    ({"apply_preset": {"module_algo_map": {"Attention": {"factr": 4}}}}, "Attention.factr"),
    ({"algo": "boft", "linear_dim": 2}, "boft cannot split"),
]


@pytest.mark.parametrize(("content", "words"), BAD_NETWORKS)
def test_a_bad_lycoris_file_is_refused_before_anything_is_loaded(
    content: dict[str, Any], words: str, project: Project
) -> None:
    project.picture("a.png", 1)
    project.picture("b.png", 2)
    project.config |= {"lora_type": "lycoris"}
    project.write()
    (project.root / "config" / "lycoris_config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=words):
        project.prepare()


@pytest.mark.slow
def test_what_takes_the_weights_apart_needs_them_whole(prepared: Any, tmp_path: Path) -> None:
    """Also where the plan would quantise by itself; and a file for one program is warned of."""
    file = tmp_path / "dora.json"
    file.write_text(json.dumps({"algo": "locon", "dora_wd": True}))
    words = (*SHORT, "lora_type=lycoris", f"lycoris_config={file}")
    assert any("dora_wd" in warning for warning in prepared(*words).plan.warnings)
    for asked in (words, (*SHORT, "lora_init_type=olora")):
        decision = prepared(*asked).plan.precision.transformer
        refused = {r.name: " ".join(r.reasons) for r in decision.rejected}
        assert decision.value == "no_change" and "weights" in refused["int8-quanto"]
        with pytest.raises(PlanError, match="weights"):
            prepared(*asked, "base_model_precision=int8-quanto")


@pytest.mark.parametrize(
    "precision",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("int8-quanto", "nf4-bnb")],
)
def test_lycoris_trains_beside_quantised_weights(
    precision: str, run: Train, tmp_path: Path
) -> None:
    file = tmp_path / "lokr.json"
    file.write_text(json.dumps({"algo": "lokr", "factor": 4, "linear_dim": 4}))
    outcome = run(*SHORT, "lora_type=lycoris", f"lycoris_config={file}",
                  f"base_model_precision={precision}")  # fmt: skip
    assert outcome.loss_after is not None and outcome.loss_before is not None
    assert outcome.loss_after < outcome.loss_before
    assert outcome.adapter is not None and (outcome.output / "lycoris_config.json").is_file()


def test_full_training_leaves_a_pipeline_that_diffusers_loads(run: Train) -> None:
    outcome = run("max_train_steps=8", "lr_warmup_steps=0", "model_type=full", "learning_rate=1e-3")
    assert outcome.loss_after is not None and outcome.loss_before is not None
    assert outcome.loss_after < 0.995 * outcome.loss_before
    assert outcome.adapter == outcome.output / "pipeline"
    pipe = StableDiffusion3Pipeline.from_pretrained(outcome.adapter)
    saved = load_file(outcome.output / "checkpoint-8" / "trained.safetensors")
    own = dict(pipe.transformer.named_parameters())
    assert own.keys() == saved.keys() and all(torch.equal(own[n], saved[n]) for n in own)
    assert pipe.text_encoder_3 is not None and pipe.vae is not None


def test_whole_weights_have_no_model_as_it_was(prepared: Any) -> None:
    trained = begin(prepared(*SHORT, "model_type=full").plan, ALONE_ON_CPU).trained
    with pytest.raises(PlanError, match="keeps no copy"), trained.off():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["use_dora=true", "use_rslora=true", "lora_init_type=pissa"])
def test_variants_train_through_the_real_command(variant: str, run: Train) -> None:
    outcome = run(*SHORT, variant)
    assert outcome.loss_after is not None and outcome.loss_before is not None
    assert outcome.loss_after < outcome.loss_before


def test_init_lora_begins_where_another_run_ended(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    first = run(*SHORT, "lora_rank=4", "lora_alpha=8", f"output_dir={tmp_path / 'first'}")
    plan = prepared(*SHORT, "lora_rank=6", f"init_lora={first.adapter}",
                    f"output_dir={tmp_path / 'second'}").plan  # fmt: skip
    model = begin(plan, ALONE_ON_CPU).model
    pipe = StableDiffusion3Pipeline.from_pretrained(plan.model.source.base)
    pipe.load_lora_weights(str(first.output))
    torch.testing.assert_close(answer(model), answer(pipe.transformer), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="has rank 4, this run lora_rank=2"):
        prepared(*SHORT, "lora_rank=2", f"init_lora={first.adapter}")
    with pytest.raises(ConfigError, match="is not among peft_lora_target_modules"):
        prepared(*SHORT, "peft_lora_target_modules=to_q", f"init_lora={first.adapter}")


class One(Trained):
    """A single number."""

    off = values = write = None  # type: ignore[assignment]


def averaged(values: list[float], **options: Any) -> tuple[list[float], list[float | None]]:
    One.__abstractmethods__ = frozenset()
    model = nn.ParameterDict({"x": nn.Parameter(torch.tensor([values[0]]))})
    usual: dict[str, Any] = {"decay": 0.995, "warmup": 0, "interval": 1, "device": "cpu"}
    ema = Ema.of(One(model), **usual | options)
    found, decays = [], []
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            model["x"].fill_(value)
        ema.update(step)
        found.append(ema.take()["x"].item())
        decays.append(ema.decay)
    return found, decays


def test_the_average_follows_its_definition() -> None:
    values = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, decays = averaged(values.tolist(), decay=0.9)
    want = values[0].item()
    for step, value in enumerate(values.tolist(), 1):
        n = step - 1
        d = 0.0 if n <= 0 else min((1 + n) / (10 + n), 0.9)
        want = d * want + (1 - d) * value
        assert found[step - 1] == pytest.approx(want, abs=1e-5)
        assert decays[step - 1] == pytest.approx(d)
    _, decays = averaged([0.0] * 2000)
    picked = [decays[s - 1] for s in (1, 2, 10, 100, 1000, 2000)]
    assert picked == pytest.approx([0, 0.181818, 0.526316, 0.917431, 0.991080, 0.995], abs=1e-6)


def test_warm_up_copies_and_the_interval_skips() -> None:
    values = [float(i) for i in range(1, 9)]
    found, _ = averaged(values, decay=0.5, warmup=3)
    assert found[:4] == [1, 2, 3, 4] and found[4] == 4.5 and found[5] == 5.25
    every_other, _ = averaged(values, interval=2)
    assert every_other[0] == 1 and every_other[1] == every_other[2] != every_other[3]


@pytest.mark.slow
def test_the_result_of_a_run_with_ema_is_the_average_and_the_last_values_are_beside_it(
    run: Train, prepared: Any
) -> None:
    outcome = run(*SHORT, "use_ema=true", "ema_decay=0.6", "validation_disable=false",
                  "validation_resolution=64x64", "validation_num_inference_steps=2")  # fmt: skip
    saved = outcome.output / "checkpoint-8"
    mean, last = load_file(saved / "ema.safetensors"), load_file(saved / "trained.safetensors")
    result = load_file(outcome.output / "pytorch_lora_weights.safetensors")
    beside = load_file(outcome.output / "last" / "pytorch_lora_weights.safetensors")
    key = "transformer_blocks.0.attn.to_q.lora_A.default.weight"
    file_key = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    assert torch.equal(result[file_key], mean[key]) and torch.equal(beside[file_key], last[key])
    assert not torch.equal(mean[key], last[key])
    folders = {p.parent.name for p in outcome.pictures}
    assert folders == {"validation_images", "ema"}
    for picture in outcome.pictures:
        with Image.open(picture) as image:
            says = json.loads(image.info["sd3tune"])
        assert (says["width"], says["steps"], says["training_step"]) == (64, 2, 8)
        assert says["weights"] == ("ema" if picture.parent.name == "ema" else "last")
    state = begin(prepared(*SHORT, "use_ema=true", "ema_decay=0.6").plan, ALONE_ON_CPU)
    assert state.ema is not None and torch.equal(state.ema.take()[key], mean[key])
    with state.ema.instead():
        assert torch.equal(take(state.trained)[key], mean[key])
    assert torch.equal(take(state.trained)[key], last[key])


@pytest.mark.parametrize("dora", [False, True])
def test_headers_of_checkpoints_are_known_without_torch(dora: bool, demo: Path) -> None:
    """What `plan` compares a checkpoint with is what training would write."""
    source = str(demo / "models" / "sd3.5-medium")
    targets = ("to_q", "net.2", "proj_out")
    model = weights.transformer(source, "fp32")
    adapter = lora.attach(
        model, lora.Shape(3, 3, 0.0, targets, dora=dora), dtype=torch.float32, seed=1
    )
    layers = {x.name: (x.inputs, x.outputs) for x in find(source).transformer.targeted(targets)}
    expected = TrainedLayers("lora", 0, layers, rank=3, dora=dora).shapes
    assert expected == {name: tuple(t.shape) for name, t in take(adapter).items()}


def test_inputs_of_lora_keep_the_format_of_autocast_with_the_same_bits() -> None:
    """And are cast less often."""
    found = []
    for kept in (False, True):
        torch.manual_seed(0)
        model = tiny.transformer(tiny.SHAPES["sd3-medium"]).to(torch.bfloat16).requires_grad_(False)
        shape = lora.Shape(rank=2, alpha=2, dropout=0.0, targets=("to_q", "to_k", "net.2"))
        lora.attach(model, shape, dtype=torch.float32, seed=1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
        if kept:
            lora.keep_input_dtype(model)
        with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16):
            asked = {name: value.bfloat16() if isinstance(value, torch.Tensor) else value
                     for name, value in question().items()}  # fmt: skip
            model(**asked)[0].float().square().mean().backward()
        casts = sum(e.count for e in profile.key_averages() if e.key == "aten::_to_copy")
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((casts, grads))
    (casts, wanted), (fewer, ours) = found
    assert fewer <= casts - 2 * 9 and all(map(torch.equal, wanted, ours))
