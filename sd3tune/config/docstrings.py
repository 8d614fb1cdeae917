"""The docstrings of settings, read when a document or an error shows them: pydantic would read
every one of them at each start (0.1 to 0.2 s)."""

import ast
import inspect
from functools import cache
from textwrap import dedent


def docstring(kind: type, setting: str) -> str:
    """The string below a setting in the class that declares it, on one line; empty where there is
    none."""
    for base in kind.__mro__:
        if setting in inspect.get_annotations(base):
            return " ".join(_docstrings(base).get(setting, "").split())
    return ""


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """Setting -> docstring, of those that this very class declares."""
    try:
        (declared,) = ast.parse(dedent(inspect.getsource(kind))).body
    except (OSError, SyntaxError, ValueError):  # a class without a file
        return {}
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for before, after in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            match after:
                case ast.Expr(ast.Constant(str(text))):
                    found[before.target.id] = text
    return found
