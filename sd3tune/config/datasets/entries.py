"""One entry of a datasets file: its kind, its keys with their defaults, and what is wrong in it."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config import rules
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.paths import FOLDERS, PATHS, make_absolute
from sd3tune.config.files.placeholders import ACCESS_ID, ANY, Allowed, fill_in
from sd3tune.config.files.written import Written
from sd3tune.config.names import CSV_KEYS, DATASET_REASONS, REASONS, Unsupported, notes_on
from sd3tune.config.problems import Location, Problems, known_settings, shown, validated
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.decision import Provenance
from sd3tune.errors import ConfigError, Problem

Dataset = ImageDataset | Masks | TextEmbeds
INHERITED = (  # settings of the run that are defaults of every image dataset
    "resolution",
    "resolution_type",
    "minimum_image_size",
    "maximum_image_size",
    "target_downsample_size",
    "aspect_bucket_rounding",
    "aspect_bucket_alignment",
    "caption_strategy",
    "caption_dropout_probability",
    "vae_batch_size",
    "write_batch_size",
    "strict",
)
NAME = re.compile(r"\w[\w .-]{0,99}")  # it names a cache folder
KINDS: dict[str, type[Dataset]] = {
    "image": ImageDataset,
    "eval": ImageDataset,
    "conditioning": Masks,
    "text_embeds": TextEmbeds,
}
CALLED: dict[type[Dataset], str] = {
    ImageDataset: "an image dataset",
    Masks: "a conditioning dataset",
    TextEmbeds: "a text_embeds entry",
}
NOT_FOR_SD3 = (
    "image_embeds", "conditioning_image_embeds", "distillation_cache", "caption", "grounding",
    "video", "audio",
)  # fmt: skip
STORAGE = ("local", "aws", "huggingface", "csv")
ENVIRONMENT = Allowed(
    paths=PATHS,
    either=("dataset_name",),
    credentials={"aws_secret_access_key": ANY, "aws_access_key_id": ACCESS_ID},
)


@dataclass(frozen=True)
class Entry:
    """dataset: None where something is wrong in it."""

    dataset: Dataset | None
    sources: Mapping[str, Provenance]
    notes: tuple[str, ...] = ()


def named(entry: Mapping[str, Any], path: Path, number: int, seen: set[str]) -> str:
    """The id of the entry of that number, which goes into `seen`. Raises ConfigError."""
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"`{path}`: entry {number} has no id", hint='give every dataset an "id" of its own'
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"`{path}`: the id `{shown(name)}` cannot name a folder",
            hint="use letters, digits, spaces, dots, dashes and underscores, at most 100",
        )
    if name in seen:
        raise ConfigError(f"`{path}`: two datasets have the id `{name}`", hint="rename one of them")
    seen.add(name)
    return name


def read(
    written: Written, name: str, config: AllSettings, wrong: frozenset[str], problems: Problems
) -> Entry:
    """What the entry of that id asks for. wrong: settings of the run without a usable value. Raises
    ConfigError when the entry is of a kind that sd3tune does not have."""
    kind = _kind(written, name)
    location = Location(written.file, dataset=name)
    own = Problems()
    asked = _filled(written, name, config, location, own)
    notes = notes_on(asked)
    asked = _csv(_without_hashing(asked, location, own), location, own)
    if kind is Masks:
        asked, ignored = _without_image_keys(asked)
        notes += ignored
    asked = known_settings(asked, kind, location, own, _foreign(kind))
    asked = {k: v for k, v in asked.items() if k not in FOLDERS or v != ""}
    defaults = _defaults(kind, name, config, asked)
    values = make_absolute(defaults | asked, Path(written.file), location.of(), own)
    validated(values, kind, location, own)
    right = {k: v for k, v in values.items() if k not in own.settings}
    dataset = kind.model_validate(defaults | right)
    unusable = own.settings | (wrong & (defaults.keys() - asked.keys()))
    for problem in _contradictions(dataset, config, unusable):
        own.add(Problem(f"{location.of()}: {problem.message}", problem.hint))
    for problem in own.ordered(values):
        problems.add(problem)
    if isinstance(dataset, ImageDataset):
        notes += rules.dataset_notes(dataset)
    sources = {k: config.source(k) for k in defaults if k in INHERITED}
    sources |= {"csv" if k in CSV_KEYS else k: s for k, s in written.sources().items() if
                written.values[k] is not None}  # fmt: skip
    complete = None if own.ordered() else dataset
    return Entry(complete, sources, tuple(f"dataset `{name}`: {note}" for note in notes))


def _kind(written: Written, name: str) -> type[Dataset]:
    """The class of an entry; says why other kinds and storages cannot be."""
    kind = written.values.get("dataset_type", "image")
    where = f"{written.where}: dataset `{name}`"
    if not isinstance(kind, str) or kind not in KINDS:
        why = "is not for SD3 images" if kind in NOT_FOR_SD3 else "is not known"
        raise ConfigError(
            f"{where}: `dataset_type={shown(kind)}` {why}",
            hint=f"dataset_type is {', '.join(KINDS)}; disabled=true skips a dataset",
        )
    storage = written.values.get("type", "local")
    text = kind == "text_embeds"
    if storage not in STORAGE or (text and storage != "local"):
        why = "is not supported: encoded captions are kept on a local disk" if text else (
            "is not supported")  # fmt: skip
        known = "local" if text else ", ".join(STORAGE)
        raise ConfigError(
            f"{where}: `type={shown(storage)}` {why}",
            hint=f"type is {known}; disabled=true skips a dataset",
        )
    return KINDS[kind]


def _filled(
    written: Written, name: str, config: AllSettings, location: Location, problems: Problems
) -> dict[str, Any]:
    """The keys that are not null, with their placeholders filled in."""
    placeholders = {
        "id": name,
        "model_family": config.model_family,
        "output_dir": str(config.output_dir),
    }
    found = {}
    for key, value in written.values.items():
        with problems.collecting(key):
            filled = fill_in({key: value}, location.of(), placeholders, ENVIRONMENT)[key]
            if filled is not None:
                found[key] = filled
    return found


def _without_hashing(
    asked: Mapping[str, Any], location: Location, problems: Problems
) -> dict[str, Any]:
    if asked.get("hash_filenames") is False:
        what = "entries of a cache are named by a hash of their content"
        what = f"{location.of()}: `hash_filenames=false` is not supported: {what}"
        problems.add(Problem(what, "leave it out"))
    return {k: v for k, v in asked.items() if k != "hash_filenames"}


def _csv(asked: Mapping[str, Any], location: Location, problems: Problems) -> dict[str, Any]:
    """csv_file and its companions as the `csv` object."""
    flat = {k: asked[k] for k in CSV_KEYS if k in asked}
    if not flat:
        return dict(asked)
    if "csv" in asked:
        what = f"{location.of()}: `csv` and `{next(iter(flat))}` are both set"
        problems.add(Problem(what, "keep one of them"))
    rest = {k: v for k, v in asked.items() if k not in CSV_KEYS}
    return {"csv": {CSV_KEYS[k]: v for k, v in flat.items()}} | rest


def _without_image_keys(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Existing files give masks the keys of their images: the others, and a note on those."""
    images = [k for k in asked if k not in Masks.model_fields and k in ImageDataset.model_fields]
    why = f"{', '.join(sorted(images))} not used: masks take everything else from their images"
    return {k: v for k, v in asked.items() if k not in images}, [why] if images else []


