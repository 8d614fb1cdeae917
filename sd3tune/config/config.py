"""What the user asks for: one typed table, read once at the edge and never changed.

A setting's docstring is its help and its documentation. None means "decide for me", and so does the
word "auto" in a file; plan/resolve.py decides and says why. Unknown names are errors, and all
problems of a file are reported at once.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from sd3tune.config import rules
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.fields import Flag
from sd3tune.config.files import settings_file
from sd3tune.config.files.local_names import names_a_path
from sd3tune.config.files.placeholders import WEBHOOK_VARIABLE, Allowed
from sd3tune.config.files.reading import absolute_path, project_folder
from sd3tune.config.files.webhooks_file import read_webhooks
from sd3tune.config.inert import is_left_out, notes_on
from sd3tune.config.names import ALIASES, INVERTED, Unsupported
from sd3tune.config.other_trainers import NAMES
from sd3tune.config.other_values import VALUES_ELSEWHERE
from sd3tune.config.problems import ENVIRONMENT as VARIABLES
from sd3tune.config.problems import (
    NOT_FILES,
    Location,
    Problems,
    known_settings,
    shown,
    validated,
)
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.config.settings.webhooks import Webhook
from sd3tune.decision import DEFAULT, Provenance, following
from sd3tune.errors import ConfigError, ErrorAndHint
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.tables.architectures import DEFAULT as DEFAULT_MODEL

# Values of path settings that are not paths.
NOT_PATHS = {"resume_from_checkpoint": ("latest", "never"), "cache_dir_quantised": ("none",)}
MODELS = (
    "pretrained_model_name_or_path", "pretrained_transformer_model_name_or_path",
    "pretrained_evaluation_model_name_or_path",
)  # fmt: skip
# A repository by the address of its page or of a file in it.
HUB_PAGE = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+?)(?:\.git|/(?:tree|blob|resolve)/.*)?/?")
PATHS = (
    "output_dir", "data_backend_config", "user_prompt_library", "lycoris_config",
    "cache_dir_quantised", "init_lora",
)  # fmt: skip

# What names models is sent to the hub, unless it is a folder. Webhooks are sent as they are.
ENVIRONMENT = Allowed(
    either=MODELS,
    others=True,
    sent=(
        "revision", "variant", "pretrained_transformer_subfolder",
        "hub_model_id", "model_card_note", "modelspec_comment",
        *(f"webhook_config.{key}" for key in Webhook.model_fields),
    ),
    credentials=dict.fromkeys(
        ("webhook_config", *(f"webhook_config.{key}" for key in Webhook.model_fields)),
        WEBHOOK_VARIABLE,
    ),
)  # fmt: skip
# Settings that hold text: whatever is written for them is text, and "" leaves them out.
TEXTS = frozenset(
    name
    for name, field in AllSettings.model_fields.items()
    if field.annotation in (str, str | None, Path, Path | None) or name in PATHS
)
PROMPTS = ("validation_prompt", "validation_negative_prompt")
# Numbers, texts and paths that may be left out; a choice of words has its own word for "off".
OPTIONAL = frozenset(
    name
    for name, field in AllSettings.model_fields.items()
    if field.default in (None, ())
    and name not in VALUES_ELSEWHERE
    and field.annotation != Flag | None
) - {*PROMPTS, *NOT_PATHS} | {"model_flavour", "optimizer_config"}
# Names that are no settings of a run, and why.
FOREIGN = dict.fromkeys(
    ImageDataset.model_fields.keys() - AllSettings.model_fields.keys(),
    Unsupported("belongs to a dataset", "set it in multidatabackend.json"),
) | dict(NAMES)


@dataclass(frozen=True)
class Reading:
    """What a file and the words of a command line ask for, with everything that is wrong in it."""

    settings: AllSettings  # wrong values and missing ones left at their defaults
    wrong: frozenset[str]  # the names of those
    problems: tuple[ErrorAndHint, ...]


class Config(AllSettings):
    """config/config.json: settings that are right by themselves and go together."""

    @model_validator(mode="after")
    def fits_together(self) -> "Config":
        """Refuses, also where a program makes it, what violates a rule. Raises ValueError."""
        for violation in rules.problems(self):
            raise ValueError(violation.sentence)
        return self

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "Config":
        """A file and the command line's `key=value` words. Raises ConfigError with all problems."""
        reading = read(path, overrides)
        if reading.problems:
            raise ConfigError.of(reading.problems)
        return cls.of(reading.settings)

    @classmethod
    def of(cls, settings: AllSettings) -> "Config":
        """settings: without problems."""
        config = cls.model_construct(settings.model_fields_set, **dict(settings))
        config._sources, config._notes = settings._sources, settings._notes
        return config


