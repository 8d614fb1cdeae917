"""Pictures while they are drawn: when, what they show, and that they change nothing."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sd3tune.config.files.prompts import load_prompts
from sd3tune.demo import tiny
from sd3tune.plan.plan import Plan
from sd3tune.report.events import PreviewDrawn
from sd3tune.sample.pictures import batched
from sd3tune.sample.pipeline import (
    OnStep,
    Picture,
    Sampling,
    SamplingStep,
    draw_picture,
    pipeline,
)
from sd3tune.sample.previews import LONGEST_SIDE, Previews, denoised, encoded
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.train.run import train
from tests.cpu.conftest import Project
from tests.loopback import Received, receives, serving

DRAWN = {
    "validation_disable": False, "validation_prompt": "a red cup", "lr_warmup_steps": 0,
    "validation_resolution": "64x64", "validation_preview": True,
    "validation_disable_unconditional": True,
}  # fmt: skip
CPU = torch.device("cpu")


def write_tiny_vae(folder: Path, channels: int = 16, seed: int = 0) -> None:
    """A small AutoencoderTiny with random weights."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    widths, blocks = (8, 8, 8, 8), (1, 1, 1, 1)
    model = AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=widths,
        decoder_block_out_channels=widths, num_encoder_blocks=blocks, num_decoder_blocks=blocks,
    )  # fmt: skip
    model.save_pretrained(str(folder))


