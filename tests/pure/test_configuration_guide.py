"""docs/guides/configuration.md is true: its commands print what it says."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import ROOT, exit_code

PAGE = (ROOT / "docs" / "guides" / "configuration.md").read_text()
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def spaced(text: str) -> list[str]:
    """The lines of a text with single blanks: columns are as wide as the terminal."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    if words[0] == "cp":
        shutil.copy(words[1], words[2])
        return
    with monkeypatch.context() as here:
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            here.setenv(name, value)
        assert words.pop(0) == "sd3tune"
        exit_code(words, here)


def test_the_guide_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path("datasets/pseudo-camera-10k")
    photos.mkdir(parents=True)
    Image.new("RGB", (1280, 1024)).save(photos / "a photo.png")
    shown, compared = "", 0
    for language, file, text in FENCE.findall(PAGE):
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                run(line, monkeypatch)
                out, err = capsys.readouterr()
                shown = "\n".join((out, *(e for e in err.splitlines() if e.startswith("error"))))
        else:
            assert spaced(text) == spaced(shown)
            compared += 1
    assert compared == 4 and Path("config/config.toml").is_file()
    assert "LEARNING_RATE" not in os.environ
