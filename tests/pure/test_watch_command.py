"""`sd3tune watch` in a terminal: its address, its errors, and the exported page as a file."""

import base64
import hashlib
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sd3tune.errors import ConfigError
from sd3tune.live.run_list import RunList
from sd3tune.live.serving import Address, opened
from sd3tune.live.static_export import bundle, write
from tests.commands import exit_code
from tests.live_runs import run_folder


@pytest.mark.parametrize(
    "words, error, hint",
    [
        ([], "no run was named", "sd3tune watch output"),
        (["nowhere"], "`nowhere` does not exist", "`sd3tune train` makes it"),
        (["a-file"], "`a-file` is a file", "output_dir of a run"),
        (["run", "--token", "short"], "`--token` has 5 characters, and needs 16", "random"),
        (["run", "--host", "no.such.invalid"], "cannot listen on no.such.invalid", "--host"),
        (["run", "--export", "full"], "`full` is not empty", "new or empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_watched_is_one_error_with_a_hint(
    words: list[str],
    error: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("a-file", "full/thesis.txt"):
        (tmp_path / name).write_text("mine")
    assert exit_code(["watch", *words, "--no-browser"], monkeypatch) == 1
    said = capsys.readouterr().err
    assert error in said and hint in said and "Traceback" not in said


def test_a_port_that_is_taken_is_explained_or_another_one_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}")
        with refused as refusal, opened(RunList([tmp_path]), Address(port=port)):
            pass
        assert "--port 0" in refusal.value.hint
    runs = RunList([tmp_path])
    with opened(runs, Address()) as first, opened(runs, Address()) as second:
        assert first.port != second.port


def test_missing_packages_are_one_error_with_the_line_for_pip(tmp_path: Path) -> None:
    """A Python in which uvicorn cannot be found."""
    code = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'uvicorn' else find(name, *a);"
        f"sys.argv = ['sd3tune', 'watch', {str(tmp_path)!r}]; from sd3tune.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "packages that are not installed: uvicorn" in done.stderr
    assert "hint: pip install 'sd3tune[watch]'" in done.stderr


def test_control_c_ends_the_page_and_its_streams_at_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sd3tune",
        "watch",
        str(run_folder(tmp_path / "run")),
        "--port",
        "0",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/#token=[\w-]{43}", line)
        assert found, line
        with socket.create_connection(("127.0.0.1", int(found[1])), 20) as link:
            link.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in link.recv(100)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert "Traceback" not in (process.stderr.read() if process.stderr else "")


def test_the_exported_page_has_everything_inside_and_runs_only_its_own_scripts(
    tmp_path: Path,
) -> None:
    page = write(RunList([run_folder(tmp_path / "run")]), tmp_path / "page")
    text = page.read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?!data:)', text)
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)[0]
    assert "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 4
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    images = sorted(path.name for path in (tmp_path / "page/files/0").rglob("*.png"))
    assert len(images) == 6
    assert not list((tmp_path / "page").rglob("*.safetensors"))


def test_the_modules_of_the_page_become_one_script_in_the_order_of_their_imports() -> None:
    script = bundle()
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    made = re.findall(r"^const (module_\w+) = ", script, re.MULTILINE)
    for name in made:
        used = script.index(f"= {name};") if f"= {name};" in script else len(script)
        assert script.index(f"const {name} =") < used
    assert made[-1] == "module_main" and len(made) >= 9
