"""Every setting is given a value by a test that can fail.

Read from the source of the tests. A test gives a setting a value with a keyword, a key of a
dictionary, or a word of a command (`name=value`), in its own lines, its parameters, or what it uses
of its file. A name in a comment, a message or a comparison counts for nothing.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds

TESTS = Path(__file__).parents[1]
SETTINGS = {
    *Config.model_fields,
    *ImageDataset.model_fields,
    *Masks.model_fields,
    *TextEmbeds.model_fields,
}
WORD = re.compile(r"(?:--)?(\w+)=")


def given(node: ast.AST) -> Iterator[str]:
    """The names that get a value somewhere below."""
    remarks = {id(n.value) for n in ast.walk(node) if isinstance(n, ast.Expr)}  # docstrings
    for part in ast.walk(node):
        if id(part) in remarks:
            continue
        if isinstance(part, ast.keyword) and part.arg:
            yield part.arg
        elif isinstance(part, ast.Dict):
            names = [k.value for k in part.keys if isinstance(k, ast.Constant)]
            yield from (str(name).removeprefix("--") for name in names)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield from WORD.findall(part.value)
        elif isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store):
            yield str(getattr(part.slice, "value", ""))


def can_fail(node: ast.AST) -> bool:
    names = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return any(isinstance(n, ast.Assert) for n in ast.walk(node)) or "raises" in names


def used(tree: ast.Module, test: ast.FunctionDef) -> list[ast.AST]:
    """The test, and what it names of its file, and what that names."""
    defined: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
            defined |= {n.id: node for n in targets if isinstance(n.ctx, ast.Store)}
    known: list[ast.AST] = []
    new = [test.name]
    while new:
        name = new.pop()
        if name in defined:
            known.append(part := defined.pop(name))
            new += [n.id for n in ast.walk(part) if isinstance(n, ast.Name)]
            new += [n.arg for n in ast.walk(part) if isinstance(n, ast.arg)]  # fixtures
    return known


def exercised() -> set[str]:
    found: set[str] = set()
    for path in sorted(TESTS.glob("*/test_*.py")):
        if path.name != Path(__file__).name:
            tree = ast.parse(path.read_text())
            tests = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
            for test in (t for t in tests if t.name.startswith("test_")):
                parts = used(tree, test)
                if any(can_fail(part) for part in parts):
                    found.update(name for part in parts for name in given(part))
    return found


def test_every_setting_is_given_a_value_by_a_test_that_can_fail() -> None:
    assert sorted(SETTINGS - exercised()) == []


def test_a_name_that_is_only_mentioned_does_not_count() -> None:
    tree = ast.parse(
        'def test_x():\n    """rank=?"""\n    assert plan(alpha=1).rank == 2  # drop=1'
    )
    (test,) = tree.body
    assert isinstance(test, ast.FunctionDef)
    assert set(given(test)) == {"alpha"}
