"""Reading a configuration of another program in JSON, TOML or YAML, or as a command line.

The content decides, not the name. Nothing of the file is executed, and none of its tags builds an
object. A file that is too large, too deeply nested or made to grow is refused.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sd3tune.config.files.reading import read_text
from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening
from sd3tune.imports import command_line

Syntax = Literal["json", "toml", "yaml", "command"]
MAX_BYTES = 4 * 2**20  # a workflow of ComfyUI has some hundred kilobytes
MAX_DEPTH = 60
MAX_NODES = 200_000
MAX_ALIASES = 100  # of YAML: each may stand for a whole branch
FORMATS = "JSON, TOML, YAML and command lines are read"


@dataclass(frozen=True)
class Document:
    """The content of a file. data: an object or a list, or a command_line.Command."""

    path: Path
    syntax: Syntax
    data: Any

    @property
    def where(self) -> str:
        """As problems name it."""
        return f"`{self.path}`"

    @property
    def folder(self) -> Path:
        """Where its relative paths may start."""
        return self.path.absolute().parent


def read(path: Path) -> Document:
    """The document in a file. Raises ConfigError for a file that is none."""
    _refuse_large(path)
    text = read_text(path, "configuration of another program")
    if "\0" in text:
        raise ConfigError(f"`{path}` is not a text file: it has null characters", hint=f"{FORMATS}")
    found = _parsed(path, text)
    _refuse_deep(path, found.data)
    return found


def _refuse_large(path: Path) -> None:
    try:
        size = opening.size(path)
    except OSError:
        return  # read_text says what is wrong
    if size > MAX_BYTES:
        raise ConfigError(
            f"`{path}` has {size:,} bytes, more than any configuration",
            hint=f"files up to {MAX_BYTES:,} bytes are read",
        )


def _parsed(path: Path, text: str) -> Document:
    start = text.lstrip()[:1]
    if start == "{" or (start == "[" and not re.match(r"\[+[\w.\"' -]+\]+\s*(#.*)?$", _line(text))):
        return Document(path, "json", _json(path, text))
    if command_line.looks_like_one(text):
        return Document(path, "command", command_line.read(text, f"`{path}`"))
    try:
        return Document(path, "toml", tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as e:
        toml = str(e) or "it is nested too deeply"
    found, yaml = _yaml(text)
    if isinstance(found, dict | list):
        return Document(path, "yaml", found)
    reason = f"as TOML: {toml}; as YAML: {yaml or 'it is a text, not a table'}"
    raise ConfigError(f"`{path}` cannot be read: {reason}", hint=FORMATS)


def _line(text: str) -> str:
    return text.strip().splitlines()[0].strip()


def _json(path: Path, text: str) -> Any:
    try:
        return opening.parsed(text, unique=True)
    except ValueError as e:
        raise ConfigError(f"`{path}` is not JSON: {e}", hint="correct the file") from None


def _yaml(text: str) -> tuple[Any, str]:
    """The value, or why there is none. Aliases are counted before anything is built of them."""
    import yaml

    try:
        aliases = depth = 0
        for nodes, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if aliases > MAX_ALIASES or depth > MAX_DEPTH or nodes > MAX_NODES:
                return None, "it is nested too deeply or repeats too much"
        return yaml.load(text, Loader=_unique_loader()), ""
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        spot = f"line {mark.line + 1}: " if mark else ""
        return None, spot + str(getattr(e, "problem", None) or e or "it is nested too deeply")


def _unique_loader() -> Any:
    """yaml.SafeLoader, which in addition refuses a key that stands twice in a mapping."""
    import yaml

    class UniqueLoader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in seen and name != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"it has `{name}` twice", key.start_mark
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    return UniqueLoader


def _refuse_deep(path: Path, data: Any) -> None:
    """Refuses what is nested too deeply, what grows through aliases, and what JSON cannot hold."""
    level, nodes = [data], 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            break
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"`{path}` holds the number {value}", hint="write a finite one")
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise ConfigError(f"`{path}` is nested too deeply, or far too large", hint="simplify the file")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, command_line.Command):
        return list(value.options.values())
    return list(value) if isinstance(value, list | tuple) else []
