"""Reading a `config.env` as bash would, without running anything.

Every problem names the file and its line. Nothing of the environment that looks like a secret goes
into a setting.
"""

import os
import re
import shlex
from collections.abc import Container, Mapping
from pathlib import Path

from sd3tune.config.files.placeholders import looks_secret
from sd3tune.config.files.reading import add_word, read_text
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.problems import Problems, shown
from sd3tune.errors import ConfigError, ErrorAndHint

# $NAME and ${NAME}; with no group: a substitution that only a shell can do.
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*)|[({])|`")
ESCAPED = re.compile(r"\\([$`\"\\])|" + VARIABLE.pattern)
TOKEN = re.compile(
    r"""'(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<comment>(?<=\s)\#.*)
    | \\(?P<escaped>.) | (?P<space>\s+) | (?P<plain>[^\s'"\\\#]+|\#)""",
    re.VERBOSE,
)
EXPORT = re.compile(r"export(?:\s+[A-Za-z_]\w*)+")  # sets no value
ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)

# Variables that libraries read when they start: a setting cannot carry them.
OF_THE_ENVIRONMENT = ("HF_", "HUGGING_FACE_", "CUDA_", "HIP_", "HIPBLASLT_", "ROCR_", "PYTORCH_")
# Variables that hold `--key=value` words.
EXTRA_ARGUMENTS = ("TRAINER_EXTRA_ARGS", "DEBUG_EXTRA_ARGS")
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
    "MIN_SNR_GAMMA": "snr_gamma",
}


def read_env(path: Path, problems: Problems, texts: Container[str] = ()) -> WrittenSettings:
    """A `config.env`: `export K=V`, `K+=V`, quotes, comments, `$V` and `${V}` of earlier lines or
    of the environment. EXTRA_ARGUMENTS are split as a shell would. A variable that is not a
    setting is fine when a later line uses it. Raises ConfigError where the file cannot be read."""
    values: dict[str, str] = {}
    used: set[str] = set()
    for number, line in enumerate(read_text(path, "configuration file").split("\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#") and not EXPORT.fullmatch(stripped):
            with problems.collecting(f"line {number}"):
                _assign(stripped, values, used, f"`{path}:{number}`")
    extra = {name: values.pop(name) for name in EXTRA_ARGUMENTS if name in values}
    written = WrittenSettings(str(path))
    _variables(written, values, used, problems, texts)
    for name, text in extra.items():
        with problems.collecting(name):
            for word in _arguments(text, path, name):
                add_word(written, word, texts)
    return written


def _assign(line: str, values: dict[str, str], used: set[str], where: str) -> None:
    """used: gets the variables that the value refers to."""
    match = ASSIGNMENT.fullmatch(line)
    if match is None:
        raise ConfigError(
            f"{where} is not an assignment: `{shown(line)}`", hint="write export NAME=value"
        )
    name, plus, raw = match.groups()
    value = _shell_value(raw, name, values, used, where)
    values[name] = values.get(name, "") + value if plus else value


def _variables(
    written: WrittenSettings,
    values: Mapping[str, str],
    used: set[str],
    problems: Problems,
    texts: Container[str],
) -> None:
    for variable, text in values.items():
        name = RENAMED.get(variable, variable.lower())
        if variable.startswith(OF_THE_ENVIRONMENT):
            what = f"{written.where}: {variable} is read from the environment, not from this file"
            hint = f"export {variable} in the shell that starts sd3tune"
            problems.add(ErrorAndHint(what, hint), variable)
        elif text == "" or variable in used:
            continue
        elif name in written.values:
            what = f"{written.where}: two variables set `{name}`, the second is {variable}"
            problems.add(ErrorAndHint(what, "remove one of the two"), name)
        else:
            with problems.collecting(name):
                add_word(written, f"{name}={text}", texts, variable)
            if variable == "USE_BITFIT" and written.values.get(name) is True:
                written.set(name, "bitfit", variable)


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
                "file may not read secrets from the environment",
                hint="leave it out: libraries that need a secret read the environment themselves",
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


def _arguments(text: str, path: Path, variable: str) -> list[str]:
    """`--key=value`, `--key value` and `--switch`, each as one `--key=value`."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise ConfigError(
            f"`{path}`: {variable} has an open quote: `{shown(text)}`",
            hint="close the quote",
        ) from None
    joined: list[str] = []
    for word in words:
        if joined and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        elif word.startswith("--"):
            joined.append(word)
        else:
            raise ConfigError(
                f"`{path}`: {variable}: `{shown(word)}` belongs to no --setting",
                hint="write --name=value",
            )
    return [w if "=" in w else f"{w}=true" for w in joined]
