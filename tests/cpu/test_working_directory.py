"""Files with the names of modules in the folder where a command is typed: none of them runs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sd3tune import start
from sd3tune.backends.observe import child
from sd3tune.filesystem import temporary
from tests.planted import plant, ran

ROOT = Path(start.ROOT)
Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Runs a command in a folder with planted files. Fails when one of them was imported."""
    folder = plant(tmp_path / "download")
    plant(folder / "src")

    def go(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        given = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder,
                              env=given | environ)  # fmt: skip
        assert ran(folder) == [], done.stderr
        assert done.returncode == 0, done.stderr
        return done

    return go


# As the installed command does, which has its own folder first on its path.
BY_NAME = [sys.executable, "-c", f"import sys; sys.path[0] = {str(ROOT)!r};"
           "from sd3tune.__main__ import main; main()"]  # fmt: skip
WAYS = {
    "by its name": (BY_NAME, {}),
    "by its module": ([sys.executable, "-m", "sd3tune"], {"PYTHONPATH": str(ROOT)}),
    "an empty entry": ([sys.executable, "-m", "sd3tune"], {"PYTHONPATH": f"{ROOT}:"}),
    "relative entries": ([sys.executable, "-m", "sd3tune"], {"PYTHONPATH": f"src:{ROOT}:.:./src"}),
    "by its folder": ([sys.executable, str(ROOT / "sd3tune")], {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_look_imports_nothing_from_the_working_directory(way: str, ask: Ask) -> None:
    command, environ = WAYS[way]
    assert "nothing was tried" in ask(*command, "doctor", "--quick", **environ).stdout


@pytest.mark.slow
def test_doctor_computes_with_the_installed_torch(ask: Ask) -> None:
    """Its probes are children. Those of a run: test_processes.py."""
    command, environ = WAYS["relative entries"]
    out = ask(*command, "doctor", SD3TUNE_BACKEND="cpu", **environ).stdout
    assert "ok    torch" in out and "cannot be imported" not in out


def test_torchrun_as_the_guide_has_it_imports_nothing_from_there(ask: Ask, tmp_path: Path) -> None:
    """`--no-python sd3tune`: the installed command, here one of ours that does the same."""
    script = tmp_path / "sd3tune"
    script.write_text(f"#!{sys.executable}\nimport sys; sys.path[0] = {str(ROOT)!r}\n"
                      "from sd3tune.__main__ import main\nmain()\n")  # fmt: skip
    script.chmod(0o755)
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    words = ("--standalone", "--no-python", str(script), "doctor", "--quick")
    assert "nothing was tried" in ask(torchrun, *words).stdout


def test_a_child_has_the_absolute_folders_of_pythonpath_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "lib", str(tmp_path / "mine"), ".", "~"]))
    assert start.environment(os.environ)["PYTHONPATH"] == str(tmp_path / "mine")
    monkeypatch.setenv("PYTHONPATH", "lib:")
    assert "PYTHONPATH" not in start.environment(os.environ)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "driver.py").write_text("def observe(): return {'a': 1}")
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path / 'mine'}")
    program = "import driver, sys; print(driver.observe(), '' in sys.path)"
    done = subprocess.run([sys.executable, "-c", program], env=start.environment(os.environ),
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.startswith("{'a': 1}")


APPLE = ("source", "sysctl", "/")  # the quickest one


def test_a_probe_needs_no_installation_and_no_folder_but_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is writable it says so: tempfile would take the working directory."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-I", *child.COMMAND[1:], str(tmp_path / "answer.json"), *APPLE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "answer.json").is_file(), done.stderr
    monkeypatch.setattr(temporary, "FOLDERS", ("/proc",))
    for name in (*temporary.VARIABLES, "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, "/proc")
    answer = child.ask(APPLE[0], APPLE[1:], timeout_seconds=20)
    assert answer.data is None
    assert "no folder for temporary files is writable: tried /proc" in str(answer.error)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").mkdir()
    assert child.ask(APPLE[0], APPLE[1:], timeout_seconds=20).data is not None