@pytest.fixture(scope="module")
def model(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of the demo with a tiny autoencoder beside its VAE."""
    folder = tmp_path_factory.mktemp("model") / "sd3.5-medium"
    shutil.copytree(demo / "models" / "sd3.5-medium", folder)
    shutil.rmtree(folder / "tiny_vae", ignore_errors=True)
    write_tiny_vae(folder / "tiny_vae")
    return folder


@pytest.fixture
def watched(model: Path, tmp_path: Path) -> Project:
    project = Project(tmp_path / "project", model)
    for n in range(4):
        project.picture(f"{n}.png", n)
    project.config |= DRAWN
    return project


@cache
def parts() -> tuple[Any, Any]:
    """Transformer and VAE of the tiny model."""
    torch.manual_seed(0)
    shape = dict(ARCHITECTURES["sd3.5-medium"].tiny)
    return tiny.transformer(shape).eval(), tiny.vae()


@dataclass
class Drawing:
    """One picture of the tiny model, drawn with a plan."""

    plan: Plan

    def drawn(self, watching: Callable[[Picture], OnStep | None] | None = None) -> np.ndarray:
        transformer, vae = parts()
        torch.manual_seed(1)
        embeds = batched((torch.randn(77, tiny.T5), torch.randn(tiny.CLIP_L + tiny.CLIP_G)))
        pipe = pipeline(transformer, vae, 3.0)
        picture = Picture("cup", "a red cup", embeds, (96, 64))
        on_step = None if watching is None else watching(picture)
        drawn = self.plan.pictures
        how = Sampling(drawn.sampling_steps, drawn.guidance, 3.0, drawn.skip, "", embeds, None)
        with torch.no_grad():
            return np.asarray(draw_picture(pipe, picture, how, on_step))

    def previews(self, into: list[PreviewDrawn]) -> Previews:
        return Previews(self.plan, CPU, True, lambda: 7, into.append)


def drawing(project: Project, **settings: Any) -> Drawing:
    project.config |= settings
    return Drawing(project.prepare().plan)


def test_twenty_steps_with_five_between_are_shown_at_5_10_15_and_20_and_change_no_bit(
    watched: Project,
) -> None:
    scene = drawing(watched, validation_num_inference_steps=20, validation_preview_steps=5)
    shown: list[PreviewDrawn] = []
    assert np.array_equal(scene.drawn(scene.previews(shown).watching), scene.drawn())
    assert [e.sampling_step for e in shown] == [5, 10, 15, 20]
    assert {(e.step, e.shortname, e.prompt, e.size, e.sampling_steps) for e in shown} == {
        (7, "cup", "a red cup", (96, 64), 20)
    }
    assert shown[0].timestep > shown[-1].timestep > 0
    for each in shown:
        with Image.open(BytesIO(each.png)) as image:
            assert image.format == "PNG" and image.size == (96, 64)
    folder = scene.plan.output_dir / "validation_images" / "previews"
    (path,) = folder.iterdir()  # the newest alone
    assert path == shown[-1].path and path.read_bytes() == shown[-1].png
    assert len({each.png for each in shown}) == 4


def test_the_last_preview_is_the_picture_decoded_by_the_tiny_autoencoder(watched: Project) -> None:
    from diffusers import AutoencoderTiny

    scene = drawing(watched, validation_num_inference_steps=2, validation_preview_steps=2)
    shown: list[PreviewDrawn] = []
    latents: list[torch.Tensor] = []
    previews = scene.previews(shown)

    def watching(picture: Picture) -> OnStep:
        show = previews.watching(picture)
        assert show is not None

        def on_step(at: SamplingStep) -> None:
            show(at)
            latents.append(at.latents)

        return on_step

    scene.drawn(watching)
    plain = AutoencoderTiny.from_pretrained(scene.plan.previews.autoencoder)
    with torch.no_grad():
        pixels = plain.decode(latents[-1]).sample[0]
    expected = (pixels.clamp(-1, 1) * 127.5 + 127.5).round().permute(1, 2, 0).numpy()
    with Image.open(BytesIO(shown[-1].png)) as image:
        assert np.abs(np.asarray(image).astype(float) - expected).max() <= 1


def test_a_preview_shows_the_latents_without_the_noise_that_is_left() -> None:
    """Along a straight line from noise to data, every step leads to the data itself."""
    torch.manual_seed(0)
    data, noise = torch.randn(2, 1, 16, 4, 4)

    def at(number: int, left: float) -> SamplingStep:
        return SamplingStep(number, 4, 0.0, (1 - left) * data + left * noise, left)

    steps = [at(1, 0.75), at(2, 0.5), at(3, 0.25), at(4, 0.0)]
    for before, now in itertools.pairwise(steps):
        assert torch.allclose(denoised(now, before), data, atol=1e-5)
    assert torch.equal(denoised(steps[0], None), steps[0].latents)


def test_large_previews_are_small_files() -> None:
    with Image.open(BytesIO(encoded(torch.zeros(1, 3, 1024, 512)))) as image:
        assert image.size == (256, LONGEST_SIDE) and image.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("spoil", ["gone", "channels", "damaged", "another class"])
def test_a_tiny_autoencoder_that_cannot_be_used_is_explained_once_and_the_picture_is_drawn(
    watched: Project, model: Path, tmp_path: Path, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = drawing(watched, validation_num_inference_steps=2)
    folder = tmp_path / "tiny_vae"
    if spoil != "gone":
        write_tiny_vae(folder, channels=4 if spoil == "channels" else 16)
    if spoil == "damaged":
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100)
    if spoil == "another class":
        config = json.loads((folder / "config.json").read_text()) | {"_class_name": "AutoencoderKL"}
        (folder / "config.json").write_text(json.dumps(config))
    elsewhere = replace(scene.plan.previews, autoencoder=str(folder))
    scene.plan = replace(scene.plan, previews=elsewhere)
    shown: list[PreviewDrawn] = []
    watching = scene.previews(shown).watching
    pictures = [scene.drawn(watching), scene.drawn(watching), scene.drawn()]
    assert np.array_equal(pictures[0], pictures[2]) and np.array_equal(pictures[1], pictures[2])
    err = capsys.readouterr().err
    assert err.count("no previews are drawn, the pictures are: ") == 1 and shown == []


def test_previews_that_cannot_be_written_end_and_the_picture_is_drawn(
    watched: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = drawing(watched, validation_num_inference_steps=2)
    scene.plan.output_dir.mkdir(parents=True)
    (scene.plan.output_dir / "validation_images").write_text("in the way")
    shown: list[PreviewDrawn] = []
    assert np.array_equal(scene.drawn(scene.previews(shown).watching), scene.drawn())
    assert capsys.readouterr().err.count("no previews are drawn") == 1 and shown == []


PLANS: list[tuple[dict[str, Any], bool, str]] = [
    ({}, True, "each sampling step, decoded by tiny_vae of the model; shown by `sd3tune watch`"),
    ({"validation_preview_steps": 5}, True, "each 5 sampling steps"),
    ({"validation_preview": False}, False, ""),
    ({"validation_prompt": None}, False, "there is no prompt to draw"),
]


@pytest.mark.parametrize("settings, drawn, reason", PLANS)
def test_the_plan_says_whether_and_where_previews_are_shown(
    watched: Project, settings: dict[str, Any], drawn: bool, reason: str
) -> None:
    plan = drawing(watched, **settings).plan
    assert plan.previews.drawn.value is drawn and plan.previews.drawn.reason.startswith(reason)


def test_a_model_without_a_tiny_autoencoder_is_told_so_before_the_run(
    watched: Project, demo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(demo / "models" / "sd3.5-medium", folder)
    shutil.rmtree(folder / "tiny_vae", ignore_errors=True)
    plan = drawing(watched, pretrained_model_name_or_path=str(folder)).plan
    assert not plan.previews.drawn.value and "AutoencoderTiny" in plan.previews.drawn.reason
    assert any(w.startswith("validation_preview=true draws no previews") for w in plan.warnings)


# A run with everything, and the same without.


@dataclass
class Runs:
    """A run whose receivers were of every kind, and the same run without webhooks and previews."""

    got: list[Received]
    losses: tuple[list[Any], list[Any]]
    pictures: tuple[dict[str, bytes], dict[str, bytes]]


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    project = Project(tmp_path_factory.mktemp("runs") / "project", model)
    for n in range(4):
        project.picture(f"{n}.png", n)
    project.config |= DRAWN | {
        "max_train_steps": 3, "validation_num_inference_steps": 4, "validation_preview_steps": 2,
        "validation_step_interval": 2,
    }  # fmt: skip
    got = list[Received]()
    losses, drawn = [], []
    with serving(receives(got)) as good, serving(receives([], 500)) as bad:
        webhooks = [{"webhook_type": "raw", "callback_url": good.address, "auth_token": "k"},
                    {"webhook_type": "raw", "callback_url": bad.address}]  # fmt: skip
        for name, more in (
            ("watched", {"webhook_config": webhooks}),
            ("plain", {"validation_preview": False, "webhook_config": None}),
        ):
            project.config |= {"output_dir": name, **more}
            prepared = project.prepare()
            train(prepared, load_prompts(prepared.plan.config))
            rows = (project.root / name / "metrics.jsonl").read_text().splitlines()
            kept = ("step", "loss", "grad_norm")
            losses.append([{k: json.loads(row)[k] for k in kept} for row in rows])
            files = (project.root / name / "validation_images").glob("step_*.png")
            drawn.append({p.name: np.asarray(Image.open(p)).tobytes() for p in files})
    yield Runs(got, (losses[0], losses[1]), (drawn[0], drawn[1]))


@pytest.mark.slow
def test_losses_and_pictures_are_the_same_with_webhooks_and_previews(runs: Runs) -> None:
    assert runs.losses[0] == runs.losses[1] and len(runs.losses[0]) == 3
    assert runs.pictures[0] == runs.pictures[1] and runs.pictures[0]


@pytest.mark.slow
def test_a_receiver_gets_the_run_with_its_previews(runs: Runs) -> None:
    bodies = [json.loads(each.body) for each in runs.got]
    assert {each.headers["x-api-key"] for each in runs.got} == {"k"}
    assert bodies[0]["type"] == "lifecycle.stage" and bodies[0]["data"]["status"] == "running"
    assert [b["data"]["step"] for b in bodies if b["event"]["event"] == "step"] == [1, 2, 3]
    previews = [b["data"] for b in bodies if b["event"]["event"] == "preview"]
    assert {(p["step_label"]) for p in previews} == {"2/4", "4/4"}
    assert [p["training_step"] for p in previews] == [0, 0, 2, 2, 3, 3]
    assert len({b["job_id"] for b in bodies}) == 1 and bodies[0]["job_id"]
