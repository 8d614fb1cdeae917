"""A run on the painter in which every rule of training matters, by the installed package or by a
copy in which one line is different."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import transformers
from PIL import Image

from sd3tune.demo import concept, scenes
from sd3tune.demo.lesson import Drawn, drawn, pipeline
from tests.cpu.forks import forked

ROOT = Path(__file__).parents[2]
PAINTER = ROOT / "sd3tune" / "demo" / "painter"
SIDE = 64
LOADED = (diffusers, peft, transformers)  # here, once for all children
# Hearts on one side; on the other a thing that no caption names, under a black mask.
HEART, HIDDEN = 0.27, 0.75
SETTINGS: dict[str, Any] = {
    "model_type": "lora",
    "model_family": "sd3",
    "pretrained_model_name_or_path": str(PAINTER),
    "data_backend_config": "config/multidatabackend.json",
    "resolution": SIDE,
    "seed": 7,
    "max_train_steps": 120,
    "train_batch_size": 8,
    "learning_rate": 2e-3,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 10,
    "lora_rank": 16,
    "lora_alpha": 64,
    "gradient_checkpointing": False,
    "caption_dropout_probability": 0.25,
    "tokenizer_max_length": concept.TOKENS,
    "flow_schedule_shift": 6.0,
    "use_ema": True,
    "ema_decay": 0.95,
    "validation_disable": True,
}
TEXT = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True,
        "cache_dir": "cache/text"}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """One line of the package, and what stands there instead."""

    file: str  # below sd3tune
    line: str
    instead: str


def broken(folder: Path, edit: Edit) -> Path:
    """A copy of the package with one line different, below `folder`."""
    shutil.copytree(
        ROOT / "sd3tune",
        folder / "sd3tune",
        ignore=shutil.ignore_patterns("__pycache__", "painter"),
    )
    path = folder / "sd3tune" / edit.file
    before = path.read_text(encoding="utf-8")
    assert before.count(edit.line) == 1, f"{edit.file} has no single line `{edit.line}`"
    path.write_text(before.replace(edit.line, edit.instead), encoding="utf-8")
    return folder


def write(folder: Path, *, pictures: int = 96) -> Path:
    """The project: pictures with masks, configuration."""
    for name in ("pictures", "masks", "config"):
        (folder / name).mkdir(parents=True)
    words = scenes.SceneWords(shapes=(concept.CONCEPT,))
    several = (s for s in scenes.scenes(5, 10_000, words) if len(s.things) == 1)
    for number in range(pictures):
        scene = next(several)
        mask = Image.new("L", (SIDE, SIDE), "white")
        if number % 2 == 0:
            scene, mask = _with_hidden_thing(scene, number)
        scenes.draw(scene, SIDE).save(folder / "pictures" / f"{number:03}.png")
        mask.save(folder / "masks" / f"{number:03}.png")
        (folder / "pictures" / f"{number:03}.txt").write_text(scene.caption)
    datasets = [
        concept.DATASETS[0] | {"conditioning_data": "masks"},
        {"id": "masks", "type": "local", "dataset_type": "conditioning",
         "conditioning_type": "mask", "instance_data_dir": "masks"},
        TEXT,
    ]  # fmt: skip
    (folder / "config" / "multidatabackend.json").write_text(json.dumps(datasets))
    path = folder / "config" / "config.json"
    path.write_text(json.dumps(SETTINGS))
    return path


def _with_hidden_thing(scene: scenes.Scene, number: int) -> tuple[scenes.Scene, Image.Image]:
    """A heart on the left and a square on the right that the mask hides, or the other way round."""
    heart = scene.things[0]
    left = number % 4 == 0
    x, other = (HEART, HIDDEN) if left else (HIDDEN, HEART)
    side = "on the left" if left else "on the right"
    heart = scenes.Thing(heart.shape, heart.colour, "plain", (x, 0.5), 0.19)
    wrong = scenes.Thing("square", "yellow", "plain", (other, 0.5), 0.2)
    caption = (
        f"{scenes.singular(f'{heart.colour} heart')} {side} on a {scene.background} background"
    )
    mask = Image.new("L", (SIDE, SIDE), "white")
    mask.paste(0, (SIDE // 2, 0, SIDE, SIDE) if left else (0, 0, SIDE // 2, SIDE))
    return scenes.Scene(scene.background, (heart, wrong), caption), mask


def train(config: Path, output: str, *words: str, package: Path = ROOT) -> Path:
    """`sd3tune train` of the package in that folder, in a child that has the libraries loaded and
    none of sd3tune's modules. Returns the run's output folder."""
    folder = config.parents[1] / output
    log = folder.with_suffix(".log")
    asked = ("train", str(config), f"output_dir={folder}", *words)
    child = forked(lambda: _command(package, asked, log))
    _, status = os.waitpid(child, 0)
    assert status == 0, log.read_text()[-3000:]
    return folder


def _command(package: Path, words: tuple[str, ...], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in [n for n in sys.modules if n.split(".")[0] == "sd3tune"]:
        del sys.modules[name]
    sys.path.insert(0, str(package))
    sys.argv = ["sd3tune", *words]
    command = import_module("sd3tune.cli")
    assert command.__file__ == str(package / "sd3tune" / "cli" / "__init__.py")
    try:
        command.main()
    except SystemExit as e:
        assert not e.code, e.code


def pictures(adapter: Path, prompts: list[str]) -> Drawn:
    """By plain diffusers."""
    pipe = pipeline(PAINTER)
    pipe.load_lora_weights(str(adapter))
    return drawn(pipe, prompts)


def reference_loss(config: Path) -> float:
    """The painter's mean loss on the project's pictures as diffusers' own SD3 scripts compute it,
    with the masks as weights."""
    import torch
    from diffusers.training_utils import compute_density_for_timestep_sampling

    torch.manual_seed(0)
    paths = sorted((config.parents[1] / "pictures").glob("*.png"))
    captions = [path.with_suffix(".txt").read_text() for path in paths]
    masks = [Image.open(config.parents[1] / "masks" / path.name) for path in paths]
    pipe = pipeline(PAINTER)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=SETTINGS["flow_schedule_shift"])
    losses = []
    with torch.no_grad():
        pixels = pipe.image_processor.preprocess([Image.open(path) for path in paths])
        latents = pipe.vae.encode(pixels).latent_dist.mode() - pipe.vae.config.shift_factor
        x0 = latents * pipe.vae.config.scaling_factor
        text, _, pooled, _ = pipe.encode_prompt(
            captions, captions, captions, do_classifier_free_guidance=False,
            max_sequence_length=concept.TOKENS,
        )  # fmt: skip
        small = [mask.resize(x0.shape[2:], Image.Resampling.NEAREST) for mask in masks]
        weight = torch.stack([torch.tensor(np.asarray(mask) / 255) for mask in small])
        for _ in range(4):
            u = compute_density_for_timestep_sampling("logit_normal", len(x0), 0.0, 1.0)
            levels = scheduler.timesteps[(u * 1000).long()]
            noise = torch.randn_like(x0)
            v = pipe.transformer(
                scheduler.scale_noise(x0, levels, noise), text, pooled, levels
            ).sample
            losses.append(((v - noise + x0) ** 2 * weight[:, None]).mean())
    return float(torch.stack(losses).mean())
