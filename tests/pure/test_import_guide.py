"""The guide for users of other trainers is walked: its files are written, its commands are run."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests import safetensors_files
from tests.commands import exit_code

PAGE = (Path(__file__).parents[2] / "docs/guides/from-other-trainers.md").read_text()
FILES = re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S)
COMMANDS = [
    shlex.split(line.split("  #")[0])
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    for line in block.splitlines()
    if line.startswith("sd3tune config")
]


def test_every_command_of_the_guide_does_what_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("img/10_dog").mkdir(parents=True)
    Path("img/10_dog/a.txt").write_text("a dog")
    for name, text in FILES:
        Path(name).write_text(text)
    key = "lora_unet_joint_blocks_0_x_block_attn_proj"
    shapes = {f"{key}.lora_down.weight": (8, 1536), f"{key}.lora_up.weight": (1536, 8)}
    safetensors_files.write(Path("theirs.safetensors"), shapes, {f"{key}.alpha": 8.0})
    for words in COMMANDS:
        assert exit_code(words[1:], monkeypatch) == 0, words
        printed = capsys.readouterr().out
        assert "still to do" not in printed, printed
        if "-o" in words:
            folder = Path(words[words.index("-o") + 1])
            config = json.loads((folder / "config/config.json").read_text())
            datasets = json.loads((folder / "config/multidatabackend.json").read_text())
            assert config["lora_rank"] in (4, 8, 16) and len(datasets) >= 2
    assert len(FILES) == 6 and len(COMMANDS) == 10


def test_files_of_other_trainers_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """kohya moves by 1e-4 x 8 / 16, OneTrainer by 3e-4 x 1 / 16, ai-toolkit by 1e-4."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES:
        Path(name).write_text(text)
    names = ["kohya.toml", "onetrainer.json", "ai-toolkit.yaml"]
    assert exit_code(["config", "compare", *names, "--json"], monkeypatch) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    rates = [run["effective_rate"] for run in runs]
    assert rates == pytest.approx([5e-5, 1.875e-5, 1e-4])
    assert [run["images_seen"] for run in runs] == [2000, None, 2000]
    # logit-normal: half of the levels lie below 0.5, and 0.75 of them below sigmoid(0.674)
    assert runs[0]["levels"][2:4] == pytest.approx([0.5, 0.6625], abs=1e-3)
    # E[s²] of a logit-normal level
    assert [run["mean_weight"] for run in runs] == pytest.approx([0.293, 1, 1], abs=1e-3)
    assert exit_code(["config", "compare", *names], monkeypatch) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "onetrainer.json: learning_rate=0.0008 moves as far as kohya.toml with 0.0001" in printed
    assert "ai-toolkit.yaml: learning_rate=5e-05" in printed
