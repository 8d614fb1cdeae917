"""The settings of a `config.env`: which variable is which setting.

Nothing of the environment that looks like a secret goes into a setting.
"""

import os
import shlex
from collections.abc import Container, Mapping
from pathlib import Path

from sd3tune.config.files.reading import add_word, literal, read_text
from sd3tune.config.files.shell_assignments import Assignments, read_assignments
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.names import ALIASES, INVERTED
from sd3tune.config.problems import Problems, shown
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError, ErrorAndHint

# Variables that libraries read when they start: a setting cannot carry them.
OF_THE_ENVIRONMENT = ("HF_", "HUGGING_FACE_", "CUDA_", "HIP_", "HIPBLASLT_", "ROCR_", "PYTORCH_")
# Variables of SimpleTuner's start script and of libraries, which change nothing here.
WITHOUT_EFFECT = (
    "CONFIG_BACKEND", "CONFIG_TYPE", "CONFIG_PATH", "ENV", "VENV_PATH", "DISABLE_LD_OVERRIDE",
    "TQDM_NCOLS", "TOKENIZERS_PARALLELISM",
)  # fmt: skip
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
    "DELETE_ERRORED_IMAGES": "delete_problematic_images",
    "DELETE_SMALL_IMAGES": "delete_unwanted_images",
}


def read_env(
    path: Path,
    problems: Problems,
    texts: Container[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> WrittenSettings:
    """A `config.env`, read as shell_assignments.py says. EXTRA_ARGUMENTS are split as a shell
    would. A variable that is not a setting is fine when another line uses it. environ: variables
    that the file may use. Raises ConfigError where the file cannot be read."""
    text = read_text(path, "configuration file")
    assigned = read_assignments(text, str(path), environ, problems)
    written = WrittenSettings(str(path), variables=frozenset(assigned.values))
    _variables(written, assigned, problems, texts)
    for name in EXTRA_ARGUMENTS:
        if name in assigned.values:
            with problems.collecting(name):
                for word in arguments(assigned.values[name], f"`{path}`", name):
                    add_word(written, word, texts, line=assigned.lines[name])
    written.notes.extend(
        f"${name} is empty in line {line} of {path}: neither the file nor the environment sets it"
        for name, line in assigned.unset.items()
        if name not in EXTRA_ARGUMENTS
    )
    return written


def _variables(
    written: WrittenSettings,
    assigned: Assignments,
    problems: Problems,
    texts: Container[str],
) -> None:
    for variable, text in assigned.values.items():
        name = RENAMED.get(variable, variable.lower())
        line = assigned.lines[variable]
        if variable in EXTRA_ARGUMENTS or text == "":
            continue
        if variable in assigned.used and not _is_setting(variable):
            continue
        if variable == "PURE_BF16" and assigned.values.get("OPTIMIZER") == "adamw_bf16":
            continue  # an older name for what this optimizer does
        if variable in WITHOUT_EFFECT or variable.startswith("SIMPLETUNER_"):
            written.notes.append(f"{variable} not used: sd3tune does not have it as a setting")
            continue
        if variable.startswith(OF_THE_ENVIRONMENT):
            if assigned.environ.get(variable) != text:
                what = f"{written.where}: {variable} is read from the environment, not from this"
                hint = f"export {variable} in the shell that starts sd3tune"
                problems.add(ErrorAndHint(f"{what} file", hint), variable)
        elif name in written.values and written.values[name] != literal(text):
            what = f"{written.where}: two variables set `{name}`, the second is {variable}"
            problems.add(ErrorAndHint(what, "remove one of the two"), name)
        else:
            with problems.collecting(name):
                add_word(written, f"{name}={text}", texts, variable, line)
            if variable == "USE_BITFIT" and written.values.get(name) is True:
                written.set(name, "bitfit", variable, line)


def _is_setting(variable: str) -> bool:
    name = RENAMED.get(variable, variable.lower())
    return name in AllSettings.model_fields or name in ALIASES or name in INVERTED


def arguments(text: str, where: str, variable: str) -> list[str]:
    """`--key=value`, `--key value` and `--switch`, each as one `--key=value`. where: as
    problems name the place of the variable. Raises ConfigError."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise ConfigError(
            f"{where}: {variable} has an open quote: `{shown(text)}`",
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
                f"{where}: {variable}: `{shown(word)}` belongs to no --setting",
                hint="write --name=value",
            )
    return [w if "=" in w else f"{w}=true" for w in joined]
