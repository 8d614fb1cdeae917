"""A project to be spoilt, and what the real command says of it."""

import pytest

from tests.commands import exit_code

MODEL = "models/sd3.5-medium"
PLAN = ["plan", "config/config.json", "--on", "rtx4090"]


def said(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Exit code, and lines of stderr that are errors or hints."""
    code = exit_code(words, monkeypatch)
    err = capsys.readouterr().err
    assert "Traceback" not in err and code in (0, 1), err
    lines = [x for x in err.splitlines() if x.startswith(("error: ", "hint: "))]
    assert len(lines) == 2 * code, err
    return code, lines
