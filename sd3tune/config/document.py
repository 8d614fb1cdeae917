"""The reference of all settings, from the table itself: `python -m sd3tune.config.document`."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import Shuffle
from sd3tune.config.datasets.storage import Columns, HubColumns
from sd3tune.config.fields import OneOf
from sd3tune.config.names import (
    ALIASES,
    CSV_KEYS,
    DATASET_ALIASES,
    DATASET_UNSUPPORTED,
    UNSUPPORTED,
)
from sd3tune.tables.dataset_types import DATASET_TYPES, DatasetType
from sd3tune.tables.table import load

DERIVED = {"data_backend_config": "`multidatabackend.json` beside it"}
CSV_OBJECT = {old: f"csv.{new}" for old, new in CSV_KEYS.items()}
ABOUT = (
    "Made from the settings' own docstrings by `python -m sd3tune.config.document`. Keys may be "
    "written with or without `--`. A setting without a default is chosen by `sd3tune plan`, which "
    "says why."
)
UNSUPPORTED_NAMES = (
    "SimpleTuner has these settings and sd3tune does not. One of them is an error, with the reason "
    "below, unless its value asks for nothing: `false`, `0`, `null`, `none`, or an empty text."
)


def document() -> str:
    """docs/reference/settings.md; a test compares the two."""
    lines = ["# Settings", "", ABOUT, ""]
    lines += table("config/config.json", Config, DERIVED)
    for settings, row in {row.settings: row for row in DATASET_TYPES.rows}.items():
        lines += table(f"config/multidatabackend.json: {row.title}", load(settings), elsewhere(row))
    lines += table("`csv` and `parquet` of a dataset", Columns, {})
    lines += table("`huggingface` of a dataset", HubColumns, {})
    lines += table("`caption_shuffle` of a dataset", Shuffle, {})
    names = ALIASES | DATASET_ALIASES | CSV_OBJECT
    lines += ["## Other names", "", *(f"* `{old}` is `{new}`" for old, new in names.items()), ""]
    lines += ["## Names that are not supported", "", UNSUPPORTED_NAMES, ""]
    for where, reasons in (("config.json", UNSUPPORTED), ("datasets", DATASET_UNSUPPORTED)):
        lines += [f"In {where}:", ""]
        for unsupported in reasons:
            listed = ", ".join(f"`{name}`" for name in unsupported.names.split())
            lines += [f"* {unsupported.reason} ({unsupported.hint}): {listed}", ""]
    return "\n".join(lines).rstrip() + "\n"


def elsewhere(row: DatasetType) -> dict[str, str]:
    """Key -> what holds where a dataset leaves it out and its default is not its own."""
    folders = {key: f"`{{output_dir}}/cache/{name}`" for key, name in row.folders.items()}
    return dict.fromkeys(row.inherited, "as in config.json") | folders


def table(title: str, kind: type[BaseModel], elsewhere: Mapping[str, str]) -> list[str]:
    """The lines of one section: every setting with its default and its docstring. elsewhere:
    defaults that are not in the settings themselves."""
    rows = [f"| `{name}` | {elsewhere.get(name) or default(field)} | {meaning(field)} |"
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


def meaning(field: FieldInfo) -> str:
    """A setting's docstring, and the rows of its table where it names one."""
    text = " ".join((field.description or "").split())
    for kind in (*field.metadata, *_metadata(field.annotation)):
        if isinstance(kind, OneOf):
            text += f" {names(kind)}."
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