def _foreign(kind: type[Dataset]) -> dict[str, Unsupported]:
    """Why a key that an entry of another kind has, or that SimpleTuner has, is not one of this."""
    found = dict(REASONS)
    run = Unsupported("is a setting of the whole run", "write it in config.json")
    found |= dict.fromkeys(AllSettings.model_fields, run)
    for other in CALLED.keys() - {kind}:
        owner = Unsupported(f"belongs to {CALLED[other]}", "leave it out")
        found |= dict.fromkeys(other.model_fields, owner)
    return found | DATASET_REASONS


def _defaults(
    kind: type[Dataset], name: str, config: AllSettings, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """What holds for the keys that are left out."""
    cache = config.output_dir / "cache"
    if kind is Masks:
        fetched = {"csv_cache_dir": str(cache / "masks" / name)}
        return {"id": name} | (fetched if asked.get("type") == "csv" else {})
    if kind is TextEmbeds:
        return {
            "id": name,
            "cache_dir": str(cache / "text" / "sd3"),
            "write_batch_size": config.write_batch_size,
        }
    found = {"id": name} | {key: getattr(config, key) for key in INHERITED}
    if asked.get("type") in ("huggingface", "csv") and "caption_strategy" not in asked:
        found["caption_strategy"] = asked["type"]
    return found | {"cache_dir_vae": str(cache / "vae" / "sd3" / name)}


def _contradictions(dataset: Dataset, config: AllSettings, unusable: Set[str]) -> Iterator[Problem]:
    if not isinstance(dataset, TextEmbeds):
        owners = {"type", "instance_data_dir", "dataset_name", "aws_bucket_name", "csv"}
        if owners.isdisjoint(unusable):
            yield from dataset.storage_problems()
    if isinstance(dataset, ImageDataset):
        yield from rules.dataset_problems(dataset, config, unusable)
