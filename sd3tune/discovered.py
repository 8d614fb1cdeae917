"""The datasets of a run as they are on their storage: every file with its geometry, or the reason
why it is left out. Reads headers, and no pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sd3tune.config.config import Config
from sd3tune.config.datasets.bucket_caches import kept_in_bucket
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.datasets.listing import Datasets
from sd3tune.data import run_folders
from sd3tune.data.discover import Discovery, Sample, discover, within
from sd3tune.data.sources import Source, source_of
from sd3tune.errors import DataError, ErrorAndHint
from sd3tune.filesystem import cachedir
from sd3tune.report.messages import say, warn
from sd3tune.report.progress import stage

FILL = "leave it out of skip_file_discovery once: `sd3tune cache build` encodes what is missing"


@dataclass(frozen=True)
class Discovered:
    """The datasets of a run as they are on their storage."""

    config: Config
    datasets: Datasets
    sources: Mapping[str, Source]  # by dataset id, masks included
    discoveries: Mapping[str, Discovery]  # by dataset id; without those that are never drawn

    def dataset(self, name: str) -> ImageDataset:
        return next(d for d in self.datasets.all if d.id == name)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Images to train on."""
        return self._of(self.datasets.images)

    @property
    def evals(self) -> tuple[Sample, ...]:
        """Images for the evaluation loss; none without an `eval` dataset."""
        return self._of(self.datasets.evals)

    def refuse_empty_caches(self) -> None:
        """Raises DataError where skip_file_discovery forbids to encode what no cache holds."""
        empty = []
        for d in self.datasets.all:
            text = self.datasets.text_of(d)
            caches = (("vae", d.cache_dir_vae, d), ("text", text.cache_dir, text))
            empty += [
                ErrorAndHint(f"dataset `{d.id}`: {skipped(part)}, and `{folder}` is empty", FILL)
                for part, folder, entry in caches
                if part in d.skip_file_discovery
                and not kept_in_bucket(entry)  # which has what is missing
                and d.id in self.discoveries
                and not cachedir.has_shards(folder)
            ]
        if empty:
            raise DataError.of(empty)

    def _of(self, datasets: Sequence[ImageDataset]) -> tuple[Sample, ...]:
        found = (self.discoveries[d.id] for d in datasets if d.id in self.discoveries)
        return tuple(s for discovery in found for s in discovery.samples)


def discover_all(config: Config, datasets: Datasets, longest: int | None) -> Discovered:
    """Discovers every dataset, except training datasets with probability 0. longest: the model's
    longest image side, in pixels; None: larger images stay."""
    run_folders.refuse_own_pictures(config, datasets)
    written = run_folders.folders(config, datasets)
    stored = {d.id: d for d in datasets.all} | dict(datasets.masks)
    sources: dict[str, Source] = {
        name: source_of(d, partial(say_contact, name), written) for name, d in stored.items()
    }
    named: set[str] = set()
    discoveries = {}
    refused: list[ErrorAndHint] = []
    for d in datasets.all:
        if d.trained and d.probability <= 0:
            continue
        masks = sources[d.conditioning_data] if d.conditioning_data else None
        used = {name: sources[name] for name in (d.id, d.conditioning_data) if name}
        for name in used.keys() - named:  # before the first of them is asked
            for host in used[name].contacts():
                say_contact(name, host)
        try:
            with stage(f"look at {d.id}", None) as bar:
                found = discover(d, sources[d.id], masks=masks, tick=bar.advance, expect=bar.expect)
        except DataError as e:  # the other datasets may have problems too
            refused += e.problems
            continue
        for name in used.keys() - named:
            for warning in used[name].warnings():
                warn(f"dataset `{name}`: {warning}")
        named |= used.keys()
        try:
            discoveries[d.id] = found if longest is None else within(found, longest, d)
        except DataError as e:
            refused += e.problems
    if refused:
        raise DataError.of(list(dict.fromkeys(refused)))
    of_files = (
        f"dataset `{n}`: {note}" for n, found in discoveries.items() for note in found.notes
    )
    notes = (*datasets.notes, *run_folders.notes(sources), *of_files)
    datasets = replace(datasets, notes=notes)
    return Discovered(config, datasets, sources, discoveries)


def skipped(part: str) -> str:
    """part: `vae` or `text`, as skip_file_discovery names it."""
    return f"`skip_file_discovery` has `{part}`, which encodes nothing"


def say_contact(dataset: str, host: str) -> None:
    """host: with the reason in brackets."""
    say(f"contacts {host} for dataset `{dataset}`")
