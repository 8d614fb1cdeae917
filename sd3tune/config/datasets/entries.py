"""One entry of a datasets file: its kind, its keys with their defaults, and what is wrong in it."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config import rules
from sd3tune.config.accepted import ACCEPTED_NAMES, DATASET_ACCEPTED_NAMES
from sd3tune.config.datasets import bucket_caches
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.paths import FOLDERS, PATHS, make_absolute
from sd3tune.config.files.placeholders import ACCESS_ID, ANY, Allowed, fill_in
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.inert import is_left_out, notes_on
from sd3tune.config.names import CSV_KEYS, DATASET_REASONS, REASONS, Unsupported
from sd3tune.config.other_trainers_data import DATASET_NAMES
from sd3tune.config.problems import Location, Problems, known_settings, shown, validated
from sd3tune.config.rules.rule import Violation
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.decision import Provenance
from sd3tune.errors import ConfigError, ErrorAndHint
from sd3tune.tables.dataset_types import DATASET_TYPES, DatasetType
from sd3tune.tables.storages import STORAGES, owners
from sd3tune.tables.table import load

Dataset = ImageDataset | Masks | TextEmbeds
NAME = re.compile(r"\w[\w .-]{0,99}")  # it names a cache folder
OPTIONAL = frozenset(  # keys that may be left out; a caption may be any word
    key for key, field in ImageDataset.model_fields.items() if field.default is None
) - {"instance_prompt"}
ENVIRONMENT = Allowed(
    paths=PATHS,
    either=("dataset_name",),
    credentials={"aws_secret_access_key": ANY, "aws_access_key_id": ACCESS_ID},
)


@dataclass(frozen=True)
class DatasetEntry:
    """id: as problems name it. dataset: None where something is wrong in it."""

    id: str

    dataset: Dataset | None
    sources: Mapping[str, Provenance]
    folder: Path | None = None  # instance_data_dir, also where something else is wrong
    notes: tuple[str, ...] = ()


def named(
    entry: Mapping[str, Any], path: Path, number: int, seen: set[str], problems: Problems
) -> str:
    """The id of the entry of that number, which goes into `seen`. Where it cannot be used, a name
    by which the entry's other problems can be told apart."""
    name = entry.get("id")
    problem = _of_id(name, path, number, seen)
    if problem is not None:
        problems.add(problem)
        return f"number {number}"
    seen.add(str(name))
    return str(name)


def _of_id(name: Any, path: Path, number: int, seen: Set[str]) -> ErrorAndHint | None:
    if not isinstance(name, str) or not name:
        hint = 'give every dataset an "id" of its own'
        return ErrorAndHint(f"`{path}`: entry {number} has no id", hint)
    if not NAME.fullmatch(name):
        return ErrorAndHint(
            f"`{path}`: the id `{shown(name)}` cannot name a folder",
            "use letters, digits, spaces, dots, dashes and underscores, at most 100",
        )
    if name in seen:
        return ErrorAndHint(f"`{path}`: two datasets have the id `{name}`", "rename one of them")
    return None


def read(
    written: WrittenSettings,
    name: str,
    config: AllSettings,
    wrong: frozenset[str],
    problems: Problems,
) -> DatasetEntry:
    """What the entry of that id asks for. wrong: settings of the run without a usable value. Raises
    ConfigError when the entry is of a kind that sd3tune does not have."""
    own = Problems()
    row = _type_of(written, name, own)
    kind: type[Dataset] = load(row.settings)
    sources = _sources(row, written, config)
    location = Location(written.file, {k: s for k, s in sources.items() if s.by == "user"}, name)
    asked = _filled(written, name, config, location, own)
    asked = {k: v for k, v in asked.items() if k not in own.settings}
    asked = _csv(_without_hashing(asked, location, own), location, own)
    asked, notes = _without_image_keys(asked) if row.use == "mask" else (asked, [])
    written_keys = asked
    asked, passed_over = known_settings(asked, kind, location, own, _foreign(kind))
    notes = notes_on(passed_over, written_keys) + notes
    asked = {k: v for k, v in asked.items() if k not in FOLDERS or v != ""}
    asked |= bucket_caches.prefix(asked, keeps_captions=row.use == "keep_captions")
    defaults = _defaults(row, name, config, asked)
    values = make_absolute(defaults | asked, Path(written.file), location.of(), own)
    validated(values, kind, location, own)
    right = {k: v for k, v in values.items() if k not in own.settings}
    dataset = kind.model_validate(defaults | right)
    unusable = own.settings | (wrong & (defaults.keys() - asked.keys()))
    for violation in _contradictions(dataset, config, unusable):
        own.add(violation.at(location.of_all(violation.settings)))
    for problem in own.ordered(values):
        problems.add(problem)
    notes += rules.dataset_notes(dataset)
    notes += bucket_caches.notes(dataset)
    complete = None if own.ordered() else dataset
    folder = None if {"instance_data_dir", "type"} & unusable else _local_folder(dataset)
    named_notes = tuple(f"dataset `{name}`: {note}" for note in notes)
    return DatasetEntry(name, complete, sources, folder, named_notes)


def _local_folder(dataset: Dataset) -> Path | None:
    """The folder in which the images have to be."""
    if isinstance(dataset, TextEmbeds) or dataset.type != "local":
        return None
    return dataset.instance_data_dir


def _sources(
    row: DatasetType, written: WrittenSettings, config: AllSettings
) -> dict[str, Provenance]:
    """Who chose each key: the entry, or the setting of the same name in config.json."""
    own = {"csv" if key in CSV_KEYS else key: source for key, source in written.sources().items() if
           written.values[key] is not None}  # fmt: skip
    return {key: config.source(key) for key in row.inherited} | own


