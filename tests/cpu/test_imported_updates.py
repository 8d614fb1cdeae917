"""The first update of an imported configuration is the one that the other trainer would make.

The other trainer's rule is written out here in float64, from its documentation: what the loss is a
mean of, the scale of the adapter, clipping, and the optimizer. Inputs are equal: image, noise,
noise level and weights. Ours is the real training step on the demo's model.
"""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from sd3tune.config.files.prompts import load_prompts
from sd3tune.data.batch import Batch
from sd3tune.imports.project import CONFIG, DATASETS, files_of, write
from sd3tune.imports.trainers import translated
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3.condition import denoiser
from sd3tune.train.begin import begin
from sd3tune.train.noise import draw, draw_levels
from sd3tune.train.recipe import Recipe
from sd3tune.train.run import train
from sd3tune.train.state import TrainState
from sd3tune.train.step import train_step
from tests import foreign_configs as published
from tests.cpu.batches import batch
from tests.cpu.conftest import Prepare
from tests.this_machine import prepared_here


@dataclass(frozen=True)
class Rule:
    """A trainer's rule. clean: the loss is that of the clean image x0 = z - s v; else of v. weight:
    of the noise level. sums: accumulated batches are added up, not averaged. optimizer: of a
    gradient and a weight, the new weight."""

    scale: float  # alpha / rank
    clean: bool
    optimizer: Callable[[Tensor, Tensor], Tensor]
    weight: Callable[[Tensor], Tensor] = torch.ones_like
    clip: float = 1.0  # 0: none
    sums: bool = False
    masks: str = ""  # "times": the loss is multiplied by a mask; "share": then divided by its mean


