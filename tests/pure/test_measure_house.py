"""scripts/measure-house: what it counts, and that the way to the loss stays short."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure-house"
ONE = '''"""One."""


class Twice:
    def __call__(self, a, b, c, d, e, f, g):
        """Seven parameters."""
        return a


def long():
    """A body of eleven lines."""
'''


def measured(*words: str) -> str:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def number(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s+(.*)$", text, re.MULTILINE)
    assert found is not None, name
    return found.group(1)


def test_sizes_and_repetitions_are_counted(tmp_path: Path) -> None:
    package = tmp_path / "sd3tune"
    for room in ("a", "b"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
        (package / room / "same.py").write_text(ONE + "    x = 1\n" * 11)
    (package / "a" / "large.py").write_text("x = 1\n" * 151)
    text = measured(str(tmp_path), "--path", "a/same.py,a/gone.py")
    lines = len(ONE.splitlines()) + 11
    assert number(text, "files") == "5" and number(text, "files above 150 / 400") == "1 / 0"
    assert number(text, "functions") == "4" and number(text, "functions above 10 / 60") == "2 / 0"
    assert number(text, "more than 6 parameters") == "2" and number(text, "__call__") == "2"
    assert number(text, "file names used twice") == "1  same.py"
    assert number(text, "class names used twice") == "1  Twice"
    assert re.search(r"a/gone\.py +missing", text)
    assert text.endswith(f"  1 files, {lines} lines\n")


def test_a_reader_reaches_the_loss_in_eight_files_and_nine_hundred_lines() -> None:
    files, lines = map(int, re.findall(r"\d+", measured().splitlines()[-1]))
    assert files <= 8 and lines <= 900
    assert "missing" not in measured()
