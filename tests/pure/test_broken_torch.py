"""A PyTorch that does not load any more is an error with a hint, and is asked again next time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sd3tune.backends.observe import kept_answers, kept_torch
from sd3tune.cli.failures import show_failure

folder = kept_answers.folder(os.environ)
folder.mkdir(parents=True)
kept = kept_torch.path_of(folder, kept_torch.software(os.environ))
kept.write_text("{}")
try:
    import torch
except Exception as e:
    print(show_failure(e), kept.exists())
"""


@pytest.mark.parametrize(
    "content",
    [
        "raise OSError('libcudart.so.12: cannot open shared object file')",
        "raise ImportError('libcudnn.so.9: cannot open shared object file')",
        "from . import other",
        "import torch._C.of_another_version",
        "None.library",
        "def (",
        "\0",
    ],
)
def test_a_torch_that_does_not_load_is_an_error_with_a_hint(content: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(content)
    (tmp_path / "command.py").write_text(COMMAND)
    words = [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]
    ended = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=True,
    )  # fmt: skip
    assert ended.stdout.split() == ["1", "False"], "what was kept is gone"
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: PyTorch cannot be imported: ")
    assert hint.startswith("hint: bash scripts/setup")


def test_another_error_without_torch_is_not_taken_for_it(tmp_path: Path) -> None:
    code = """
from sd3tune.cli import broken_torch
try:
    import sd3tune.not_there
except ImportError as e:
    print(broken_torch.failed_with(e))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
