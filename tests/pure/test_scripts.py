"""The set-up scripts: syntax, and what they promise about PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for path in [*sorted((ROOT / "scripts").rglob("*")), ROOT / ".ci" / "run", ROOT / "train.sh"]
    if path.suffix in ("", ".sh") and path.is_file() and "bash" in path.read_text().splitlines()[0]
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_bash_that_stops_at_errors_and_can_be_run(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "set -euo pipefail" in script.read_text() and os.access(script, os.X_OK)


def test_a_python_that_does_not_exist_is_two_lines(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHON": "no-such-python"}
    environ["SD3TUNE_VENV"] = str(tmp_path / "v")
    command = ["bash", str(ROOT / "scripts" / "setup")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 1 and not (tmp_path / "v").exists()
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: PYTHON=no-such-python") and lines[1].startswith("hint: ")


def train_script(folder: Path, *words: str, **environ: str) -> tuple[int, str]:
    """Exit code and output of train.sh, called in `folder`."""
    done = subprocess.run(
        ["bash", str(ROOT / "train.sh"), *words],
        cwd=folder, env=os.environ | environ, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_train_sh_is_sd3tune_train_in_the_working_directory(tmp_path: Path) -> None:
    program = tmp_path / "venv" / "bin" / "sd3tune"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sd3tune "$@"\n')
    program.chmod(0o755)
    for variable in ("SD3TUNE_VENV", "VENV_PATH"):
        environ = {"SD3TUNE_VENV": "", variable: str(tmp_path / "venv")}
        assert "Usage: sd3tune train" in train_script(tmp_path, "--help", **environ)[1]
    code, said = train_script(tmp_path, **environ)
    assert code == 1 and "looked for config/config.json" in said  # here, not beside the script
    code, said = train_script(tmp_path, "--dry-run", ENV="cats", **environ)
    assert code == 1 and "config/cats" in said
    code, said = train_script(tmp_path, SD3TUNE_VENV=str(tmp_path))
    assert code == 1 and said.splitlines()[1].startswith("hint: bash scripts/setup")


def test_the_range_of_pytorch_is_the_same_everywhere() -> None:
    from sd3tune.backends.observe.torch_report import RANGE

    assert f'"{RANGE}"' in (ROOT / "pyproject.toml").read_text()
    assert "(2, 13) <=" in (ROOT / "scripts" / "setup").read_text()


def test_the_range_of_python_is_the_same_everywhere() -> None:
    from sd3tune.doctor.software import NEWEST, OLDEST

    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">=3.{OLDEST[1]},<3.{NEWEST[1] + 1}"' in text
    assert f'target-version = "py3{OLDEST[1]}"' in text
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        assert f'"Programming Language :: Python :: 3.{minor}"' in text
    for name in ("setup", "test-pythons"):
        assert f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]}" in (ROOT / "scripts" / name).read_text()


VENV = """#!/bin/sh
printf '%s\\n' "$*" >>"$(dirname "$0")/../asked"
case "$*" in
  *--torch*) printf 'error: driver 515 is too old\\nhint: update it\\n' >&2; exit 1;;
  *--extra*) echo cuda;;
  *"print(\\"torch==\\""*) echo torch==2.13.0;;
esac
"""


@pytest.mark.parametrize("chosen", ["", "torch==2.13.0+cpu"])
def test_setup_stops_at_a_driver_that_is_too_old_unless_the_user_chose(
    chosen: str, tmp_path: Path
) -> None:
    """With a Python that answers as the survey of such a machine does, and installs nothing."""
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(VENV)
    python.chmod(0o755)
    environ = {"PATH": os.environ["PATH"], "SD3TUNE_VENV": str(tmp_path / "venv")}
    command = ["bash", str(ROOT / "scripts" / "setup")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environ | {"SD3TUNE_TORCH": chosen}
    )
    asked = (tmp_path / "venv/asked").read_text()
    if chosen:
        assert done.returncode == 0 and f"--force-reinstall {chosen}\n" in asked, done.stderr
        assert "sd3tune  [cuda]" in done.stdout and "--torch" not in asked
    else:
        assert done.returncode == 1 and "pip" not in asked
        assert done.stderr == "error: driver 515 is too old\nhint: update it\n"


HEALTHY = """#!/bin/sh
case "$*" in
  "-I -") [ -e "$(dirname "$0")/torch" ];;
  *--torch*) printf '%s\\n' 'torch>=2.13' - cpu reason;;
  *"print(\\"torch"*) echo torch==2.13.0;;
esac
"""


def test_setup_is_up_to_date_only_while_pytorch_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "venv/bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(HEALTHY)
    (folder / "python").chmod(0o755)
    (folder / "torch").write_text("")

    def said() -> str:
        environ = {"PATH": os.environ["PATH"], "SD3TUNE_VENV": str(tmp_path / "venv")}
        command = ["bash", str(ROOT / "scripts" / "setup")]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
        return done.stdout

    assert "already installed, kept" in said()
    assert said().startswith("up to date")
    (folder / "torch").unlink()
    assert "up to date" not in said()
