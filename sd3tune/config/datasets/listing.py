"""config/multidatabackend.json: the datasets of a run, and where caches go.

Global settings of the same name are a dataset's defaults. A key that is accepted has an effect;
anything else is refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sd3tune.config import checks
from sd3tune.config.complaints import refusal, refuse_unknown, shown
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.paths import FOLDERS, PATHS, folders_exist, placed
from sd3tune.config.files.placeholders import ACCESS_ID, ANY, Allowed, fill_in
from sd3tune.config.files.reading import read_json, without_dashes
from sd3tune.config.names import LENGTH, notes_on
from sd3tune.config.names import REASONS as OF_THE_RUN
from sd3tune.errors import ConfigError
from sd3tune.tables.dataset_types import DATASET_TYPES, DatasetType
from sd3tune.tables.storages import STORAGES, owners
from sd3tune.tables.table import load

_WHY = {
    "is not supported: latents and captions are always encoded before training": """
        vae_cache_ondemand vae_cache_disable text_cache_ondemand text_cache_disable""",
    LENGTH: "compress_cache",
    "is not needed: the settings of today always hold": "override_dataset_config",
    "is not supported: sd3tune trains on images with captions": """
        video audio image_embeds conditioning_image_embeds i2v_ratio""",
    "is not supported: use conditioning_data in the image dataset": "source_dataset_id",
    "is not supported: no validation is made from datasets": "disable_validation",
    "is not supported yet": "streaming data_generator auto_generated",
}  # fmt: skip
RUN = "is a setting of the whole run: write it in config.json"
REASONS = {name: why for why, names in _WHY.items() for name in names.split()}
ALIASES = {
    "disable": "disabled",
    "is_regularization_data": "is_regularisation_data",
    "config": "dataset_config",
}
CSV_KEYS = {"csv_file": "path", "csv_url_column": "filename_column",
            "csv_caption_column": "caption_column"}  # fmt: skip
NAME = re.compile(r"\w[\w .-]{0,99}")  # it names a cache folder
ENVIRONMENT = Allowed(
    paths=PATHS,
    either=("dataset_name",),
    credentials={"aws_secret_access_key": ANY, "aws_access_key_id": ACCESS_ID},
)


@dataclass(frozen=True)
class Datasets:
    """The enabled entries. Every `conditioning_data` and `text_embeds` names one of them."""

    images: tuple[ImageDataset, ...]
    text: TextEmbeds  # the default one
    evals: tuple[ImageDataset, ...] = ()
    masks: Mapping[str, Masks] = field(default_factory=dict)
    texts: Mapping[str, TextEmbeds] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # keys that say nothing here
    asked_vae_batch: frozenset[str] = frozenset()  # ids that set vae_batch_size themselves

    @property
    def all(self) -> tuple[ImageDataset, ...]:
        """Everything with images, trained on or not."""
        return self.images + self.evals

    def text_of(self, dataset: ImageDataset) -> TextEmbeds:
        return self.texts[dataset.text_embeds] if dataset.text_embeds else self.text


def load_datasets(path: Path, config: Config) -> Datasets:
    """Reads and checks the file. Raises ConfigError naming file, dataset, key and value."""
    entries = read_json(path, list, "list of datasets")
    seen: set[str] = set()
    asked: set[str] = set()
    notes = list(config.notes)
    made: list[Any] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ConfigError(
                f"`{path}`: entry {number} is a {type(entry).__name__}, not an object",
                hint="every dataset is an object { } with an id",
            )
        entry = _renamed(without_dashes(entry, path), path, number)
        if _flag(entry.pop("disabled", False), path, number):
            continue
        name = _named(entry, path, number, seen)
        if entry.get("vae_batch_size") is not None:
            asked.add(name)
        made.append(_made(_type_of(entry, path, name), entry, path, name, config, notes))
    images = [d for d in made if isinstance(d, ImageDataset)]
    texts = [d for d in made if isinstance(d, TextEmbeds)]
    masks = {d.id: d for d in made if isinstance(d, Masks)}
    folders_exist([*images, *masks.values()], path)
    text = _text(texts, path, config)
    found = Datasets(
        images=tuple(_some([d for d in images if d.trained], path)),
        text=text,
        evals=tuple(d for d in images if not d.trained),
        masks=masks,
        texts={t.id: t for t in texts} | {text.id: text},
        notes=tuple(notes),
        asked_vae_batch=frozenset(asked),
    )
    _names_exist(found, path)
    _caches_apart(found, path)
    return found


def _renamed(entry: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for old, value in entry.items():
        name = ALIASES.get(old, old)
        if name in found:
            other = next(o for o in entry if o != name and ALIASES.get(o) == name)
            raise ConfigError(
                f"`{path}`: entry {number}: `{other}` sets `{name}` a second time",
                hint="remove one of the two",
            )
        found[name] = value
    return found


def _flag(value: Any, path: Path, number: int) -> bool:
    try:
        return bool(checks.flag(value))
    except ValueError as e:
        raise ConfigError(
            f"`{path}`: entry {number}: `disabled={value}` {e}", hint="write true or false"
        ) from None


def _named(entry: Mapping[str, Any], path: Path, number: int, seen: set[str]) -> str:
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


def _type_of(entry: Mapping[str, Any], path: Path, name: str) -> DatasetType:
    """The row of an entry's dataset_type. Raises ConfigError, also for a storage that this type
    cannot have."""
    kind = entry.get("dataset_type", "image")
    if not isinstance(kind, str) or kind not in DATASET_TYPES:
        why = DATASET_TYPES.refused.get(str(kind), "is not known")
        raise ConfigError(
            f"`{path}`: dataset `{name}`: `dataset_type={shown(kind)}` {why}",
            hint=f"dataset_type is {', '.join(DATASET_TYPES)}; disabled=true skips a dataset",
        )
    row, store = DATASET_TYPES[kind], entry.get("type", "local")
    possible = row.storages or tuple(STORAGES)
    if store not in possible:
        why = "is not supported" + (f": {row.why_only}" if row.why_only else "")
        raise ConfigError(
            f"`{path}`: dataset `{name}`: `type={shown(store)}` {why}",
            hint=f"type is {', '.join(possible)}; disabled=true skips a dataset",
        )
    return row


def _made(
    row: DatasetType,
    entry: dict[str, Any],
    path: Path,
    name: str,
    config: Config,
    notes: list[str],
) -> Any:
    kind, whose = load(row.settings), f": dataset `{name}`"
    words = {
        "id": name,
        "model_family": config.model_family,
        "output_dir": str(config.output_dir),
    }
    filled = fill_in(entry, f"`{path}`{whose}", words, ENVIRONMENT)
    values = {k: v for k, v in filled.items() if v is not None}
    if values.get("hash_filenames") is False:
        raise ConfigError(
            f"`{path}`{whose}: `hash_filenames=false` is not supported: entries of a cache are "
            "named by a hash of their content",
            hint="leave it out",
        )
    values.pop("hash_filenames", None)
    values = _csv(values, path, whose)
    notes += [f"dataset `{name}`: {note}" for note in notes_on(values)]
    if row.use == "mask":  # existing files give them the keys of their images
        idle = [k for k in values if k not in kind.model_fields and k in ImageDataset.model_fields]
        values = {k: v for k, v in values.items() if k not in idle}
        if idle:
            why = "masks take everything else from their images"
            notes.append(f"dataset `{name}`: {', '.join(sorted(idle))} not used: {why}")
    values = refuse_unknown(values, kind, path, {}, _foreign(kind), whose)
    values = {k: v for k, v in values.items() if k not in FOLDERS or v != ""}
    values = _defaults(row, name, config, values) | values
    values = placed(values, path, f"`{path}`{whose}")
    try:
        made = kind.model_validate(values)
    except ValidationError as e:
        raise refusal(e, kind, path, {}, values, whose) from None
    if kind is ImageDataset:
        notes += [f"dataset `{name}`: {note}" for note in _idle(made)]
    return made


def _foreign(kind: Any) -> dict[str, str]:
    """Keys that are known and not this entry's -> whose they are, or why they are refused."""
    foreign: dict[str, str] = {}
    for row in DATASET_TYPES.rows:
        if (other := load(row.settings)) is not kind:
            foreign |= dict.fromkeys(other.model_fields, f"belongs to {row.called}")
    foreign |= {key: RUN for key in Config.model_fields if key not in foreign}
    return OF_THE_RUN | foreign | REASONS


