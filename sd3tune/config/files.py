"""Reading what users write: JSON and env files, `key=value` words. Syntax only, no meaning.

Every complaint names the file and, for JSON, line and column.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sd3tune.errors import ConfigError

PLACEHOLDER = re.compile(r"\{env:([^}]+)\}")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)

# Variables of config.env whose setting is not their lower-case name.
RENAMED = {
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "DATALOADER_CONFIG": "data_backend_config",
    "TRAINING_SEED": "seed",
    "MINIMUM_RESOLUTION": "minimum_image_size",
    "PUSH_CHECKPOINTS": "push_checkpoints_to_hub",
    "MAX_NUM_STEPS": "max_train_steps",
    "NUM_EPOCHS": "num_train_epochs",
    "CHECKPOINTING_STEPS": "checkpoint_step_interval",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "HUB_MODEL_NAME": "hub_model_id",
    "MODEL_NAME": "pretrained_model_name_or_path",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
    "VALIDATION_STEPS": "validation_step_interval",
    "LR_SCHEDULE": "lr_scheduler",
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_NUM_MACHINES": "num_machines",
    "TRAINER_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend",
}


def read_text(path: Path, what: str) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"no such {what}: `{path}`",
            hint="`sd3tune demo DIR` writes a working example of every file",
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"`{path}` is a folder, a {what} is needed", hint=f"give `{path}/config.json`"
        ) from None
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"`{path}` is not UTF-8 at byte {e.start}", hint="save it as UTF-8"
        ) from None
    except OSError as e:
        raise ConfigError(
            f"`{path}` cannot be read: {e.strerror}", hint="check its permissions"
        ) from None
    if not text.strip():
        raise ConfigError(
            f"`{path}` is empty", hint="`sd3tune demo DIR` writes a working example of every file"
        )
    return text


def read_json(path: Path, kind: type, what: str) -> Any:
    """The document at `path`, which must be a `kind` (dict or list). Raises ConfigError."""
    text = read_text(path, what)
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except json.JSONDecodeError as e:
        line = text.splitlines()[e.lineno - 1].strip() if text.splitlines()[e.lineno - 1 :] else ""
        raise ConfigError(
            f"`{path}:{e.lineno}:{e.colno}` is not JSON: {e.msg}, at `{line[:60]}`",
            hint="JSON has double quotes, no comments, and no comma after the last entry",
        ) from None
    except RecursionError:
        raise ConfigError(f"`{path}` is nested too deeply", hint="flatten it") from None
    if not isinstance(data, kind):
        wanted = "an object { }" if kind is dict else "a list [ ]"
        raise ConfigError(
            f"`{path}` must hold {wanted}, it holds a {type(data).__name__}",
            hint="`sd3tune demo DIR` writes a working example of every file",
        )
    return data


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"`{path}` sets `{name}` twice", hint="remove one of the two")
        found[name] = value
    return found


def without_dashes(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Keys may be written `key` or `--key`; both at once is an error."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        plain = name.removeprefix("--").replace("-", "_")
        if plain in found:
            raise ConfigError(
                f"`{path}` sets `{plain}` twice, with and without dashes",
                hint="remove one of the two",
            )
        found[plain] = value
    return found


def fill_in(value: Any, path: Path, words: Mapping[str, str]) -> Any:
    """`{env:NAME}` and the placeholders in `words`, inside strings at any depth."""
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace("{" + name + "}", word)
        return PLACEHOLDER.sub(lambda m: _environment(m.group(1), path), value)
    if isinstance(value, list):
        return [fill_in(v, path, words) for v in value]
    if isinstance(value, dict):
        return {k: fill_in(v, path, words) for k, v in value.items()}
    return value


def _environment(name: str, path: Path) -> str:
    if name not in os.environ:
        raise ConfigError(
            f"`{path}` uses {{env:{name}}}, and {name} is not set", hint=f"export {name}=…"
        )
    return os.environ[name]


def words_to_settings(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` and `--key=value` words of a command line. A value that reads as JSON is JSON."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not equals or not name.isidentifier():
            raise ConfigError(
                f"`{word}` is not KEY=VALUE", hint="write settings as learning_rate=1e-4"
            )
        found[name] = literal(text)
    return found


def literal(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def read_env(path: Path) -> dict[str, Any]:
    """A `config.env`: `export K=V`, `K+=V`, quotes, comments, `$V` and `${V}` of earlier lines or
    of the environment. TRAINER_EXTRA_ARGS is split as a shell would."""
    values: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "configuration file").splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = ASSIGNMENT.fullmatch(stripped)
        if match is None:
            raise ConfigError(
                f"`{path}:{number}` is not an assignment: `{stripped[:60]}`",
                hint="write export NAME=value",
            )
        name, plus, raw = match.groups()
        value = _shell_value(raw, values, path, number)
        values[name] = values.get(name, "") + value if plus else value
    extra = values.pop("TRAINER_EXTRA_ARGS", "")
    found = {RENAMED.get(n, n.lower()): literal(v) for n, v in values.items() if v != ""}
    return found | _arguments(extra)


def _shell_value(raw: str, values: Mapping[str, str], path: Path, number: int) -> str:
    def known(m: "re.Match[str]") -> str:
        name = m.group(1) or m.group(2)
        return values.get(name, os.environ.get(name, ""))

    try:
        lexer = shlex.shlex(raw if raw.startswith("'") else VARIABLE.sub(known, raw), posix=True)
        lexer.whitespace_split = True
        return " ".join(lexer)
    except ValueError as e:
        raise ConfigError(f"`{path}:{number}`: {str(e).lower()}", hint="close the quotes") from None


def _arguments(text: str) -> dict[str, Any]:
    return words_to_settings(w if "=" in w else f"{w}=true" for w in shlex.split(text))


def project_folder(config: Path) -> Path:
    """Where relative paths of a configuration file start: the parent of the `config` folder it
    lies in (at any depth), or the working directory."""
    for folder in config.absolute().parents:
        if folder.name == "config":
            return folder.parent
    return Path.cwd()
