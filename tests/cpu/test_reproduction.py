"""Validation pictures of a run, drawn again by the command: from the checkpoint of their step, from
the result, and of the base model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import exit_code

pytestmark = pytest.mark.slow
PICTURES = "output/validation_images"


@pytest.fixture(scope="module")
def output(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pictures and checkpoints of step 2 and 4, whose scale is no power of two."""
    folder = tmp_path_factory.mktemp("run")
    for part in ("config", "photos", "models"):
        if (demo / part).exists():
            shutil.copytree(demo / part, folder / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = [
            "max_train_steps=4", "lr_warmup_steps=0", "learning_rate=0.05", "lora_rank=3",
            "lora_alpha=4", "checkpoint_step_interval=2", "validation_step_interval=2",
            "validation_num_inference_steps=3", "validation_resolution=64x64",
            "validation_guidance_skip_layers=[1]", "validation_guidance_skip_layers_stop=0.9",
            "validation_disable_unconditional=true",
        ]  # fmt: skip
        assert exit_code(["train", "config/config.json", *settings], patch) == 0
    return folder


@pytest.fixture
def says(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """What the command ends with and prints."""
    monkeypatch.chdir(output)

    def run(*words: str) -> tuple[int, str]:
        code = exit_code(["reproduce", *words], monkeypatch)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def first(folder: Path, pattern: str) -> str:
    return str(min(folder.glob(pattern)).relative_to(folder))


@pytest.mark.parametrize("step", [2, 4])
def test_a_validation_picture_is_drawn_again_bit_for_bit(
    step: int, output: Path, says: Callable[..., tuple[int, str]]
) -> None:
    code, words = says(first(output, f"{PICTURES}/step_{step}_*.png"))
    assert code == 0 and "every pixel is the same" in words, words
    assert f"checkpoint-{step}/trained.safetensors" in words and "note:" not in words


def test_a_picture_of_the_base_model_needs_no_adapter(
    output: Path, says: Callable[..., tuple[int, str]]
) -> None:
    found = min(p for p in output.rglob("*.png") if "base_model" in str(p))
    code, words = says(str(found))
    assert code == 0 and "every pixel is the same" in words and "adapter  " not in words, words


def test_the_checkpoint_that_is_gone_is_named(
    output: Path, tmp_path: Path, says: Callable[..., tuple[int, str]]
) -> None:
    shutil.copytree(output / "output", tmp_path / "output")
    shutil.rmtree(tmp_path / "output" / "checkpoint-2")
    picture = first(tmp_path, f"{PICTURES}/step_2_*.png")
    code, words = says(str(tmp_path / picture))
    assert code == 1 and "which is not here" in words and "--adapter" in words, words


def test_sample_of_the_output_folder_draws_the_validation_picture(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    from PIL import Image

    from sd3tune.formats.picture_files import recipe_in

    monkeypatch.chdir(output)
    picture = Path(first(output, f"{PICTURES}/step_4_*.png"))
    prompt = recipe_in(picture).prompt
    assert exit_code(["sample", "output", prompt, "--out", "drawn"], monkeypatch) == 0
    path = Path(capsys.readouterr().out.split()[1])
    ours, theirs = (np.asarray(Image.open(p), np.int16) for p in (path, picture))
    assert np.abs(ours - theirs).max() <= 1 and recipe_in(path).training_step == 4
