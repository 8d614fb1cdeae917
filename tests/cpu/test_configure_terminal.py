"""`sd3tune configure` in a real terminal of 80 columns, and a run of what it writes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import sd3tune

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
COLUMNS, PATIENCE_SECONDS = 80, 240.0
COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


class Tmux:
    """A terminal of its own server, 80 columns wide."""

    def __init__(self, folder: Path, term: str) -> None:
        self._server = ["tmux", "-L", f"sd3tune-{os.getpid()}", "-f", "/dev/null"]
        self.raw = folder / "raw"
        command = f"NO_COLOR=1 TERM={term} {sys.executable} -m sd3tune configure; exec sleep 600"
        size = ["-x", str(COLUMNS), "-y", "50"]
        self._run("new-session", "-d", *size, "-c", str(folder), "-s", "t", "sh")
        self._run("pipe-pane", "-t", "t", f"cat > {self.raw}")
        self._run("send-keys", "-t", "t", command, "Enter")

    def _run(self, *words: str) -> str:
        return subprocess.run(
            [*self._server, *words], check=True, capture_output=True, text=True
        ).stdout

    def type(self, line: str) -> None:
        """Types a line, and Enter."""
        self._run("send-keys", "-t", "t", "-l", line)
        self._run("send-keys", "-t", "t", "Enter")

    def text(self) -> str:
        """All that was shown, as the terminal shows it."""
        return self._run("capture-pane", "-p", "-t", "t", "-S", "-")

    def wait_for(self, words: str) -> str:
        """What was shown, once it has the words."""
        end = time.monotonic() + PATIENCE_SECONDS
        while words not in (text := self.text()):
            assert time.monotonic() < end, text
            time.sleep(0.2)
        return text

    def close(self) -> None:
        subprocess.run([*self._server, "kill-server"], capture_output=True)


@pytest.fixture(params=["xterm", "dumb"])
def tmux(demo: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tmux]:
    for name in ("models", "photos"):
        shutil.copytree(demo / name, tmp_path / name)
    terminal = Tmux(tmp_path, request.param)
    yield terminal
    terminal.close()


def test_an_interview_in_a_terminal_writes_a_run_that_trains(tmux: Tmux, tmp_path: Path) -> None:
    tmux.wait_for("1 of 8  Which model?")
    typed = {
        "model [models/sd3.5-medium]:": "",
        "dataset [": "photos/square",
        "purpose [subject]:": "b",
        "dataset [photos/square]:": "",
        "purpose [subject]: ": "2: zkw",
        "length [1000]:": "4",
        "quality [automatic]:": "",
        "pictures [": "a house, zkw; none of it",
        "output [output]:": "out",
        "tracker [none]:": "",
        "write? [yes]:": "",
    }
    for prompt, answer in typed.items():
        tmux.wait_for(prompt.rstrip())
        tmux.type(answer)
    text = tmux.wait_for("next   sd3tune train config/config.json")
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert not COLOUR.search(tmux.raw.read_text(errors="replace"))
    config = json.loads((tmp_path / "config/config.json").read_text())
    assert (config["output_dir"], config["max_train_steps"]) == ("out", 4)
    ran = sd3tune("train", "validation_num_inference_steps=2", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out/pytorch_lora_weights.safetensors").is_file()
