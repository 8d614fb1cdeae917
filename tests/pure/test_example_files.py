"""The example files: complete, equal in both formats, one source for checkout and wheel."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from sd3tune.config.config import Config
from sd3tune.config.example_files import example_files, write_examples
from tests.commands import ROOT, exit_code

NAMES = ("config.json.example", "config.toml.example", "multidatabackend.json.example",
         "user_prompt_library.json.example")  # fmt: skip


def test_a_checkout_and_a_wheel_have_the_same_files() -> None:
    assert tuple(example_files()) == NAMES
    for name, content in example_files().items():
        assert (ROOT / "config" / name).read_bytes() == content


def test_the_toml_file_says_the_same_with_a_comment_beside_every_part(tmp_path: Path) -> None:
    write_examples(tmp_path)
    folder = tmp_path / "config"
    for name in NAMES[:2]:
        (folder / name).rename(folder / name.removesuffix(".example"))
    of_json, of_toml = (Config.load(folder / f"config.{kind}") for kind in ("json", "toml"))
    assert of_json.to_json() == of_toml.to_json()
    text = (folder / "config.toml").read_text()
    assert text.count("#") > 30 and len(tomllib.loads(text)) > 35


def test_every_setting_of_the_quickstart_stands_in_the_example() -> None:
    held = json.loads(example_files()["config.json.example"])
    quickstart = ("model_type", "model_family", "pretrained_model_name_or_path", "output_dir",
                  "validation_resolution", "validation_guidance", "validation_prompt",
                  "base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision",
                  "text_encoder_3_precision", "optimizer", "mixed_precision")  # fmt: skip
    assert set(quickstart) <= held.keys() and "_user_prompt_library" in held


def test_the_quickstart_s_copy_plans_once_the_dataset_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["config", "example"], monkeypatch) == 0
    assert "cp config/config.json.example config/config.json" in capsys.readouterr().out
    for path in Path("config").glob("*.json.example"):
        shutil.copy(path, path.with_suffix(""))
    folder = Path("datasets/pseudo-camera-10k")
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (1280, 1024)).save(folder / f"a photo {number}.png")
    assert exit_code(["config", "check"], monkeypatch) == 0
    words = ["plan", "--on", "rtx4090", "user_prompt_library=config/user_prompt_library.json"]
    assert exit_code(words, monkeypatch) == 0
    shown = capsys.readouterr()
    assert (
        "sd3.5-medium" in shown.out
        and "note: " not in shown.err
        and "warning: dataset" not in shown.err
    )


def test_examples_that_are_there_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config/config.json.example"
    path.parent.mkdir()
    path.write_text("mine")
    assert exit_code(["config", "example", str(tmp_path)], monkeypatch) == 0
    assert path.read_text() == "mine" and f"kept   {path}" in capsys.readouterr().out