def _idle(dataset: ImageDataset) -> list[str]:
    if dataset.crop and dataset.target_downsample_size and not dataset.maximum_image_size:
        return ["target_downsample_size not used: it needs maximum_image_size"]
    return []


def _csv(values: dict[str, Any], path: Path, whose: str) -> dict[str, Any]:
    """csv_file and its companions as the `csv` object."""
    old = {k: values[k] for k in CSV_KEYS if k in values}
    if not old:
        return values
    if "csv" in values:
        raise ConfigError(
            f"`{path}`{whose}: `csv` and `{next(iter(old))}` are both set", hint="keep one of them"
        )
    rest = {k: v for k, v in values.items() if k not in CSV_KEYS}
    return rest | {"csv": {CSV_KEYS[k]: v for k, v in old.items()}}


def _defaults(
    row: DatasetType, name: str, config: Config, values: Mapping[str, Any]
) -> dict[str, Any]:
    """What an entry has where it says nothing: from config.json, and folders below output_dir."""
    store, cache = values.get("type", "local"), config.output_dir / "cache"
    found = {key: getattr(config, key) for key in row.inherited}
    if "caption_strategy" in found and STORAGES[store].captions:
        found["caption_strategy"] = STORAGES[store].captions
    for key, folder in row.folders.items():
        if store in owners().get(key, (store,)):
            found[key] = str(cache / folder.format(id=name))
    return found


