"""config/multidatabackend.json: the datasets of a run, and where caches go.

Global settings of the same name are a dataset's defaults. A key that is accepted has an effect;
anything else is refused by name. All problems of the file are reported at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sd3tune.config import rules, values
from sd3tune.config.datasets import entries
from sd3tune.config.datasets.entries import DatasetEntry
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.paths import folders_exist
from sd3tune.config.files.reading import JSON_NAMES, read_json, without_dashes
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.names import DATASET_ALIASES
from sd3tune.config.problems import Problems, shown
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.decision import DEFAULT, Provenance
from sd3tune.errors import ConfigError, ErrorAndHint


@dataclass(frozen=True)
class Datasets:
    """The enabled entries. Every `conditioning_data` and `text_embeds` names one of them."""

    images: tuple[ImageDataset, ...]
    text: TextEmbeds  # the default one
    evals: tuple[ImageDataset, ...] = ()
    masks: Mapping[str, Masks] = field(default_factory=dict)
    texts: Mapping[str, TextEmbeds] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was let through and changes nothing
    sources: Mapping[str, Mapping[str, Provenance]] = field(  # by id, by key
        default_factory=dict, compare=False
    )

    @property
    def all(self) -> tuple[ImageDataset, ...]:
        """Everything with images, trained on or not."""
        return self.images + self.evals

    def evaluated(self, asked: str | None) -> tuple[ImageDataset, ...]:
        """Those that the evaluation loss is measured on: the one of the id `asked`, otherwise the
        `eval` datasets, and where there are none, what is trained on."""
        drawn = tuple(d for d in self.images if d.probability > 0)
        if asked is not None:
            return tuple(d for d in (*self.evals, *drawn) if d.id == asked)
        return self.evals or tuple(d for d in drawn if not d.is_regularisation_data) or drawn

    def text_of(self, dataset: ImageDataset) -> TextEmbeds:
        """Where the captions of a dataset are kept."""
        return self.texts[dataset.text_embeds] if dataset.text_embeds else self.text

    def source(self, dataset: str, key: str) -> Provenance:
        """Who chose a key's value: the entry, the setting of the same name in config.json, or
        nobody."""
        return self.sources.get(dataset, {}).get(key, DEFAULT)


def load_datasets(path: Path, config: AllSettings) -> Datasets:
    """Reads and checks the file. Raises ConfigError with all problems, each naming file, dataset,
    key and value."""
    datasets, problems = read_datasets(path, config)
    if problems:
        raise ConfigError.of(problems)
    return datasets


def read_datasets(
    path: Path, config: AllSettings, wrong: frozenset[str] = frozenset()
) -> tuple[Datasets, tuple[ErrorAndHint, ...]]:
    """The datasets without a problem, and all problems. wrong: settings of the run that have a
    problem of their own; rules that depend on them are not asked. Raises ConfigError when the file
    cannot be read."""
    problems = Problems()
    document = read_json(path, list, "list of datasets")
    made: list[DatasetEntry] = []
    seen: set[str] = set()
    disabled = 0
    for number, entry in enumerate(document, 1):
        with problems.collecting():
            written = _written(entry, path, number, problems)
            if _disabled(written.values.pop("disabled", False), path, number, problems):
                disabled += 1
                continue
            name = entries.named(written.values, path, number, seen, problems)
            written.set("id", name, "id")
            made.append(entries.read(written, name, config, wrong, problems))
    with problems.collecting():
        folders_exist({e.id: e.folder for e in made if e.folder is not None}, path)
    complete = [e for e in made if e.dataset is not None]
    datasets = _listed(complete, path, config, problems)
    if len(complete) + disabled == len(document):  # otherwise what is missing may be in the others
        for check in (_some_are_drawn, _names_exist, _caches_apart):
            check(datasets, path, problems)
        _evaluated_exists(datasets, path, config, problems)
    return datasets, problems.ordered()


def _written(entry: Any, path: Path, number: int, problems: Problems) -> WrittenSettings:
    """An entry under today's names. Raises ConfigError when it is not an object."""
    if not isinstance(entry, dict):
        held = JSON_NAMES.get(type(entry), "a number or null")
        raise ConfigError(
            f"`{path}`: entry {number} is {held}, not an object",
            hint="every dataset is an object { } with an id",
        )
    written = without_dashes(entry, path, problems)
    today = WrittenSettings(written.file)
    for old, value in written.values.items():
        name = DATASET_ALIASES.get(old, old)
        if name in today.values:
            other = next(o for o in entry if o != name and DATASET_ALIASES.get(o) == name)
            what = f"`{path}`: entry {number}: `{other}` sets `{name}` a second time"
            problems.add(ErrorAndHint(what, "remove one of the two"))
        else:
            today.set(name, value, written.keys[old])
    return today


