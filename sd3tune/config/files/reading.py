"""Reading what users write: JSON and env files, `key=value` words. Syntax only, no meaning.

Every complaint names the file and, for JSON, line and column.
"""

import json
import os
import re
import shlex
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from sd3tune.config.complaints import COMMAND_LINE, shown, sound
from sd3tune.config.files.placeholders import looks_secret
from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening

# $NAME and ${NAME}; with no group: a substitution that only a shell can do.
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*)|[({])|`")
ESCAPED = re.compile(r"\\([$`\"\\])|" + VARIABLE.pattern)
TOKEN = re.compile(
    r"""'(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<comment>(?<=\s)\#.*)
    | \\(?P<escaped>.) | (?P<space>\s+) | (?P<plain>[^\s'"\\\#]+|\#)""",
    re.VERBOSE,
)
ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)

# Variables that libraries read when they start: a setting cannot carry them.
OF_THE_ENVIRONMENT = ("HF_", "HUGGING_FACE_", "CUDA_", "HIP_", "HIPBLASLT_", "ROCR_", "PYTORCH_")
JSON_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false"}

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
    "ACCELERATE_CONFIG_PATH": "accelerate_config",
    "USE_XFORMERS": "enable_xformers_memory_efficient_attention",
    "USE_BITFIT": "layer_freeze_strategy",
}


def read_text(path: Path, what: str) -> str:
    try:
        text = opening.text(path, "utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"no such {what}: `{path}`",
            hint="`sd3tune demo DIR` writes a working example of every file",
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"`{path}` is a folder, a {what} is needed", hint=f"give the file inside `{path}`"
        ) from None
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"`{path}` is not UTF-8 at byte {e.start}", hint="save it as UTF-8"
        ) from None
    except OSError as e:
        raise ConfigError(
            f"`{path}` cannot be read: {e.strerror or e}", hint="check the file and its permissions"
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
        line = " ".join(text.split("\n")[e.lineno - 1].split())
        raise ConfigError(
            f"`{path}:{e.lineno}:{e.colno}` is not JSON: {e.msg}, at `{line[:60]}`",
            hint="JSON has double quotes, no comments, and no comma after the last entry",
        ) from None
    except ValueError:  # Python's limit on the digits of a number
        raise ConfigError(f"`{path}` holds a number that is too long", hint="shorten it") from None
    except RecursionError:
        raise ConfigError(f"`{path}` is nested too deeply", hint="flatten it") from None
    if not isinstance(data, kind):
        held = JSON_NAMES.get(type(data), "a number or null")
        wanted = "an object { }" if kind is dict else "a list [ ]"
        raise ConfigError(
            f"`{path}` must hold {wanted}, it holds {held}",
            hint="`sd3tune demo DIR` writes a working example of every file",
        )
    return data


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"`{path}` sets `{shown(name)}` twice", hint="remove one of the two")
        found[name] = value
    return found


