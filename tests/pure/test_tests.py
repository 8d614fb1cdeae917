"""The tests themselves: where they are filed, what they share, and how they are named."""

import ast
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
LEAST_WORDS = 4  # of a name that is a sentence
OURS = {"tests", "sd3tune"}
# Refuses torch wherever the import stands; then imports every module of tests/pure.
WITHOUT_TORCH = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise AssertionError("a module of tests/pure imports torch")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_no_module_imports_a_module_of_tests() -> None:
    imported = {
        (path.relative_to(TESTS).as_posix(), name)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in (f"{node.module}.{alias.name}" for alias in node.names)
        if name.startswith("tests.") and any(p.startswith("test_") for p in name.split("."))
    }
    assert not imported, "what two modules use lives in a helper module"


def test_no_helper_has_the_name_of_a_library() -> None:
    libraries = {*packages_distributions(), *sys.stdlib_module_names} - OURS
    helpers = {p.stem for p in FILES if not p.stem.startswith(("test_", "__", "conftest"))}
    assert not (helpers & libraries) - {"docker"}


def test_no_two_modules_define_the_same_helper() -> None:
    """The same statements under any name; what is shorter than three is not worth an import."""
    places = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and len(list(ast.walk(node))) > 40:
                body = ast.dump(ast.Module(node.body, []))
                places[body].append(f"{path.relative_to(TESTS)}::{node.name}")
    assert not [same for same in places.values() if len(same) > 1]


def test_pure_tests_are_imported_without_torch() -> None:
    modules = [f"tests.pure.{p.stem}" for p in sorted((TESTS / "pure").glob("*.py"))]
    command = [sys.executable, "-c", WITHOUT_TORCH, *modules]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stderr


def test_the_names_of_tests_are_sentences() -> None:
    short = [
        f"{path.relative_to(TESTS)}::{node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if len(node.name.split("_")) - 1 < LEAST_WORDS
    ]
    assert not short
