"""What the user asks for: one typed table, read once at the edge and never changed.

A field's docstring is its help and its documentation. None means "decide for me", and so does the
word "auto" in a file; plan/resolve.py decides and says why. Unknown names are errors.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from sd3tune.config import checks
from sd3tune.config.complaints import COMMAND_LINE, refusal, refuse_unknown, shown
from sd3tune.config.files.placeholders import Allowed, fill_in
from sd3tune.config.files.reading import (
    absolute_path,
    project_folder,
    read_env,
    read_json,
    without_dashes,
    words_to_settings,
)
from sd3tune.config.names import ALIASES, INVERTED, SPELLINGS, notes_on
from sd3tune.config.settings.adapter import AdapterSettings
from sd3tune.config.settings.checkpoints import CheckpointSettings
from sd3tune.config.settings.data import DataSettings
from sd3tune.config.settings.ema import EmaSettings
from sd3tune.config.settings.flow import FlowSettings
from sd3tune.config.settings.folders import PlaceSettings
from sd3tune.config.settings.guard import GuardSettings
from sd3tune.config.settings.hardware import HardwareSettings
from sd3tune.config.settings.length import LengthSettings
from sd3tune.config.settings.model import ModelSettings
from sd3tune.config.settings.optimisation import OptimisationSettings
from sd3tune.config.settings.processes import ProcessSettings
from sd3tune.config.settings.rollout import RolloutSettings
from sd3tune.config.settings.text import TextSettings
from sd3tune.config.settings.validation import ValidationSettings
from sd3tune.decision import AUTO, DEFAULT, Provenance
from sd3tune.errors import ConfigError
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.tables.architectures import DEFAULT as DEFAULT_MODEL

# What may stand where a path may.
WORDS = {"resume_from_checkpoint": ("latest", "never"), "cache_dir_quantised": ("none",)}
LENGTHS = ("max_train_steps", "num_train_epochs")
MODELS = ("pretrained_model_name_or_path", "pretrained_transformer_model_name_or_path")
PATHS = (
    "output_dir", "data_backend_config", "user_prompt_library", "lycoris_config",
    "cache_dir_quantised", "init_lora",
)  # fmt: skip

# No setting here is a credential. What names models is sent to the hub, unless it is a folder.
ENVIRONMENT = Allowed(
    either=MODELS, others=True, sent=("revision", "variant", "pretrained_transformer_subfolder")
)


class Config(
    # Sections of the table, last to first: pydantic lists the fields of the last base first.
    ValidationSettings,
    ProcessSettings,
    CheckpointSettings,
    EmaSettings,
    TextSettings,
    GuardSettings,
    RolloutSettings,
    FlowSettings,
    AdapterSettings,
    HardwareSettings,
    OptimisationSettings,
    LengthSettings,
    DataSettings,
    PlaceSettings,
    ModelSettings,
):
    """config/config.json."""

    _notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Keys of the file that say nothing here."""
        return self._notes

    def source(self, name: str) -> Provenance:
        """Who chose the value of a setting: the user, or its default (None: nobody yet)."""
        if name in self.model_fields_set and getattr(self, name) is not None:
            return Provenance("user", None, name)
        return DEFAULT if getattr(self, name) is not None else AUTO

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """optimizer_config, the betas and prodigy_steps as the user set them."""
        own = {"beta1": self.optimizer_beta1, "beta2": self.optimizer_beta2}
        own["prodigy_steps"] = self.prodigy_steps
        said = {name: value for name, value in own.items() if value is not None}
        return checks.optimizer_options(self.optimizer_config) | said

    @model_validator(mode="after")
    def fits_together(self) -> "Config":
        checks.cross(self)
        return self

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "Config":
        """A file and the command line's `key=value` words. Raises ConfigError."""
        absolute_path(str(path), Path.cwd(), COMMAND_LINE, "CONFIG")  # refuses what is no path
        path = path.expanduser()
        if path.is_dir():
            inside = [path / name for name in ("config.json", "config.env", "config/config.json")]
            path = next((p for p in inside if p.is_file()), path)
        env = path.suffix == ".env"
        data = read_env(path, TEXTS) if env else read_json(path, dict, "configuration file")
        where = f"`{path}`"
        data = renamed(without_dashes(data, path), where)
        data = renamed(fill_in(data, where, {}, ENVIRONMENT), where)  # values have old names too
        said = renamed(words_to_settings(overrides, TEXTS), COMMAND_LINE)
        for one, other in (LENGTHS, LENGTHS[::-1]):
            if said.get(one) and other not in said:
                data.pop(other, None)  # the file's way of saying how long is overridden too
        values = {k: v for k, v in (data | said).items() if not left_open(k, v)}
        if values.get("lr_scheduler") == "constant" and values.get("lr_warmup_steps", 0) != 0:
            values["lr_scheduler"] = "constant_with_warmup"  # as the reference reads it
        notes = notes_on(values)
        made = cls._made(refuse_unknown(values, cls, path, said), path, said)
        made._notes = tuple(notes)
        return made

    @classmethod
    def _made(cls, values: dict[str, Any], path: Path, said: dict[str, Any]) -> "Config":
        beside = path.absolute().parent / "multidatabackend.json"
        values.setdefault("data_backend_config", str(beside))
        if values.get("lora_type") == "lycoris":
            place = path.absolute().parent / "lycoris_config.json"
            values.setdefault("lycoris_config", str(place))
        flavour = values.get("model_flavour")
        if "pretrained_model_name_or_path" not in values:
            row = ARCHITECTURES.get(flavour or "", DEFAULT_MODEL)  # a wrong name is refused below
            values["pretrained_model_name_or_path"] = row.repository
        for name in (*PATHS, *MODELS, "resume_from_checkpoint"):
            if isinstance(values.get(name), str):
                by_hand = name in said
                folder = Path.cwd() if by_hand else project_folder(path)
                where = COMMAND_LINE if by_hand else f"`{path}`"
                values[name] = placed(name, values[name], folder, where)
        try:
            return cls.model_validate(values)
        except ValidationError as e:
            raise refusal(e, cls, path, said, values) from None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.model_dump_json())
        return data


