"""Packages that are mentioned and not used stay unloaded; used, they are what they always were."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = {
    "__init__.py": "print('loaded'); from seldom import inner; value = inner.value",
    "inner.py": "value = 7",
    "other.py": "value = 8",
}


def said(tmp_path: Path, code: str) -> list[str]:
    """What a process prints that defers the package `seldom`."""
    folder = tmp_path / "seldom"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text + "\n")
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom sd3tune import deferred\n"
    words = [sys.executable, "-c", f"{start}deferred.defer('seldom')\n{code}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_importing_it_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import seldom, inspect, importlib.util\n"
        "import seldom as again\n"
        "importlib.util.find_spec('seldom'); inspect.getmodule(print); seldom.__file__\n"
        "print(deferred.is_loaded('seldom'))"
    )
    assert said(tmp_path, code) == ["False"]


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("import seldom\nprint(seldom.value)", "7"),
        ("from seldom import value\nprint(value)", "7"),
        ("import seldom.other\nprint(seldom.other.value)", "8"),
        ("from seldom.other import value\nprint(value)", "8"),
        ("import seldom\nimport seldom.inner\nprint(seldom.inner.value)", "7"),
    ],
)
def test_using_it_loads_it_once(code: str, value: str, tmp_path: Path) -> None:
    more = "\nimport seldom as again\nprint(again.value, deferred.is_loaded('seldom'))"
    assert said(tmp_path, code + more) == ["loaded", value, "7", "True"]


def test_a_block_that_only_imports_it_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "del sys.modules['seldom']\n"
        "with deferred.briefly('seldom'):\n"
        "    import seldom as stand_in\n"
        "print('seldom' in sys.modules)\n"
        "print(stand_in.value)\n"
        "with deferred.briefly('seldom'):\n"
        "    import seldom\n"
        "print(deferred.is_loaded('seldom'))"
    )
    assert said(tmp_path, code) == ["False", "loaded", "7", "True"]


def test_what_is_loaded_or_not_installed_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import seldom.other, json\n"
        "deferred.defer('seldom', 'json', 'not_installed_anywhere', 'not_installed.inside')\n"
        "print(deferred.is_loaded('seldom'), deferred.is_loaded('json'))\n"
        "print('not_installed_anywhere' in sys.modules)"
    )
    assert said(tmp_path, code) == ["loaded", "True", "True", "False"]
