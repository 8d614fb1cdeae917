"""What sd3tune makes of every name that a file of SimpleTuner can hold, as docs/reference/names.md:
`python -m sd3tune.config.name_table`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from sd3tune.config.accepted import ACCEPTED_NAMES, DATASET_ACCEPTED_NAMES
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.inert import HARMLESS, OF_SWITCH
from sd3tune.config.names import (
    ALIASES,
    CSV_KEYS,
    DATASET_ALIASES,
    DATASET_REASONS,
    INVERTED,
    REASONS,
    Unsupported,
)
from sd3tune.config.settings.all_settings import AllSettings

ABOUT = """\
# Names

Every name that the files of SimpleTuner can hold for Stable Diffusion 3, and what sd3tune does with
it. Made by `python -m sd3tune.config.name_table`.

* **setting**: it does what [Settings](settings.md) says.
* **another name**: it is read as the setting that is named.
* **accepted**: any value may stand in the file, because none changes what sd3tune does. A note
  names the setting and gives the reason.
* **refused**: an error that gives the reason and says what to write. A note instead of an error
  follows where the value is off (`false`, `0`, `null`, `none`, an empty text, also in quotes),
  where it is listed as harmless, and while the setting that switches it on is off.

Names of other trainers are in [Settings](settings.md#names-of-other-trainers).
"""
OWN = {  # keys that no class of settings has, because the list of datasets reads them itself
    "disabled": ("setting", "`true` leaves the entry out", ""),
    "hash_filenames": ("accepted", "entries are named by their content; `false` is refused", ""),
}


@dataclass(frozen=True)
class NameAnswer:
    """kind: setting, another name, accepted or refused. why: the reason, or what the name means.
    instead: what to write."""

    kind: str
    why: str = ""
    instead: str = ""


def answers(dataset: bool) -> dict[str, NameAnswer]:
    """What becomes of each name of config.json, or of multidatabackend.json, in alphabetical
    order."""
    return dict(sorted((_of_datasets() if dataset else _of_settings()).items()))


def _of_settings() -> dict[str, NameAnswer]:
    others = {old: NameAnswer("another name", f"of `{new}`") for old, new in ALIASES.items()}
    for old, new in INVERTED.items():
        row = ACCEPTED_NAMES.get(new)
        opposite = NameAnswer("another name", f"of `{new}`, which says the opposite")
        others[old] = NameAnswer("accepted", row.reason) if row else opposite
    return _refused(REASONS) | _accepted(ACCEPTED_NAMES) | others | _settings(AllSettings)


def _of_datasets() -> dict[str, NameAnswer]:
    meant = DATASET_ALIASES | {old: f"csv.{new}" for old, new in CSV_KEYS.items()}
    others = {old: NameAnswer("another name", f"of `{new}`") for old, new in meant.items()}
    own = {name: NameAnswer(*answer) for name, answer in OWN.items()}
    kinds = _settings(ImageDataset) | _settings(Masks) | _settings(TextEmbeds)
    return _refused(DATASET_REASONS) | _accepted(DATASET_ACCEPTED_NAMES) | others | own | kinds


def _settings(kind: type[BaseModel]) -> dict[str, NameAnswer]:
    return dict.fromkeys(kind.model_fields, NameAnswer("setting"))


def _accepted(rows: Mapping[str, Unsupported]) -> dict[str, NameAnswer]:
    return {name: NameAnswer("accepted", row.reason) for name, row in rows.items()}


def _refused(rows: Mapping[str, Unsupported]) -> dict[str, NameAnswer]:
    return {name: NameAnswer("refused", *_why(name, row)) for name, row in rows.items()}


def _why(name: str, row: Unsupported) -> tuple[str, str]:
    harmless = dict.fromkeys(str(value).lower() for value in HARMLESS.get(name, ()))
    text = row.hint.replace("{value}", "…")
    text += f". Harmless: {', '.join(f'`{word}`' for word in harmless)}" if harmless else ""
    text += f". Switched on by `{OF_SWITCH[name]}`" if name in OF_SWITCH else ""
    return row.reason, text


def name_table() -> str:
    """docs/reference/names.md; a test compares the two."""
    files = {"config/config.json and config/config.env": False,
             "config/multidatabackend.json": True}  # fmt: skip
    parts = [line for title, kind in files.items() for line in _section(title, answers(kind))]
    return "\n".join([ABOUT, *parts])


def _section(title: str, table: Mapping[str, NameAnswer]) -> Iterable[str]:
    kinds = [answer.kind for answer in table.values()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    yield from (f"## {title}", "", f"{len(table)} names: {counts}.", "")
    yield from ("| name | | reason, or what it means | what to write |", "|-|-|-|-|")
    for name, answer in table.items():
        cells = (f"`{name}`", answer.kind, answer.why, answer.instead)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


if __name__ == "__main__":
    print(name_table(), end="")