# Settings that hold words: whatever is written for them is text, and "" leaves them out.
TEXTS = frozenset(
    name
    for name, field in Config.model_fields.items()
    if field.annotation in (str, str | None, Path, Path | None) or name in PATHS
)
PROMPTS = ("validation_prompt", "validation_negative_prompt")


def left_open(name: str, value: Any) -> bool:
    """null, and the word `auto` outside prompts: decide for me."""
    if value == "":
        return name in TEXTS
    return value is None or (value == "auto" and name not in PROMPTS)


def renamed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Old names and spellings as today's. Two names of one setting are an error."""
    found: dict[str, Any] = {}
    for old, value in values.items():
        name = ALIASES.get(old, old)
        if old in INVERTED and (turned := _inverted(value)) is not None:
            name, value = INVERTED[old], turned
        if name in found:
            raise ConfigError(
                f"{where}: `{old}={shown(value)}` sets `{name}` a second time",
                hint="remove one of the two",
            )
        spellings = SPELLINGS.get(name, {})
        found[name] = spellings.get(value, value) if isinstance(value, str) else value
    return found


def _inverted(value: Any) -> bool | None:
    try:
        return not checks.flag(value)
    except ValueError:
        return None


def placed(name: str, text: str, folder: Path, where: str) -> str:
    """A path of the file, absolute. A model may also be a repository: only what exists, or looks
    like a path, is one."""
    if text in WORDS.get(name, ()):
        return text
    path = absolute_path(text, folder, where, name)
    looks_local = text.startswith((".", "/", "~")) or path.exists()
    return text if name in MODELS and not looks_local else str(path)