def _some(images: list[ImageDataset], path: Path) -> list[ImageDataset]:
    if not images:
        raise ConfigError(
            f"`{path}` has no enabled image dataset",
            hint='add one with "dataset_type": "image" and "instance_data_dir"',
        )
    if not any(d.probability > 0 for d in images):
        raise ConfigError(
            f"`{path}`: every image dataset has a probability of 0 or less",
            hint="give one of them a probability above 0",
        )
    if not any(d.start_epoch == 1 and d.start_step == 0 and d.probability > 0 for d in images):
        raise ConfigError(
            f"`{path}`: no dataset is active when training begins",
            hint="leave out start_epoch and start_step in one of them",
        )
    return images


def _text(texts: list[TextEmbeds], path: Path, config: Config) -> TextEmbeds:
    defaults = [t for t in texts if t.default]
    if len(defaults) > 1:
        names = " and ".join(f"`{t.id}`" for t in defaults[:2])
        raise ConfigError(
            f"`{path}`: {names} are both the default text_embeds", hint="keep default on one"
        )
    if defaults:
        return defaults[0]
    if texts:
        return texts[0]
    return TextEmbeds(
        id="text-embeds",
        cache_dir=config.output_dir / "cache" / "text" / "sd3",
        write_batch_size=config.write_batch_size,
    )


def _names_exist(found: Datasets, path: Path) -> None:
    """conditioning_data and text_embeds point at entries of the right kind."""
    for dataset in found.all:
        for key, known in (("conditioning_data", found.masks), ("text_embeds", found.texts)):
            name = getattr(dataset, key)
            if name is not None and name not in known:
                kind = "conditioning" if key == "conditioning_data" else "text_embeds"
                names = ", ".join(f"`{n}`" for n in known) or "there is none"
                raise ConfigError(
                    f"`{path}`: dataset `{dataset.id}`: `{key}={shown(name)}` names no enabled "
                    f"dataset of dataset_type={kind}",
                    hint=f"the ids of those: {names}",
                )


def _caches_apart(found: Datasets, path: Path) -> None:
    """Text and image caches in one folder would be pruned as one. Several image datasets may share
    theirs: entries are named by content."""
    texts = {t.cache_dir: t.id for t in found.texts.values()}
    for dataset in found.all:
        if dataset.cache_dir_vae in texts:
            raise ConfigError(
                f"`{path}`: dataset `{dataset.id}`: `cache_dir_vae={dataset.cache_dir_vae}` is "
                f"also the cache_dir of `{texts[dataset.cache_dir_vae]}`",
                hint="give each a folder of its own",
            )
