"""Every rule over several settings: when it holds, how severe it is, its sentence and its hint.

To add a rule, add a row: to magnitudes.py for numbers that cannot be meant, to contradictions.py
for settings that cannot both be meant, to without_effect.py for one that another switches off, to
doubtful.py for what may not be meant. The files of datasets are the same for the keys of a dataset;
run_without_effect.py is for a run beside its datasets.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain

from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.storage import Stored
from sd3tune.config.rules.contradictions import CONTRADICTIONS
from sd3tune.config.rules.dataset_contradictions import (
    DATASET_CONTRADICTIONS,
    FORBIDDEN_BY_RUN,
    DatasetOfRun,
)
from sd3tune.config.rules.dataset_without_effect import (
    COLUMNS_WITHOUT_EFFECT,
    DATASET_WITHOUT_EFFECT,
    MASKS_WITHOUT_EFFECT,
    STORED_WITHOUT_EFFECT,
    TEXT_WITHOUT_EFFECT,
)
from sd3tune.config.rules.doubtful import DOUBTFUL
from sd3tune.config.rules.magnitudes import MAGNITUDES
from sd3tune.config.rules.rule import Violation, violated
from sd3tune.config.rules.run_without_effect import (
    DEFAULTS_WITHOUT_EFFECT,
    RUN_WITHOUT_EFFECT,
    SWITCHED_OFF_BY_RUN,
    EntriesOfRun,
    RunOfDatasets,
)
from sd3tune.config.rules.without_effect import WITHOUT_EFFECT
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.decision import Provenance

RULES = (*MAGNITUDES, *CONTRADICTIONS, *DOUBTFUL, *WITHOUT_EFFECT)


def problems(settings: AllSettings, wrong: Set[str] = frozenset()) -> Iterator[Violation]:
    """Every violated rule. wrong: settings that have a problem of their own."""
    return violated(RULES, "error", settings, wrong)


def dataset_problems(
    dataset: ImageDataset, run: AllSettings, wrong: Set[str] = frozenset()
) -> Iterator[Violation]:
    """The same for the keys of a dataset, by themselves and beside the settings of the run."""
    yield from violated(DATASET_CONTRADICTIONS, "error", dataset, wrong)
    yield from violated(FORBIDDEN_BY_RUN, "error", DatasetOfRun(run, dataset), wrong)


def dataset_notes(dataset: Stored | TextEmbeds) -> Iterator[str]:
    """A sentence for each key of a dataset that was set and changes nothing."""
    if isinstance(dataset, TextEmbeds):
        return (v.sentence for v in violated(TEXT_WITHOUT_EFFECT, "warning", dataset))
    found = violated(STORED_WITHOUT_EFFECT, "warning", dataset)
    if isinstance(dataset, ImageDataset):
        rows = (*DATASET_WITHOUT_EFFECT, *COLUMNS_WITHOUT_EFFECT)
        found = chain(found, violated(rows, "warning", dataset))
    if isinstance(dataset, Masks):
        found = chain(found, violated(MASKS_WITHOUT_EFFECT, "warning", dataset))
    return (v.sentence for v in found)


def entry_notes(
    settings: AllSettings, entries: Sequence[tuple[object, Mapping[str, Provenance]]]
) -> Iterator[str]:
    """A sentence for each setting of the run that all entries of the datasets file override.
    entries: what each says, and who chose each key."""
    both = EntriesOfRun(settings, entries)
    return (v.sentence for v in violated(DEFAULTS_WITHOUT_EFFECT, "warning", both))


def warnings(settings: AllSettings, datasets: Sequence[ImageDataset] = ()) -> tuple[str, ...]:
    """What will run and may disappoint: a sentence each, with what to write instead."""
    sentences = [v.sentence for v in violated(RULES, "warning", settings)]
    if datasets:
        run = RunOfDatasets(settings, datasets)
        sentences += [v.sentence for v in violated(RUN_WITHOUT_EFFECT, "warning", run)]
    for dataset in datasets:
        both = DatasetOfRun(settings, dataset)
        sentences += [f"dataset `{dataset.id}`: {v.sentence}"
                  for v in violated(SWITCHED_OFF_BY_RUN, "warning", both)]  # fmt: skip
    return tuple(sentences)