def read(
    path: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> Reading:
    """The settings of a file, of variables of the environment and of the command line's `key=value`
    words. Raises ConfigError only when the file cannot be read at all."""
    found = settings_file.FoundProblems()
    problems, typed = found.file, found.typed
    path = settings_file.find(path)
    layers = settings_file.read_layers(path, overrides, environ, ENVIRONMENT, TEXTS, found)
    written = layers.merged
    asked = {k: v for k, v in written.values.items() if k in FOREIGN or not left_open(k, v)}
    sources = {k: v for k, v in layers.sources.items() if k in asked}
    location = Location(layers.file, layers.sources)
    values, passed_over = known_settings(asked, AllSettings, location, problems, FOREIGN)
    _derive(values, sources, path)
    _make_absolute(values, sources, path, problems)
    _read_webhooks(values, location, path, problems)
    validated(values, AllSettings, location, problems)
    wrong = problems.settings | typed.settings
    needed = {"output_dir": "output", "data_backend_config": "multidatabackend.json"}
    right = {k: v for k, v in values.items() if k not in wrong}
    settings = AllSettings.model_validate({k: v for k, v in needed.items() if k in wrong} | right)
    notes = (*written.notes, *of_variables(sources), *notes_on(passed_over, asked))
    settings._sources, settings._notes = sources, notes
    for violation in rules.problems(settings, wrong):
        problems.add(violation.at(location.of_all(violation.settings)))
    return Reading(settings, wrong, (*problems.ordered(layers.order), *typed.ordered()))


def of_variables(sources: Mapping[str, Provenance]) -> Iterator[str]:
    """A sentence for each setting that a variable of the environment sets."""
    for name, source in sources.items():
        if source.file == VARIABLES:
            yield f"{name} is set by the environment variable {source.key}"


def _derive(values: dict[str, Any], sources: dict[str, Provenance], path: Path) -> None:
    """Fills in settings that follow from others, and defaults that depend on the folder of the
    file. Adds to `sources` what they follow from."""
    folder = path.absolute().parent
    for name, wanted in (("data_backend_config", True),
                         ("lycoris_config", values.get("lora_type") == "lycoris")):  # fmt: skip
        file = "multidatabackend.json" if name == "data_backend_config" else f"{name}.json"
        if wanted and name not in values:
            values[name], sources[name] = str(folder / file), DEFAULT
    flavour = values.get("model_flavour")
    if "pretrained_model_name_or_path" not in values:
        row = ARCHITECTURES.get(flavour or "", DEFAULT_MODEL)  # a wrong name is refused elsewhere
        values["pretrained_model_name_or_path"] = row.repository
        sources["pretrained_model_name_or_path"] = _following("model_flavour", sources)
    if values.get("lr_scheduler") == "constant" and values.get("lr_warmup_steps", 0) != 0:
        values["lr_scheduler"] = "constant_with_warmup"  # as SimpleTuner reads it
        sources["lr_scheduler"] = _following("lr_warmup_steps", sources)


def _following(name: str, sources: Mapping[str, Provenance]) -> Provenance:
    """The source of a value that follows from the setting `name`."""
    return following(sources.get(name, DEFAULT))


def _make_absolute(
    values: dict[str, Any], sources: Mapping[str, Provenance], path: Path, problems: Problems
) -> None:
    """Paths of the file start at its project, those of the command line where the user stands."""
    for name in (*PATHS, *MODELS, "resume_from_checkpoint"):
        if isinstance(values.get(name), str):
            written = sources[name].file if name in sources else None
            typed = written in NOT_FILES
            folder = Path.cwd() if typed else project_folder(path)
            where = str(written) if typed else f"`{path}`"
            with problems.collecting(name):
                values[name] = absolute(name, values[name], folder, where)


def _read_webhooks(
    values: dict[str, Any], location: Location, path: Path, problems: Problems
) -> None:
    """The webhooks of an object, of JSON text or of a file, each checked."""
    if "webhook_config" in values:
        typed = location.of("webhook_config") in NOT_FILES
        folder = Path.cwd() if typed else project_folder(path)
        with problems.collecting("webhook_config"):
            written = values["webhook_config"]
            values["webhook_config"] = read_webhooks(written, location, folder, ENVIRONMENT)


def is_known(name: str) -> bool:
    """Whether config.json knows a name: as a setting, or as one that it answers."""
    return name in AllSettings.model_fields or name in FOREIGN or name in {*ALIASES, *INVERTED}


def left_open(name: str, value: Any) -> bool:
    """null, and the word `auto` outside prompts: decide for me. So do false and the word `none`
    where a number, a text or a path may be left out."""
    if value == "":
        return name in TEXTS
    if name in OPTIONAL and is_left_out(value):
        return True
    return value is None or (value == "auto" and name not in PROMPTS)


def absolute(name: str, text: str, folder: Path, where: str) -> str:
    """A path of the file, absolute. A model may also be a repository: only what exists, or names a
    path, is one. Raises ConfigError."""
    if text in NOT_PATHS.get(name, ()):
        return text
    if name in MODELS and (page := HUB_PAGE.fullmatch(text)) is not None:
        raise ConfigError(
            f"{where}: `{name}={shown(text)}` is an address, not the name of a repository",
            hint=f"write {name}={page[1]}",
        )
    path = absolute_path(text, folder, where, name)
    if name in MODELS and not path.exists() and not names_a_path(text, folder):
        return text
    return str(path)
