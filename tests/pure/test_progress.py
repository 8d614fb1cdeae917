"""No command is silent for long: a line that moves on a terminal, a line now and then in a log."""

import os
import re
import subprocess
import sys

import pytest

from sd3tune.report.progress import silence_seconds, stage, waiting

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SLOW = """
import time
from sd3tune.report.progress import say, stage, waiting
with waiting("planning"):
    with stage("look at mine", None) as bar:
        bar.expect(3)
        for _ in range(3):
            time.sleep({each})
            bar.advance()
    time.sleep({then})
"""


def heard(code: str, *, terminal: bool) -> list[str]:
    """What a program writes to stderr, piece by piece; on a terminal of 80 columns or into a
    pipe."""
    if terminal:
        import pty
        import termios

        reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (24, 80))
    else:
        reader, writer = os.pipe()
    environ = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {
        "TERM": "xterm",
        "SD3TUNE_LOG_SECONDS": "0.4",
    }
    process = subprocess.Popen([sys.executable, "-c", code], stderr=writer, env=environ)
    os.close(writer)
    pieces = []
    while piece := _read(reader):
        pieces.append(piece)
    assert process.wait() == 0
    os.close(reader)
    return pieces


def _read(reader: int) -> str:
    try:
        return os.read(reader, 65536).decode()
    except OSError:  # a terminal without a writer
        return ""


def test_a_log_names_slow_work_and_the_work_inside_it_and_counts() -> None:
    code = SLOW.format(each=0.25, then=0.8)
    lines = "".join(heard(code, terminal=False)).splitlines()
    inner, last, *outer = lines
    assert re.fullmatch(r"look at mine \d/3  [\d.]+/s  \(\d s\)", inner)
    assert re.fullmatch(r"look at mine 3/3  [\d.]+/s", last)
    assert outer and all(re.fullmatch(r"planning  \(\d s\)", line) for line in outer)


def test_short_works_one_after_the_other_are_not_silent_together() -> None:
    code = "import time\nfrom sd3tune.report.progress import waiting\n"
    code += "for name in 'abcdef':\n    with waiting(name):\n        time.sleep(0.3)\n"
    lines = "".join(heard(code, terminal=False)).splitlines()
    assert len(lines) >= 2, "each is shorter than the 0.4 seconds that may be silent"


def test_a_terminal_is_redrawn_all_the_time_and_keeps_the_count() -> None:
    pieces = heard(SLOW.format(each=0.3, then=0.5), terminal=True)
    assert len(pieces) > 5, "it is drawn again and again while nothing is counted"
    drawn = [CONTROL.sub("", line) for line in re.split(r"[\r\n]+", "".join(pieces))]
    assert all(len(line) <= 80 for line in drawn)
    assert any(line.startswith("look at mine") and "3/3" in line for line in drawn)
    assert not any("?" in line for line in drawn), "no `1/?`"


def test_quick_work_writes_nothing_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("planning"), stage("look at mine", None) as bar:
        bar.expect(2)
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_a_long_name_leaves_room_for_the_numbers_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with stage("look at " + "photographs-of-my-dog-" * 5, 12) as bar:
        bar.advance(12)
    lines = CONTROL.sub("", capsys.readouterr().err).replace("\r", "\n").splitlines()
    assert "12/12" in lines[-1] and "…" in lines[-1] and all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("given, seconds", [("0.5", 0.5), ("", 2), ("never", 2), ("0", 2)])
def test_the_silence_before_a_line_is_the_user_s_to_choose(
    given: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SD3TUNE_LOG_SECONDS", given)
    assert silence_seconds() == seconds