def _type_of(written: WrittenSettings, name: str, problems: Problems) -> DatasetType:
    """The row of an entry's dataset_type. A type that is not known, or a storage that the type
    cannot have, is a problem; the other keys are those of an image dataset then. Raises ConfigError
    for a type that has other keys."""
    kind, storage = written.values.get("dataset_type", "image"), written.values.get("type", "local")
    where = f"{written.where}: dataset `{name}`"
    known = isinstance(kind, str) and kind in DATASET_TYPES
    row = DATASET_TYPES[kind] if known else DATASET_TYPES["image"]
    if not known:
        refused = DATASET_TYPES.refused.get(str(kind))
        problem = ErrorAndHint(
            f"{where}: `dataset_type={shown(kind)}` {refused or 'is not known'}",
            f"dataset_type is {', '.join(DATASET_TYPES)}; disabled=true skips a dataset",
        )
        if refused:
            raise ConfigError.of((problem,))
        problems.add(problem, "dataset_type")
    possible = row.storages or tuple(STORAGES)
    if storage not in possible:
        why = "is not supported" + (f": {row.why_only}" if row.why_only else "")
        why = STORAGES.refused.get(str(storage), why)
        what = f"{where}: `type={shown(storage)}` {why}"
        hint = f"type is {', '.join(possible)}; disabled=true skips a dataset"
        problems.add(ErrorAndHint(what, hint), "type")
    return row


def _filled(
    written: WrittenSettings, name: str, config: AllSettings, location: Location, problems: Problems
) -> dict[str, Any]:
    """The keys that are not null, with their placeholders filled in."""
    placeholders = {
        "id": name,
        "model_family": config.model_family,
        "output_dir": str(config.output_dir),
    }
    filled_in = {}
    for key, value in written.values.items():
        with problems.collecting(key):
            filled = fill_in({key: value}, location.of(), placeholders, ENVIRONMENT)[key]
            if filled is not None and not (key in OPTIONAL and is_left_out(filled)):
                filled_in[key] = filled
    return filled_in


def _without_hashing(
    asked: Mapping[str, Any], location: Location, problems: Problems
) -> dict[str, Any]:
    if asked.get("hash_filenames") is False:
        what = "entries of a cache are named by a hash of their content"
        what = f"{location.of()}: `hash_filenames=false` is not supported: {what}"
        problems.add(ErrorAndHint(what, "leave it out"))
    return {k: v for k, v in asked.items() if k != "hash_filenames"}


def _csv(asked: Mapping[str, Any], location: Location, problems: Problems) -> dict[str, Any]:
    """csv_file and its companions as the `csv` object."""
    flat = {k: asked[k] for k in CSV_KEYS if k in asked}
    if not flat:
        return dict(asked)
    if "csv" in asked:
        what = f"{location.of()}: `csv` and `{next(iter(flat))}` are both set"
        problems.add(ErrorAndHint(what, "keep one of them"))
    rest = {k: v for k, v in asked.items() if k not in CSV_KEYS}
    return {"csv": {CSV_KEYS[k]: v for k, v in flat.items()}} | rest


def _without_image_keys(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Existing files give masks the keys of their images: the others, and a note on those."""
    images = [k for k in asked if k not in Masks.model_fields and k in ImageDataset.model_fields]
    why = f"{', '.join(sorted(images))} not used: masks take everything else from their images"
    return {k: v for k, v in asked.items() if k not in images}, [why] if images else []


def _foreign(kind: type[Dataset]) -> dict[str, Unsupported]:
    """Why a key that an entry of another kind has, or that SimpleTuner has, is not one of this."""
    owners = REASONS | ACCEPTED_NAMES | DATASET_NAMES
    run = Unsupported("is a setting of the whole run", "write it in config.json")
    owners |= dict.fromkeys(AllSettings.model_fields, run)
    for row in DATASET_TYPES.rows:
        if (other := load(row.settings)) is not kind:
            owner = Unsupported(f"belongs to {row.called}", "leave it out")
            owners |= dict.fromkeys(other.model_fields, owner)
    return owners | DATASET_REASONS | DATASET_ACCEPTED_NAMES


def _defaults(
    row: DatasetType, name: str, config: AllSettings, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """What holds for the keys that are left out: settings of the run, folders below output_dir."""
    storage, cache = asked.get("type", "local"), config.output_dir / "cache"
    defaults = {"id": name} | {key: getattr(config, key) for key in row.inherited}
    if "caption_strategy" in defaults and STORAGES[storage].captions:
        defaults["caption_strategy"] = STORAGES[storage].captions
    for key, folder in row.folders.items():
        if storage in owners().get(key, (storage,)):
            defaults[key] = str(cache / folder.format(id=name))
    return defaults


def _contradictions(
    dataset: Dataset, config: AllSettings, unusable: Set[str]
) -> Iterator[Violation]:
    if not isinstance(dataset, TextEmbeds):
        keys = {"type", *owners(), *(storage.key for storage in STORAGES.rows)}
        if keys.isdisjoint(unusable):
            yield from (Violation(("type",), p) for p in dataset.storage_problems())
    elif dataset.type == "aws" and not dataset.aws_bucket_name:
        yield Violation(("type",), ErrorAndHint("type=aws needs aws_bucket_name", "add it"))
    if isinstance(dataset, ImageDataset):
        yield from rules.dataset_problems(dataset, config, unusable)
