"""A run that is published: the upload happens, a hub that fails hurts nothing, and the code of the
model card draws with the result."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd3tune.train.outcome import Outcome
from tests.commands import exit_code
from tests.cpu.conftest import Train
from tests.loopback_hub import WRITE, LoopbackHub, loopback_hub

# httpx2 2.16 warns huggingface_hub 2.4 of its own argument. Look again at huggingface_hub 2.5.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SHORT = ("max_train_steps=2", "lr_warmup_steps=0", "validation_disable=false",
         "validation_num_inference_steps=2", "validation_resolution=64x64")  # fmt: skip
RESULT = "pytorch_lora_weights.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with loopback_hub(monkeypatch) as running:
        yield running


def code_of(card: Path) -> str:
    found = re.search(r"(?s)\n```python\n(.*?)\n```\n", card.read_text())
    assert found is not None
    return found[1]


def draws(output: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the code of a card draws, in the folder of the card with the base model beside it."""
    base = output / "sd3.5-medium"
    base.symlink_to(demo / "models" / "sd3.5-medium")
    monkeypatch.chdir(output)
    exec(compile(code_of(output / "README.md"), "README.md", "exec"), {})
    base.unlink()
    return np.asarray(Image.open(output / "picture.png"), float)


def validation_picture(outcome: Outcome) -> np.ndarray:
    """Of the first prompt."""
    path = next(p for p in outcome.pictures if "unconditional" not in p.name)
    return np.asarray(Image.open(path), float)


@pytest.mark.slow
def test_a_run_is_published_and_its_card_draws_its_picture(
    hub: LoopbackHub, demo: Path, run: Train, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    outcome = run(*SHORT, "push_to_hub=true", "hub_model_id=my-cat", "lora_init_type=gaussian",
                  "modelspec_comment=after {current_step} steps", "checkpoint_step_interval=1",
                  "push_checkpoints_to_hub=true", "push_to_hub_background=false")  # fmt: skip
    held = hub.repositories["me/my-cat"]
    pictures = {f"validation_images/{path.name}" for path in outcome.pictures}
    pictures |= {f"benchmarks/base_model/{name.partition('step_2_')[2]}" for name in pictures}
    pictures.add("validation_images/before_after.png")
    checkpoints = {f"checkpoint-{step}/{RESULT}" for step in (1, 2)}
    assert held.private and pictures and held.files.keys() == pictures | checkpoints | {
        RESULT, "README.md", "training_settings.json"
    }  # fmt: skip
    assert held.commits[:2] == ["checkpoint-1", "checkpoint-2"] and len(held.commits) == 3
    assert b"after 2 steps" in held.files[RESULT]
    said = capsys.readouterr().err
    own = len(held.files) - len(checkpoints)  # those were there already
    assert f"published {own} files at {hub.address}/me/my-cat" in said
    events = (outcome.output / "events.jsonl").read_text()
    assert f"published {own} files" in events and WRITE not in events
    written = b"".join(p.read_bytes() for p in outcome.output.rglob("*") if p.is_file())
    everything = [said.encode(), written, *held.files.values()]
    assert not any(WRITE.encode() in data for data in everything)
    for data in (held.files["README.md"], held.files["training_settings.json"]):
        assert str(demo).encode() not in data and str(outcome.output).encode() not in data
    difference = np.abs(draws(outcome.output, demo, monkeypatch) - validation_picture(outcome))
    assert difference.max() <= 1


@pytest.mark.slow
def test_a_hub_that_fails_at_the_end_hurts_no_run_and_the_same_command_publishes(
    hub: LoopbackHub, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub.faults["POST .*/preupload/"] = [403]
    words = ["train", str(demo / "config" / "config.json"), f"output_dir={tmp_path / 'o'}",
             "max_train_steps=2", "lr_warmup_steps=0", "validation_disable=true",
             "push_to_hub=true", "hub_model_id=my-cat"]  # fmt: skip
    assert exit_code(words, monkeypatch) == 0
    said = capsys.readouterr()
    assert "not published" in said.err and "HTTP 403" in said.err
    assert "published" not in said.out and hub.repositories["me/my-cat"].files == {}
    assert exit_code(words, monkeypatch) == 0
    said = capsys.readouterr()
    assert "this run is finished" in said.out and "published 3 files" in said.out
    assert RESULT in hub.repositories["me/my-cat"].files


def test_without_a_login_a_run_that_publishes_does_not_begin(
    hub: LoopbackHub, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    words = ["train", str(demo / "config" / "config.json"), f"output_dir={tmp_path / 'o'}",
             "push_to_hub=true", "hub_model_id=my-cat"]  # fmt: skip
    assert exit_code(words, monkeypatch) == 1
    said = capsys.readouterr().err
    assert "you are not logged in" in said and "`hf auth login`" in said
    assert "encode captions" not in said and not (tmp_path / "o" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_the_code_of_a_lycoris_card_draws_its_picture(
    demo: Path, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "lokr.json"
    config.write_text(json.dumps({"algo": "lokr", "linear_dim": 4, "linear_alpha": 1, "factor": 4,
                                  "apply_preset": {"target_module": ["Attention"]}}))  # fmt: skip
    outcome = run(*SHORT, "lora_type=lycoris", f"lycoris_config={config}", "learning_rate=0.05")
    code = code_of(outcome.output / "README.md")
    assert "create_lycoris_from_weights" in code
    drawn = draws(outcome.output, demo, monkeypatch)
    assert np.abs(drawn - validation_picture(outcome)).max() <= 1
    (outcome.output / RESULT).rename(outcome.output / "away")
    with pytest.raises(Exception, match=RESULT):
        draws(outcome.output, demo, monkeypatch)


@pytest.mark.slow
def test_the_code_of_a_full_card_draws_its_picture(
    demo: Path, run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run(*SHORT, "model_type=full", "use_ema=true", "ema_validation=ema_only")
    drawn = draws(outcome.output, demo, monkeypatch)
    assert np.abs(drawn - validation_picture(outcome)).max() <= 1