def _disabled(value: Any, path: Path, number: int, problems: Problems) -> bool:
    try:
        return bool(values.flag(value))
    except ValueError as e:
        what = f"`{path}`: entry {number}: `disabled={shown(value)}` {e}"
        problems.add(ErrorAndHint(what, "write true or false"))
        return False


def _listed(
    entries: list[DatasetEntry], path: Path, config: AllSettings, problems: Problems
) -> Datasets:
    images = [e.dataset for e in entries if isinstance(e.dataset, ImageDataset)]
    texts = [e.dataset for e in entries if isinstance(e.dataset, TextEmbeds)]
    masks = {e.dataset.id: e.dataset for e in entries if isinstance(e.dataset, Masks)}
    text = _default_text(texts, path, config, problems)
    return Datasets(
        images=tuple(d for d in images if d.trained),
        text=text,
        evals=tuple(d for d in images if not d.trained),
        masks=masks,
        texts={t.id: t for t in texts} | {text.id: text},
        notes=(
            *config.notes,
            *rules.entry_notes(config, [(e.dataset, e.sources) for e in entries]),
            *(note for e in entries for note in e.notes),
            *_unused(images, [*masks, *(t.id for t in texts if t is not text)]),
        ),
        sources={e.dataset.id: e.sources for e in entries if e.dataset is not None},
    )


def _unused(images: Sequence[ImageDataset], ids: Sequence[str]) -> Iterator[str]:
    """A sentence for each entry of masks or captions that no dataset names."""
    named = {name for d in images for name in (d.conditioning_data, d.text_embeds)}
    for name in ids:
        if name not in named:
            yield (
                f"dataset `{name}` not used: no image dataset names it in conditioning_data or "
                "text_embeds; name it there, or leave it out"
            )


def _default_text(
    texts: list[TextEmbeds], path: Path, config: AllSettings, problems: Problems
) -> TextEmbeds:
    defaults = [t for t in texts if t.default]
    if len(defaults) > 1:
        names = " and ".join(f"`{t.id}`" for t in defaults[:2])
        what = f"`{path}`: {names} are both the default text_embeds"
        problems.add(ErrorAndHint(what, "keep default on one"))
    if defaults or texts:
        return (defaults or texts)[0]
    return TextEmbeds(
        id="text-embeds",
        cache_dir=config.output_dir / "cache" / "text" / "sd3",
        write_batch_size=config.write_batch_size,
    )


def _some_are_drawn(datasets: Datasets, path: Path, problems: Problems) -> None:
    images = datasets.images
    if not images:
        what = f"`{path}` has no enabled image dataset"
        hint = 'add one with "dataset_type": "image" and "instance_data_dir"'
    elif not any(d.probability > 0 for d in images):
        what = f"`{path}`: every image dataset has a probability of 0 or less"
        hint = "give one of them a probability above 0"
    elif not any(d.start_epoch == 1 and d.start_step == 0 and d.probability > 0 for d in images):
        what = f"`{path}`: no dataset is active when training begins"
        hint = "leave out start_epoch and start_step in one of them"
    else:
        return
    problems.add(ErrorAndHint(what, hint))


def _names_exist(datasets: Datasets, path: Path, problems: Problems) -> None:
    """conditioning_data and text_embeds point at entries of the right kind."""
    for dataset in datasets.all:
        for key, known in (("conditioning_data", datasets.masks), ("text_embeds", datasets.texts)):
            name = getattr(dataset, key)
            if name is not None and name not in known:
                kind = "conditioning" if key == "conditioning_data" else "text_embeds"
                names = ", ".join(f"`{n}`" for n in known) or "there is none"
                what = (
                    f"`{path}`: dataset `{dataset.id}`: `{key}={shown(name)}` names no enabled "
                    f"dataset of dataset_type={kind}"
                )
                problems.add(ErrorAndHint(what, f"the ids of dataset_type={kind}: {names}"))


def _evaluated_exists(
    datasets: Datasets, path: Path, config: AllSettings, problems: Problems
) -> None:
    asked = config.eval_dataset_id
    if asked is None or datasets.evaluated(asked):
        return
    what = f"`eval_dataset_id={shown(asked)}` names no enabled dataset of images in `{path}`"
    ids = ", ".join(f"`{d.id}`" for d in datasets.evaluated(None)) or "there is none"
    problems.add(ErrorAndHint(what, f"the ids that it can name: {ids}"))


def _caches_apart(datasets: Datasets, path: Path, problems: Problems) -> None:
    """Text and image caches in one folder would be pruned as one. Several image datasets may share
    theirs: entries are named by content."""
    texts = {t.cache_dir: t.id for t in datasets.texts.values()}
    for dataset in datasets.all:
        if dataset.cache_dir_vae in texts:
            what = (
                f"`{path}`: dataset `{dataset.id}`: `cache_dir_vae={dataset.cache_dir_vae}` is "
                f"also the cache_dir of `{texts[dataset.cache_dir_vae]}`"
            )
            problems.add(ErrorAndHint(what, "give each a folder of its own"))