def without_dashes(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Keys may be written `key` or `--key`; both at once is an error."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        plain = name.removeprefix("--").replace("-", "_")
        if not plain.isidentifier():
            raise ConfigError(
                f"`{path}`: `{shown(name)}` is not the name of a setting",
                hint="names are letters, digits and underscores; JSON has no comments",
            )
        if plain in found:
            raise ConfigError(
                f"`{path}` sets `{plain}` twice, with and without dashes",
                hint="remove one of the two",
            )
        found[plain] = value
    return found


def absolute_path(text: str, folder: Path, where: str, name: str) -> Path:
    """`text` from `folder` on; `~` is the home folder. Raises ConfigError for what is no path."""
    try:
        path = (folder / Path(text).expanduser()).absolute()
    except RuntimeError:
        raise ConfigError(
            f"{where}: `{name}={shown(text)}`: no such home folder", hint="write the path in full"
        ) from None
    if "\0" in text or len(str(path)) > 4000 or any(len(os.fsencode(p)) > 255 for p in path.parts):
        raise ConfigError(
            f"{where}: `{name}={shown(text)}` cannot be a path".replace("\0", "?"),
            hint="parts of a path are 1 to 255 bytes, and none of them is zero",
        )
    return path


def words_to_settings(words: Iterable[str], texts: Container[str] = ()) -> dict[str, Any]:
    """`key=value` and `--key=value` words of a command line. A value that reads as JSON is JSON,
    unless its name is one of `texts`: a revision `7e10` is no number."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        sound(word, COMMAND_LINE)
        if not equals or not name.isidentifier():
            raise ConfigError(
                f"`{shown(word)}` is not KEY=VALUE", hint="write settings as learning_rate=1e-4"
            )
        value = literal(text)
        kept = name not in texts or value is None or isinstance(value, str)
        found[name] = value if kept else text
    return found


def literal(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def read_env(path: Path, texts: Container[str] = ()) -> dict[str, Any]:
    """A `config.env`: `export K=V`, `K+=V`, quotes, comments, `$V` and `${V}` of earlier lines or
    of the environment. TRAINER_EXTRA_ARGS is split as a shell would. A variable that is no setting
    is fine when a later line uses it."""
    values: dict[str, str] = {}
    used: set[str] = set()
    for number, line in enumerate(read_text(path, "configuration file").split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = ASSIGNMENT.fullmatch(stripped)
        where = f"`{path}:{number}`"
        if match is None:
            raise ConfigError(
                f"{where} is not an assignment: `{shown(stripped)}`", hint="write export NAME=value"
            )
        name, plus, raw = match.groups()
        value = _shell_value(raw, name, values, used, where)
        values[name] = values.get(name, "") + value if plus else value
    extra = values.pop("TRAINER_EXTRA_ARGS", "")
    return _variables(values, used, path, texts) | _arguments(extra, path, texts)


def _variables(
    values: Mapping[str, str], used: set[str], path: Path, texts: Container[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, text in values.items():
        if variable.startswith(OF_THE_ENVIRONMENT):
            raise ConfigError(
                f"`{path}`: {variable} is read from the environment, not from this file",
                hint=f"export {variable} in the shell that starts sd3tune",
            )
        if text == "" or variable in used:
            continue
        name = RENAMED.get(variable, variable.lower())
        if name in found:
            raise ConfigError(
                f"`{path}`: two variables set `{name}`, the second is {variable}",
                hint="remove one of the two",
            )
        found |= words_to_settings([f"{name}={text}"], texts)
        if variable == "USE_BITFIT" and found[name] is True:
            found[name] = "bitfit"
    return found


def _shell_value(
    raw: str, variable: str, values: Mapping[str, str], used: set[str], where: str
) -> str:
    """The right side of an assignment as bash reads it; unquoted blanks become one."""

    def known(m: "re.Match[str]") -> str:
        name = m.group(m.lastindex) if m.lastindex else None
        if name is None:
            raise ConfigError(
                f"{where}: only $NAME and ${{NAME}} are filled in, not `{shown(raw)}`",
                hint="write the value itself, or put it between single quotes",
            )
        used.add(name)
        if name not in values and name in os.environ and looks_secret(name):
            raise ConfigError(
                f"{where}: {variable} uses ${name}, which looks like a secret: a configuration "
                "file takes none out of the environment",
                hint="leave it out: what needs a secret reads the environment itself",
            )
        return values.get(name, os.environ.get(name, ""))

    def unescaped(m: "re.Match[str]") -> str:
        return m.group(1) if m.group(1) is not None else known(m)

    out: list[str] = []
    at = 0
    while at < len(raw):
        match = TOKEN.match(raw, at)
        if match is None:
            raise ConfigError(
                f"{where}: no closing quotation, or a backslash at the end: `{shown(raw)}`",
                hint="close the quotes on the same line",
            )
        kind, text = str(match.lastgroup), match.group(str(match.lastgroup))
        if kind == "plain":
            text = VARIABLE.sub(known, text)
        elif kind == "double":
            text = ESCAPED.sub(unescaped, text)
        at = match.end()
        if kind == "comment":
            del out[-1:]  # the blank before it, where there is a value at all
        elif kind != "space" or out:
            out.append(" " if kind == "space" else text)
    return "".join(out)


def _arguments(text: str, path: Path, texts: Container[str]) -> dict[str, Any]:
    """`--key=value`, `--key value` and `--switch`."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise ConfigError(
            f"`{path}`: TRAINER_EXTRA_ARGS has an open quote: `{shown(text)}`",
            hint="close it",
        ) from None
    joined: list[str] = []
    for word in words:
        if joined and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        elif word.startswith("--"):
            joined.append(word)
        else:
            raise ConfigError(
                f"`{path}`: TRAINER_EXTRA_ARGS: `{shown(word)}` belongs to no --setting",
                hint="write --name=value",
            )
    return words_to_settings((w if "=" in w else f"{w}=true" for w in joined), texts)


def project_folder(config: Path) -> Path:
    """Where relative paths of a configuration file start: the parent of the `config` folder it
    lies in (at any depth), or the working directory."""
    for folder in config.absolute().parents:
        if folder.name == "config":
            return folder.parent
    return Path.cwd()
