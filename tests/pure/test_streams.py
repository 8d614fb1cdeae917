"""Standard output and error that outlive whoever reads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

OUTLIVING = """
import logging, sys, warnings, threading
from sd3tune.report import streams
streams.open_closed(); streams.outlive()
import click
from sd3tune.report.progress import say, stage
logging.basicConfig()
def everything():
    for word in ("plain", "caf\\u00e9", "\\udcff"):
        print(word); print(word, file=sys.stderr, flush=True); say(word); click.echo(word)
        click.echo(word, err=True)
    logging.error("a library's line"); warnings.warn("another")
    with stage("train", 2) as bar:
        bar.advance(2)
    try:
        1 / 0
    except ZeroDivisionError:
        sys.excepthook(*sys.exc_info())
sys.stdin.readline()
everything()
thread = threading.Thread(target=everything); thread.start(); thread.join()
open(sys.argv[1], "w").write("done")
"""


def ended(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    """Went on to its end, and says so with exit code 0."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "mark").read_text() == "done"


def begun(tmp_path: Path, stdout: int, stderr: int, **environ: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", OUTLIVING, str(tmp_path / "mark")]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=os.environ | environ
    )


def test_nothing_that_is_said_ends_a_run_whose_reader_is_gone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = begun(tmp_path, writer, writer)
    os.close(writer)
    os.close(reader)
    ended(tmp_path, process)


def test_nothing_that_is_said_ends_a_run_whose_log_is_on_a_full_disk(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = begun(tmp_path, full, full)
    os.close(full)
    ended(tmp_path, process)


def test_nothing_that_is_said_ends_a_run_whose_terminal_is_gone(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = begun(tmp_path, theirs, theirs)
    os.close(theirs)
    os.close(ours)
    ended(tmp_path, process)


def test_characters_that_a_terminal_lacks_are_written_as_escapes(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                  "PYTHONIOENCODING": "ascii"}  # fmt: skip
    process = begun(tmp_path, subprocess.PIPE, subprocess.DEVNULL, **ascii_only)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    said = process.stdout.read().decode("utf-8", "replace")  # click writes UTF-8 whatever it is
    process.stdout.close()
    assert process.wait(60) == 0 and "caf\\xe9" in said and "\\udcff" in said


def test_closed_streams_are_no_file_that_is_opened_later(tmp_path: Path) -> None:
    code = (
        "import os; from sd3tune.report import streams; streams.open_closed();"
        f"f = open({str(tmp_path / 'checkpoint')!r}, 'w'); os.write(2, b'a warning of a library');"
        "print('said'); import sys; print('said', file=sys.stderr); f.write('weights')"
    )
    command = [sys.executable, "-c", code]
    closed = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], env=os.environ, timeout=60
    )
    assert closed.returncode == 0
    assert (tmp_path / "checkpoint").read_text() == "weights"


@pytest.mark.parametrize(
    "command", [["doctor", "--on", "list"], ["doctor", "--on", "h100", "--json"]]
)
def test_output_on_a_full_disk_is_one_error(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sd3tune", *command], stdout=full, stderr=subprocess.PIPE
        )
    said = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in said and "Exception ignored" not in said
    assert said.count("error: ") == 1 and said.count("hint: ") == 1


def test_a_reader_that_has_seen_enough_ends_other_commands_quietly() -> None:
    script = '"$0" -m sd3tune doctor --on list | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and done.stderr == ""
