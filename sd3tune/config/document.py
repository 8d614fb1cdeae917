"""The reference of all settings, from the table itself: `python -m sd3tune.config.document`."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import Shuffle
from sd3tune.config.datasets.storage import Columns, HubColumns
from sd3tune.config.docstrings import docstring
from sd3tune.config.fields import OneOf
from sd3tune.config.names import ALIASES, CSV_KEYS, DATASET_ALIASES, Unsupported
from sd3tune.config.other_trainers import RENAMED
from sd3tune.config.other_trainers_data import DATASET_ELSEWHERE, DATASET_RENAMED
from sd3tune.config.settings.webhooks import Webhook
from sd3tune.config.without_counterpart import ELSEWHERE
from sd3tune.tables.dataset_types import DATASET_TYPES
from sd3tune.tables.table import load

NONE: Mapping[str, str] = MappingProxyType({})
CSV_OBJECT = {old: f"csv.{new}" for old, new in CSV_KEYS.items()}
ABOUT = (
    "Made from the settings' own docstrings by `python -m sd3tune.config.document`. Keys may be "
    "written with or without `--`. A setting without a default is chosen by `sd3tune plan`, which "
    "says why. The default of a dataset's key may be the run's setting of the same name; default "
    "folders of a dataset are below `cache` in output_dir."
)
OTHER_TRAINERS = (
    "kohya's sd-scripts, OneTrainer, ai-toolkit, the scripts of diffusers and older versions of "
    "SimpleTuner call settings by other names. None of them is taken, because a value may mean "
    "something else there; the error says what to write."
)
UNSUPPORTED_NAMES = (
    "[Names](names.md) lists every name of SimpleTuner that is not a setting of sd3tune, with the "
    "reason and what to write instead."
)


def document() -> str:
    """docs/reference/settings.md; a test compares the two."""
    lines = ["# Settings", "", ABOUT, ""]
    beside = {"data_backend_config": "`multidatabackend.json` beside it"}
    lines += table("config/config.json", Config, beside)
    lines += table("A webhook of `webhook_config`", Webhook)
    for row in {row.settings: row for row in DATASET_TYPES.rows}.values():
        filled = dict.fromkeys(row.inherited, "as in config.json")
        filled |= {key: f"`{{output_dir}}/cache/{folder}`" for key, folder in row.folders.items()}
        lines += table(f"config/multidatabackend.json: {row.title}", load(row.settings), filled)
    lines += table("`csv` and `parquet` of a dataset", Columns)
    lines += table("`huggingface` of a dataset", HubColumns)
    lines += table("`caption_shuffle` of a dataset", Shuffle)
    names = ALIASES | DATASET_ALIASES | CSV_OBJECT
    lines += ["## Other names", "", *(f"* `{old}` is `{new}`" for old, new in names.items()), ""]
    lines += ["## Names of other trainers", "", OTHER_TRAINERS, ""]
    lines += _others("config.json", RENAMED, ELSEWHERE)
    lines += _others("datasets", DATASET_RENAMED, DATASET_ELSEWHERE)
    lines += ["## Names that are not supported", "", UNSUPPORTED_NAMES]
    return "\n".join(lines).rstrip() + "\n"


def _others(file: str, renamed: Mapping[str, str], elsewhere: Iterable[Unsupported]) -> list[str]:
    """What other trainers call the settings of a file."""
    head = [f"In {file}:", "", "| setting | called elsewhere |", "|-|-|"]
    rows = [f"| `{ours}` | {_listed(theirs)} |" for ours, theirs in renamed.items()]
    return [*head, *rows, "", *_reasons(elsewhere)]


def _reasons(rows: Iterable[Unsupported]) -> list[str]:
    """Why names are not taken, and what to write, an item for each reason."""
    items = [f"* {row.reason} ({row.hint}): {_listed(row.names)}" for row in rows]
    return [line for item in items for line in (item.replace("{value}", "…"), "")]


def _listed(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split())


def table(title: str, kind: type[BaseModel], filled: Mapping[str, str] = NONE) -> list[str]:
    """The lines of one section: every setting with its default and its docstring. filled: defaults
    that follow from other settings."""
    rows = [f"| `{name}` | {filled.get(name) or default(field)} | {meaning(kind, name)} |"
            for name, field in kind.model_fields.items()]  # fmt: skip
    return [f"## {title}", "", "| setting | default | meaning |", "|-|-|-|", *rows, ""]


def default(field: FieldInfo) -> str:
    """A setting's default as it is written in a file; empty where it is chosen."""
    if field.is_required():
        return "required"
    value: Any = field.default
    if value in (None, "", ()) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = ", ".join(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def meaning(kind: type[BaseModel], setting: str) -> str:
    """A setting's docstring, and the rows of its table where it names one."""
    field, text = kind.model_fields[setting], docstring(kind, setting)
    for part in (*field.metadata, *_metadata(field.annotation)):
        if isinstance(part, OneOf):
            text += f" {names(part)}."
    return text.replace("|", "\\|")


def names(kind: OneOf) -> str:
    """The rows of a table, as a sentence without its full stop."""
    if kind.explained:
        return "; ".join(f"`{row.name}`: {row.about}" for row in kind.table.rows)
    return f"One of {', '.join(f'`{name}`' for name in kind.table)}"


def _metadata(kind: Any) -> Iterator[Any]:
    """What `Annotated` says about a type, or about a part of a union."""
    yield from getattr(kind, "__metadata__", ())
    for part in get_args(kind):
        yield from _metadata(part)


if __name__ == "__main__":
    print(document(), end="")
