"""When a run that is started again has nothing left to do."""

from pathlib import Path

import pytest

from sd3tune.cli.finished_lines import finished, finished_lines
from sd3tune.formats import file_metadata, finished_run, manifest
from sd3tune.formats.file_metadata import FILE
from tests import checkpoints, safetensors_files
from tests.plans import plan


def ended(output: Path, steps: int = 3) -> Path:
    """What a run of so many steps leaves."""
    checkpoints.folder(output, steps)
    return result(output / FILE, steps)


def result(path: Path, steps: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {file_metadata.STEP: str(steps)}
    return safetensors_files.write(path, {"x": [1]}, metadata=metadata)


def test_a_run_is_finished_when_its_last_checkpoint_and_its_result_are_there(
    tmp_path: Path,
) -> None:
    assert finished_run.result(tmp_path, FILE, 3, "latest") is None
    file = ended(tmp_path)
    assert finished_run.result(tmp_path, FILE, 3, "latest") == file
    assert finished_run.result(tmp_path, FILE, 4, "latest") is None  # max_train_steps was raised
    assert finished_run.result(tmp_path, FILE, 3, "never") is None
    assert finished_run.result(tmp_path, FILE, 3, "checkpoint-2") is None
    picture = tmp_path / "step_3_cat_0_64x64.png"
    assert finished_run.result(tmp_path, FILE, 3, "latest", [picture]) is None  # of a new prompt
    picture.touch()
    assert finished_run.result(tmp_path, FILE, 3, "latest", [picture]) == file


@pytest.mark.parametrize("spoil", ["no result", "an earlier result", "damage", "no checkpoint"])
def test_what_is_missing_is_made_again(spoil: str, tmp_path: Path) -> None:
    file = ended(tmp_path)
    if spoil == "no result":
        file.unlink()
    elif spoil == "an earlier result":
        result(file, 2)
    elif spoil == "damage":
        file.write_bytes(b"x")
    else:
        (tmp_path / "checkpoint-3" / manifest.MANIFEST).unlink()
    assert finished_run.result(tmp_path, FILE, 3, "latest") is None


def test_full_training_leaves_a_model(tmp_path: Path) -> None:
    checkpoints.folder(tmp_path, 3)
    file = result(tmp_path / finished_run.MODEL, 3)
    assert finished_run.result(tmp_path, FILE, 3, "latest") == file


def test_a_finished_run_says_where_its_result_is_and_how_to_go_on(tmp_path: Path) -> None:
    file = ended(tmp_path, 10)
    made = plan("h100", output_dir=tmp_path, max_train_steps=10, validation_prompt="a cat",
                validation_resolution="64x64", validation_disable_unconditional=True)  # fmt: skip
    assert finished(made) is None
    picture = tmp_path / "validation_images" / "step_10_validation_0_64x64.png"
    picture.parent.mkdir()
    picture.touch()
    assert finished(made) == file
    said = "\n".join(map(str, finished_lines(made, file)))
    assert "10 of 10: this run is finished" in said and str(file) in said
    assert "max_train_steps=20" in said and "--resume never" in said