def adamw(rate: float, eps: float, decay: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The first step of AdamW (arXiv:1711.05101): its moments are the gradient and its square."""
    return lambda p, g: p * (1 - rate * decay) - rate * g / (g.abs() + eps)


def sgd(rate: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, g: p - rate * g


AI_TOOLKIT_SGD = copy.deepcopy(published.AI_TOOLKIT_UI)
AI_TOOLKIT_SGD["config"]["process"][0]["train"] |= {
    "optimizer": "sgd", "lr": 0.5, "optimizer_params": {}, "gradient_accumulation": 2,
    "max_grad_norm": 0.02,
}  # fmt: skip
COMFYUI_SGD = copy.deepcopy(published.COMFYUI_API)
COMFYUI_SGD["4"]["inputs"] |= {"optimizer": "SGD", "learning_rate": 0.3, "batch_size": 2}
KOHYA_COSMAP = "accelerate launch sd3_train_network.py --network_dim 8 --network_alpha 4"
KOHYA_COSMAP += " --optimizer_type SGDNesterov --learning_rate 0.4 --weighting_scheme cosmap"
KOHYA_COSMAP += " --train_batch_size 3 --max_train_steps 10 --max_grad_norm 0.01"


def cosmap(s: Tensor) -> Tensor:
    return 2 / (torch.pi * (1 - 2 * s + 2 * s**2))


RULES: list[Any] = [  # their configuration, their rule
    pytest.param(json.dumps(published.KOHYA_16GB | {"train_batch_size": 2}),
                 Rule(1 / 4, True, adamw(1e-4, 1e-8, 0.01)), id="kohya: alpha 1, uniform"),
    pytest.param(KOHYA_COSMAP, Rule(4 / 8, True, sgd(0.4), cosmap, clip=0.01, masks="times"),
                 id="kohya: cosmap", marks=pytest.mark.slow),
    pytest.param(json.dumps(published.KOHYA_GUIDE | {"optimizer_type": "AdamW"}),
                 Rule(1 / 16, True, adamw(1e-4, 1e-8, 0.01), lambda s: s**-2),
                 id="kohya: sigma_sqrt", marks=pytest.mark.slow),
    pytest.param(json.dumps(published.ONETRAINER_ISSUE | {"learning_rate_warmup_steps": 0}),
                 Rule(1 / 16, False, adamw(3e-4, 1e-8, 0.01)), id="OneTrainer"),
    pytest.param(yaml.safe_dump(AI_TOOLKIT_SGD),
                 Rule(1.0, False, sgd(0.5), clip=0.02, sums=True), id="ai-toolkit: sgd"),
    pytest.param(yaml.safe_dump(published.AI_TOOLKIT_UI),
                 Rule(1.0, False, adamw(1e-4, 1e-6, 1e-4), sums=True, masks="share"),
                 id="ai-toolkit",
                 marks=pytest.mark.slow),
    pytest.param(published.DIFFUSERS_README, Rule(1.0, True, adamw(4e-4, 1e-8, 1e-4)),
                 id="diffusers"),
    pytest.param(published.DIFFUSERS_PRIOR.replace("--num_processes 2", ""),
                 Rule(1.0, False, adamw(1e-4, 1e-8, 0.01)), id="diffusers: mode",
                 marks=pytest.mark.slow),
    pytest.param(json.dumps(COMFYUI_SGD), Rule(1 / 16, True, sgd(0.3), clip=0.0), id="ComfyUI"),
]  # fmt: skip

# Where things are, and what a machine without a GPU has not.
ELSEWHERE = {"pretrained_model_name_or_path", "output_dir", "data_backend_config", "output_name",
             "user_prompt_library", "base_model_precision", "mixed_precision", "num_train_epochs",
             "blocks_to_swap", "report_to", "model_family", "gradient_checkpointing", "resolution",
             "use_ema", "ema_decay", "ema_device", "model_flavour", "checkpoint_epoch_interval",
             "tokenizer_max_length"}  # fmt: skip


def words(text: str, folder: Path) -> list[str]:
    """The imported settings as words of a command line, with optimizers that run anywhere."""
    (folder / "theirs").write_text(text)
    config = files_of(translated(folder / "theirs"))[CONFIG]
    config = {k: v for k, v in config.items() if k not in ELSEWHERE and k[:10] != "validation"}
    config["optimizer"] = {"bnb-adamw8bit": "adamw"}.get(config["optimizer"], config["optimizer"])
    config = {"lr_warmup_steps": 0} | config  # the demo's file has a warm-up
    return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in config.items()]


def masked(one: Batch) -> Batch:
    """The batch with a mask that covers three quarters of its images."""
    mask = torch.ones(len(one.ids), 1, *one.latents.shape[-2:])
    mask[:, :, ::2, ::2] = 0
    return replace(one, mask=mask)


def adapted(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}


def change(model: nn.Module, scale: float) -> Tensor:
    """What the adapter adds to the weights, of all layers: alpha / rank x B A."""
    parts = [m.lora_B["default"].weight.double() @ m.lora_A["default"].weight.double()
             for m in adapted(model).values()]  # fmt: skip
    return scale * torch.cat([part.flatten() for part in parts]).detach()


def by_rule(rule: Rule, state: TrainState, recipe: Recipe, batches: list[Any]) -> Tensor:
    """The adapter after the first update of the other trainer."""
    model = copy.deepcopy(state.trained.model).double()
    for module in adapted(model).values():
        module.scaling["default"] = rule.scale
    total = torch.zeros((), dtype=torch.float64)
    for one in batches:
        noise = draw(recipe.seed, 0, one)
        s = draw_levels(recipe.loss.levels, recipe.seed, 0, one, noise.u).double()
        x0, eps, level = one.latents.double(), noise.eps.double(), s.view(-1, 1, 1, 1)
        z = (1 - level) * x0 + level * eps
        condition = one.prompt_embeds.double(), one.pooled.double()
        v = denoiser(model)(z, s * 1000, condition)
        error = (z - level * v) - x0 if rule.clean else v - (eps - x0)
        each = error.square()
        if rule.masks:
            mask = one.mask.double().expand_as(each)
            each = each * (mask / mask.mean() if rule.masks == "share" else mask)
        total = total + (rule.weight(s) * each.mean(dim=(1, 2, 3))).mean()
    loss = total if rule.sums else total / len(batches)
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, weights)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    factor = min(1.0, rule.clip / float(norm)) if rule.clip else 1.0
    with torch.no_grad():
        for p, g in zip(weights, gradients, strict=True):
            p.copy_(rule.optimizer(p, g * factor))
    return change(model, rule.scale)


@pytest.mark.parametrize("text, rule", RULES)
def test_the_first_update_is_theirs_within_one_percent(
    text: str, rule: Rule, prepared: Prepare, tmp_path: Path
) -> None:
    plan = prepared(*words(text, tmp_path), "mixed_precision=no", "max_train_steps=1000",
                    "gradient_checkpointing=false", "tokenizer_max_length=77").plan  # fmt: skip
    state, recipe = begin(plan, ALONE_ON_CPU), Recipe.of(plan)
    size, count = plan.data.batch_size.value, plan.config.gradient_accumulation_steps
    batches = [batch(*range(i * size + 1, (i + 1) * size + 1)) for i in range(count)]
    batches = [masked(one) for one in batches] if rule.masks else batches
    theirs = by_rule(rule, state, recipe, batches)
    train_step(state, batches, recipe)
    modules = adapted(state.trained.model)
    ours = change(state.trained.model, next(iter(modules.values())).scaling["default"])
    difference = float((ours - theirs).norm() / theirs.norm())
    assert theirs.norm() > 0 and difference < 0.01, difference


def sampled(text: str, folder: Path, prepared: Prepare) -> np.ndarray[Any, Any]:
    """Noise levels as our code draws them with the imported settings."""
    recipe = Recipe.of(prepared(*words(text, folder), "max_train_steps=1000").plan)
    many = batch(*range(1, 9))
    found = [draw_levels(recipe.loss.levels, 0, step, many, draw(0, step, many).u)
             for step in range(500)]  # fmt: skip
    return torch.cat(found).double().numpy()


def shifted(s: Any, shift: float) -> Any:
    return shift * s / (1 + (shift - 1) * s)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


KOHYA = "accelerate launch sd3_train_network.py --network_dim 4 --max_train_steps 9 "
DIFFUSERS = "accelerate launch train_dreambooth_lora_sd3.py --max_train_steps 9 "
U, N = np.random.default_rng(0).random(400_000), np.random.default_rng(1).normal(size=400_000)
MODE = 1 - U - 1.29 * (np.cos(np.pi * U / 2) ** 2 - 1 + U)
DENSITIES: list[Any] = [  # a configuration, and many draws of the other trainer's own rule
    pytest.param(KOHYA + "--training_shift 2 --min_timestep 100 --max_timestep 900",
                 0.1 + 0.8 * shifted(U, 2), id="kohya: part of the levels"),
    pytest.param(KOHYA + "--weighting_scheme logit_normal --logit_mean -0.5 --logit_std 0.7 "
                 "--training_shift 1.5", shifted(sigmoid(-0.5 + 0.7 * N), 1.5),
                 id="kohya: logit-normal"),
    pytest.param(KOHYA + "--weighting_scheme mode", MODE, id="kohya: mode"),
    pytest.param(DIFFUSERS + "--logit_mean 0.4", shifted(1 - sigmoid(0.4 + N), 3),
                 id="diffusers: logit-normal"),
    pytest.param(DIFFUSERS + "--weighting_scheme mode", shifted(1 - MODE, 3),
                 id="diffusers: mode"),
    pytest.param(json.dumps(published.ONETRAINER_ISSUE
                            | {"noising_bias": 0.3, "noising_weight": -0.2, "timestep_shift": 2.0,
                               "num_train_epochs": 1}),
                 shifted(sigmoid(0.3 + 0.8 * N), 2), id="OneTrainer"),
    pytest.param(yaml.safe_dump(published.AI_TOOLKIT_EXAMPLE), U, id="ai-toolkit: linear"),
    pytest.param(json.dumps(published.COMFYUI_API), shifted(U, 3), id="ComfyUI"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text, theirs", DENSITIES)
def test_noise_levels_are_drawn_as_often_as_theirs(
    text: str, theirs: np.ndarray[Any, Any], prepared: Prepare, tmp_path: Path
) -> None:
    ours = sampled(text, tmp_path, prepared)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.mean(theirs < np.quantile(ours, share)) == pytest.approx(share, abs=0.02)


PLANNED = {
    "kohya.toml": json.dumps(published.KOHYA_16GB | {"train_data_dir": "photos"}),
    "onetrainer.json": json.dumps(published.ONETRAINER_SCRIPT),
    "ai-toolkit.yaml": yaml.safe_dump(published.AI_TOOLKIT_UI),
    "diffusers.sh": published.DIFFUSERS_README,
    "comfyui.json": json.dumps(published.COMFYUI_API),
}
# What the machine of a test has not: the released model, cards, their numbers of steps and sizes.
SMALL = ("validation_disable=true", "mixed_precision=no", "base_model_precision=no_change",
         "optimizer=adamw", "max_train_steps=1", "lr_warmup_steps=0", "blocks_to_swap=0",
         "num_train_epochs=null", "gradient_accumulation_steps=1", "report_to=none",
         "tokenizer_max_length=77", "init_lora=null")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_an_imported_configuration_trains(
    name: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demo / "photos" / "aspect", "photos")
    shutil.copytree("photos", "masks", ignore=shutil.ignore_patterns("*.txt"))
    Path(name).write_text(PLANNED[name])
    write(translated(Path(name)), Path("out"))
    entries = json.loads(Path("out", DATASETS).read_text())
    for entry in entries:  # the demo's pictures are small
        entry |= {"resolution": 64} if "resolution" in entry else {}
    Path("out", DATASETS).write_text(json.dumps(entries))
    model = demo / "models" / "sd3.5-medium"
    made = prepared_here(Path("out", CONFIG), f"pretrained_model_name_or_path={model}",
                         "resolution=64", *SMALL)  # fmt: skip
    assert train(made, load_prompts(made.plan.config)).steps == 1
