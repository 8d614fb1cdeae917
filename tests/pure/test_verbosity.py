"""`-v` and `-q`: what is said on stderr, through the real command; the result is always there."""

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sd3tune.report.messages import set_verbosity
from sd3tune.report.quiet import quiet_logger
from tests.commands import exit_code, sd3tune
from tests.projects import Project

PLAN = ["plan", "--on", "rtx4090"]
IN_A_STAGE = """
import logging
from sd3tune.report.progress import say, stage, warn
with stage("encode images", 3) as bar:
    for number in range(3):
        bar.advance()
        say(f"said {number}")
        logging.getLogger("sd3tune.somewhere").warning(f"warned {number}")
        logging.getLogger("sd3tune.somewhere").debug("never shown")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With a file that is set aside, and a key that says nothing here."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path)
    made.write("photos/broken.png", b"")
    made.config(tracker_project_name="")
    return made


@pytest.mark.parametrize("words", [["-q", *PLAN], [*PLAN, "--quiet"]])
def test_quiet_leaves_warnings_and_the_result(
    words: list[str], project: Project, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert exit_code(words, monkeypatch) == 0
    out, err = capsys.readouterr()
    assert "memory while training" in out
    assert err.startswith("warning: dataset `photos`: 1 file set aside\n")
    assert "broken.png" in err and "note: " not in err and "debug: " not in err


def test_quiet_leaves_errors_and_their_hints(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.config(max_train_steps=-1)
    assert exit_code(["-q", *PLAN], monkeypatch) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]


@pytest.mark.parametrize("words", [["--verbose", *PLAN], [*PLAN, "-v"]])
def test_verbose_says_which_file_was_read(
    words: list[str], project: Project, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert exit_code(words, monkeypatch) == 0
    err = capsys.readouterr().err
    assert "debug: configuration config/config.json, overridden by nothing\n" in err
    assert "debug: planned in " in err
    assert exit_code(PLAN, monkeypatch) == 0
    assert "debug: " not in capsys.readouterr().err, "the next command begins anew"


def test_verbose_and_quiet_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["-v", "plan", "-q"], monkeypatch) == 1
    assert "-v and -q contradict each other" in capsys.readouterr().err


@pytest.mark.parametrize("verbosity, level", [("normal", logging.ERROR), ("verbose", 0)])
def test_libraries_are_quiet_unless_verbose(verbosity: str, level: int) -> None:
    name = f"a library, {verbosity}"
    set_verbosity("verbose" if verbosity == "verbose" else "normal")
    try:
        quiet_logger(name)
        assert logging.getLogger(name).level == level
    finally:
        set_verbosity("normal")


def test_a_message_is_one_line_of_its_own_and_shows_no_credentials() -> None:
    code = (
        "import logging; logging.getLogger('sd3tune.x').error("
        "'https://me:secret@host.example/x %s\\n\\x1b[31mred')"
    )
    done = subprocess.run([sys.executable, "-c", "import sd3tune.report.messages;" + code],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "secret" not in done.stderr and "\x1b" not in done.stderr and "\\x1b[31m" in done.stderr


def test_messages_stand_on_lines_of_their_own_above_a_progress_bar() -> None:
    ours, theirs = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen([sys.executable, "-c", IN_A_STAGE], stderr=theirs, env=environ)
    assert process.wait(60) == 0
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    lines = shown.decode().replace("\r", "\n").split("\n")
    for number in range(3):
        said = [line for line in lines if f"said {number}" in line]
        warned = [line for line in lines if f"warned {number}" in line]
        assert any(line.endswith(f"said {number}") and "encode" not in line for line in said), lines
        assert any(line.endswith(f"warning: warned {number}") for line in warned), lines
    assert "never shown" not in shown.decode()


def test_help_of_every_command_names_both_options() -> None:
    for command in ("", "doctor", "train", "cache", "cache info", "image run"):
        said = sd3tune(*command.split(), "--help").stdout
        assert "-v, --verbose" in said and "-q, --quiet" in said, command
