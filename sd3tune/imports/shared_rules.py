"""Rules that several trainers share: numbers, optimizers with their defaults, schedules, models."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sd3tune.config.other_values import VALUES_ELSEWHERE
from sd3tune.errors import ConfigError
from sd3tune.imports.translation import Translation
from sd3tune.tables.optimizers import OPTIMIZERS

# Defaults of the optimizer classes that the trainers build where a file says nothing: torch's,
# bitsandbytes', lion-pytorch's and prodigyopt's documentation.
ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
CLASS_DEFAULTS: Mapping[str, dict[str, float]] = {
    "adamw": ADAMW,
    "bnb-adamw8bit": ADAMW,
    "bnb-adamw8bit-paged": ADAMW,
    "bnb-adamw-paged": ADAMW,
    "torch-adam": ADAMW | {"weight_decay": 0.0},
    "bnb-adam8bit": ADAMW | {"weight_decay": 0.0},
    "optimi-lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
    "bnb-lion8bit": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
    "torch-sgd": {"weight_decay": 0.0},
    "torch-rmsprop": {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0},
    "prodigy": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "d_coef": 1.0},
}

# The linear layers of a block of SD3, as diffusers names them.
ATTENTION = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
MODULATION = ("norm1.linear", "norm1_context.linear")


def layers(*, every: bool = False) -> list[str]:
    """Attention and feed-forward; with `every` the modulation of the block too."""
    return [*ATTENTION, *FEED_FORWARD, *(MODULATION if every else ())]


def number(value: Any, key: str, where: str) -> float:
    """A finite number. Raises ConfigError."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise ConfigError(
            f"{where}: `{key}={str(value)[:80]}` is not a number", hint="write a number there"
        )
    return found


def whole(value: Any, key: str, where: str) -> int:
    """A whole number, 0 or more. Raises ConfigError."""
    found = number(value, key, where)
    if found != int(found) or not 0 <= found < 2**63:
        raise ConfigError(
            f"{where}: `{key}={str(value)[:80]}` is not a whole number", hint="write 0 or more"
        )
    return int(found)


def flag(value: Any) -> bool:
    """Whether a switch is on: true, "true", "True", 1."""
    return str(value).strip().lower() in ("true", "1", "yes", "on")


def optimizer(
    t: Translation,
    key: str,
    word: Any,
    options: Mapping[str, Any],
    own: dict[str, float] | None = None,
) -> str:
    """Sets our optimizer with the options that theirs has: those written, the trainer's `own`
    defaults, and the defaults of their class. options: theirs, by torch's names. Returns our
    name."""
    ours = VALUES_ELSEWHERE["optimizer"].get(str(word).strip().lower())
    if str(word).strip().lower() in OPTIMIZERS:
        ours = str(word).strip().lower()
    if ours is None:
        t.drop(key, word, "is not an optimizer that sd3tune knows; adamw is used")
        ours = "adamw"
    elif key == "":
        t.choose("the other program's default", optimizer=ours)
    else:
        t.map(key, word, optimizer=ours)
    t.config["optimizer"] = ours
    known = OPTIMIZERS[ours].option_names
    defaults = {k: v for k, v in (CLASS_DEFAULTS.get(ours, {}) | (own or {})).items() if k in known}
    written = {k: v for k, v in options.items() if k in known and v is not None}
    for name in options.keys() - written.keys():
        if options[name] is not None:
            t.drop(name, options[name], f"{ours} has no such option")
    _set_options(t, defaults | written, written)
    return ours


def _set_options(t: Translation, values: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    values = dict(values)
    for name in ("beta1", "beta2"):
        if name in values:
            _say(t, name, f"optimizer_{name}", values.pop(name), name in written)
    if values:
        text = ",".join(f"{k}={_word(v)}" for k, v in values.items())
        _say(t, ", ".join(values), "optimizer_config", text, bool(values.keys() & written.keys()))


def _say(t: Translation, theirs: str, ours: str, value: Any, is_written: bool) -> None:
    if is_written:
        t.map(f"optimizer option {theirs}", value, **{ours: value})
    else:
        t.choose("the default of their optimizer", **{ours: value})


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def options_of(words: Any) -> dict[str, Any]:
    """["weight_decay=0.1", "betas=0.9,0.99"] as {"weight_decay": 0.1, "beta1": 0.9, ...}."""
    listed = words.split() if isinstance(words, str) else words
    found: dict[str, Any] = {}
    for word in listed if isinstance(listed, Iterable) else ():
        name, _, text = str(word).partition("=")
        if name == "betas":
            numbers = [n.strip() for n in text.strip("()[] ").split(",")]
            found |= {f"beta{i}": _literal(n) for i, n in enumerate(numbers[:3], 1)}
        else:
            found[name] = _literal(text)
    return found


def _literal(text: str) -> Any:
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def warm_up(t: Translation, key: str, value: Any, steps: int | None, where: str) -> None:
    """lr_warmup_steps from steps, or from a share of the run below 1."""
    count = number(value, key, where)
    if 0 < count < 1:
        if steps is None:
            t.drop(key, value, "is a share of the run, whose number of steps is not known; write "
                   "lr_warmup_steps")  # fmt: skip
            return
        count = count * steps
    t.map(key, value, lr_warmup_steps=round(count))


def scheduler(t: Translation, key: str, word: Any, warm: bool) -> None:
    """lr_scheduler. warm: there is a warm-up, which `constant` has not."""
    small = str(word).strip().lower()
    names = VALUES_ELSEWHERE["lr_scheduler"]
    ours = names.get(small, small)
    exact = {
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts",
        "polynomial",
    }  # fmt: skip
    if ours not in exact:
        t.drop(key, word, "is not a schedule that sd3tune has; constant is used")
        ours = "constant"
    if ours == "constant" and warm:
        ours = "constant_with_warmup"
    if key:
        t.map(key, word, lr_scheduler=ours)
    else:
        t.choose("the other program's default", lr_scheduler=ours)
    if ours == "polynomial":
        t.config.setdefault("lr_power", 1.0)
        t.config.setdefault("lr_end", 1e-7)


def path_of(text: Any, folder: Path) -> str:
    """A path of theirs as ours: absolute where it exists from the file's folder or from here, also
    where it is written as on Windows."""
    written = str(text).replace("\0", "?")
    here = [(start, name) for name in dict.fromkeys((written, written.replace("\\", "/")))
            for start in (folder, Path.cwd())]  # fmt: skip
    for start, name in here:
        try:
            found = (start / Path(name).expanduser()).absolute()
            if found.exists():
                return str(found)
        except (OSError, RuntimeError, ValueError):
            continue
    return written


def model(t: Translation, key: str, value: Any, folder: Path) -> None:
    """pretrained_model_name_or_path: a path that exists, or as it is written."""
    if value and re.search(r"[$%]\w", str(value)):
        t.drop(key, value, "is a variable that the file does not set: write the model yourself")
    elif value:
        t.map(key, value, pretrained_model_name_or_path=path_of(value, folder))


def results_folder(t: Translation, keys: str) -> None:
    """output_dir: below the imported project, so that files of the other program stay."""
    for key in keys.split():
        if (value := t.take(key)) is not None:
            reason = "results of sd3tune go to output_dir=output beside the imported configuration"
            t.drop(key, value, reason)
    t.choose("below the imported configuration", output_dir="output")
