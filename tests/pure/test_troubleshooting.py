"""docs/troubleshooting.md: every message that it explains is one that sd3tune prints."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| `([^`]+)`[^|]* \|", PAGE, re.M)
OF_THE_SHELL = ["sd3tune: command not found"]  # bash says it where no environment is active


@cache
def texts() -> dict[Path, str]:
    """Every text of a module, with a line for each; and the scripts as they are."""
    found = {path: path.read_text() for path in (ROOT / "scripts").iterdir() if path.is_file()}
    for path in (ROOT / "sd3tune").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        parts = (n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
        found[path] = "\n".join(parts)
    return found


@pytest.mark.parametrize("message", [m for m in MESSAGES if m not in OF_THE_SHELL])
def test_a_message_of_the_page_is_one_that_the_code_has(message: str) -> None:
    pieces = [piece.strip(" `") for piece in message.split("…")]
    pieces = [piece for piece in pieces if len(piece) > 3]
    assert pieces
    assert any(all(piece in text for piece in pieces) for text in texts().values())


def test_the_page_has_messages() -> None:
    assert len(MESSAGES) > 50 and len(set(MESSAGES)) == len(MESSAGES)
