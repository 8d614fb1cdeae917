# ruff: noqa: E501  (tables: one case a line)
"""`sd3tune config convert`: the new file resolves to the same settings."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import read
from sd3tune.config.final_settings import final_settings
from tests.commands import exit_code

pytestmark = pytest.mark.usefixtures("empty_project")
SETTINGS: dict[str, Any] = {
    "--model_type": "lora", "model_family": "sd3", "output_dir": "out", "max_train_steps": 9,
    "save_total_limit": 3, "vae_cache_preprocess": True, "learning_rate": 1e-05, "use_ema": "true",
    "validation_resolution": "1024x1024,1280x768", "validation_guidance_skip_layers": [7, 8, 9],
    "validation_prompt": 'it\'s a "wall" $HOME `x`\nin \\ two lines\t\x7f é 日本 \U0001f600 ${A:-b}',
    "validation_negative_prompt": "null", "revision": "7e10", "modelspec_comment": '"quoted"',
    "optimizer_config": "weight_decay=0.01,eps=1e-8", "lora_alpha": "16.0",
    "resume_from_checkpoint": "latest", "pretrained_model_name_or_path": "models/x/",
    "user_prompt_library": "~/library.json", "lr_scheduler": "constant", "lr_warmup_steps": 5,
    "webhook_config": [{"webhook_type": "raw", "callback_url": "http://127.0.0.1:9/x"}],
    "lora_type": "lycoris", "report_to": "none", "hub_model_id": None, "seed": 1, "_note": "mine",
    "base_model_precision": "no_change",
}  # fmt: skip


def final(path: Path) -> dict[str, Any]:
    reading = read(path, (), {})
    assert reading.problems == ()
    webhooks = reading.settings.webhook_config
    return {s.name: s.value for s in final_settings(reading.settings)} | {"webhooks": webhooks}


def convert(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    return exit_code(["config", "convert", *map(str, words)], monkeypatch)


@pytest.mark.parametrize("folder", ["config", "config/style", "elsewhere/config", "."])
def test_each_format_in_each_folder_means_the_same(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path("config/config.json")
    source.write_text(json.dumps(SETTINGS))
    for kind in ("toml", "env", "json"):
        target = Path(folder, f"new.{kind}")
        assert convert(monkeypatch, source, "-o", target) == 0
        assert final(target) == final(source), kind
        source = target  # a chain: toml to env to json


def test_random_files_mean_the_same_in_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(7)
    for number in range(12):
        kept = {k: v for k, v in SETTINGS.items() if draw.random() < 0.5}
        text = "".join(draw.choices("a'\"\\$`{}#;\n\t =é", k=12))
        least = {"output_dir": "o", "max_train_steps": 9, "validation_prompt": f"x{text}y"}
        source = Path(f"config/{number}.json")
        source.write_text(json.dumps(kept | least))
        for kind in ("toml", "env"):
            target = Path(f"config/{number}.{kind}")
            assert convert(monkeypatch, source, "-o", target) == 0
            assert final(target) == final(source), (kind, kept, text)


def test_words_of_the_command_line_are_written_and_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config/config.env").write_text(
        "export OUTPUT_DIR=${BASE:-o}\nMAX_NUM_STEPS=3\nTRAINER_EXTRA_ARGS='--lora_rank 4'\n"
    )
    monkeypatch.setenv("BASE", "b")
    monkeypatch.setenv("LEARNING_RATE", "1e-3")
    assert convert(monkeypatch, "--to", "json", "seed=2", "--max_train_steps", "7") == 0
    written = json.loads(capsys.readouterr().out)
    assert written == {"output_dir": "b", "max_train_steps": 7, "lora_rank": 4, "seed": 2}


def test_a_placeholder_of_the_environment_is_not_written_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = {"webhook_type": "discord", "webhook_url": "{env:DISCORD_WEBHOOK}"}
    Path("config/config.json").write_text(
        json.dumps({"output_dir": "o", "max_train_steps": 1, "webhook_config": hooks})
    )
    monkeypatch.setenv("DISCORD_WEBHOOK", "https://discord.com/api/webhooks/1/secret")
    assert convert(monkeypatch, "--to", "toml") == 0
    shown = capsys.readouterr().out
    assert "{env:DISCORD_WEBHOOK}" in shown and "secret" not in shown


def test_variables_alone_become_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"OUTPUT_DIR": "o", "NUM_EPOCHS": "2", "CONFIG_BACKEND": "env"}.items():
        monkeypatch.setenv(name, value)
    assert convert(monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) == {"num_train_epochs": 2, "output_dir": "o"}


def test_nothing_is_overwritten_and_a_file_with_problems_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config/config.json").write_text(json.dumps(SETTINGS))
    Path("there.toml").write_text("mine")
    assert convert(monkeypatch, "-o", "there.toml") == 1 and "is there already" in error(capsys)
    assert convert(monkeypatch, "-o", "new.yaml") == 1 and "--to" in error(capsys)
    assert convert(monkeypatch, "-o", "new.toml", "lora_rank=-1") == 1
    assert "`lora_rank=-1`" in error(capsys)
    assert Path("there.toml").read_text() == "mine" and not Path("new.toml").exists()


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err
