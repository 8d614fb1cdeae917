"""`sd3tune dataset --losses`: the loss of every image with fixed noise, and what stands out."""

import json
from pathlib import Path

import pytest

from sd3tune.cli import loss_lines
from sd3tune.errors import ConfigError
from sd3tune.train.image_losses import (
    ImageLoss,
    ImageLosses,
    deviations,
    image_losses,
    overrides,
    suspected,
)
from sd3tune.train.run import train
from tests.cpu.conftest import Project
from tests.samples import sample

FILE = "pytorch_lora_weights.safetensors"
STEADY = ("lr_scheduler=constant", "lr_warmup_steps=0", "learning_rate=1e-1")


def image(number: int, loss: float, gain: float = 0.01) -> ImageLoss:
    return ImageLoss(sample(f"{number}.png"), loss, (loss,) * 5, gain)


def test_every_image_is_measured_with_the_result_again_the_same_and_from_the_caches(
    project: Project,
) -> None:
    for i in range(3):
        project.picture(f"{i}.png", i)
    project.dataset["repeats"] = 1
    output = project.root / "output"
    output.mkdir(parents=True)
    result, settings = overrides(output, FILE, full=False)
    assert (result, settings) == (None, ())
    base = image_losses(project.prepare(*STEADY), result)
    assert {i.sample.name for i in base.images} == {"0.png", "1.png", "2.png"}
    assert [i.loss for i in base.images] == sorted((i.loss for i in base.images), reverse=True)
    assert all(i.loss == pytest.approx(sum(i.by_level) / 5) for i in base.images)
    encoded = project.entries("vae")
    train(project.prepare(*STEADY, "max_train_steps=1"), [])
    result, settings = overrides(output, FILE, full=False)
    assert result == output / FILE
    trained = image_losses(project.prepare(*STEADY, *settings, *loss_lines.QUIET), result)
    again = image_losses(project.prepare(*STEADY, *settings, *loss_lines.QUIET), result)
    assert again == trained and project.entries("vae") == encoded
    assert {i.sample.name: i.loss for i in trained.images} != {
        i.sample.name: i.loss for i in base.images
    }
    sheet = output / loss_lines.SHEET
    loss_lines.draw(trained, project.prepare(), sheet, 2)
    assert sheet.stat().st_size > 1000


def test_the_result_of_full_training_takes_the_place_of_the_transformer(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline" / "transformer"
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.safetensors").touch()
    result, settings = overrides(tmp_path, FILE, full=True)
    assert result == folder / "diffusion_pytorch_model.safetensors"
    assert settings[0] == f"pretrained_transformer_model_name_or_path={tmp_path / 'pipeline'}"
    with pytest.raises(ConfigError, match=r"--losses .*there is no such folder"):
        overrides(tmp_path / "none", FILE, full=True)


def test_what_does_not_fit_the_others_is_named_and_only_that() -> None:
    usual = [image(i, 0.5 + i / 1000, 0.01 + i / 10_000) for i in range(10)]
    assert not any(i.suspicions for i in suspected(usual))
    odd = [image(10, 0.9), image(11, 0.1), image(12, 0.504, -0.2)]
    named = {i.sample.name: i.suspicions for i in suspected([*usual, *odd]) if i.suspicions}
    assert list(named) == ["10.png", "11.png", "12.png"]
    for (only,), words in zip(named.values(), ("far above", "far below", "caption"), strict=True):
        assert words in only
    assert not any(i.suspicions for i in suspected(odd))  # too few
    assert deviations([1.0, 1.0, 1.0]) == [0, 0, 0]
    assert deviations([0.0, 1.0, 2.0])[2] == pytest.approx(1 / 1.4826)


def test_the_table_and_the_document_hold_the_figures() -> None:
    losses = ImageLosses(None, tuple(suspected([image(i, 0.5 + i / 1000) for i in range(50)])))
    table = "\n".join(map(str, loss_lines.lines(losses, Path("losses.png"))))
    assert "the base model" in table and "and 10 more: --json lists them all" in table
    assert "0.5000    0.0100  d: 0.png" in table and "contact sheet  losses.png" in table
    held = json.loads(loss_lines.document(losses))
    assert held["levels"] == [0.1, 0.3, 0.5, 0.7, 0.9] and len(held["images"]) == 50
    assert held["images"][0]["loss"] == 0.5 and held["images"][0]["caption"] == "0.png"
    far = image(3, 1.0)
    marked = ImageLoss(far.sample, 1.0, far.by_level, 0.0, ("loss far above the others: why?",))
    assert loss_lines.remark(marked) == "loss 1.0000: loss far above the others"
