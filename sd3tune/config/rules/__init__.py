"""Every rule over several settings: when it holds, how severe it is, its sentence and its hint.

To add a rule, add a row: to contradictions.py for settings that cannot both be meant, to
without_effect.py for one that another switches off, to doubtful.py for what may not be meant;
dataset_contradictions.py and dataset_without_effect.py are the same for the keys of a dataset.
"""

from collections.abc import Iterator, Sequence, Set

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.contradictions import CONTRADICTIONS
from sd3tune.config.rules.dataset_contradictions import (
    DATASET_CONTRADICTIONS,
    FORBIDDEN_BY_RUN,
    DatasetOfRun,
)
from sd3tune.config.rules.dataset_without_effect import (
    DATASET_WITHOUT_EFFECT,
    RUN_WITHOUT_EFFECT,
    SWITCHED_OFF_BY_RUN,
    RunOfDatasets,
)
from sd3tune.config.rules.doubtful import DOUBTFUL
from sd3tune.config.rules.rule import Violation, violated
from sd3tune.config.rules.without_effect import WITHOUT_EFFECT
from sd3tune.config.settings.all_settings import AllSettings

RULES = (*CONTRADICTIONS, *DOUBTFUL, *WITHOUT_EFFECT)


def problems(settings: AllSettings, wrong: Set[str] = frozenset()) -> Iterator[Violation]:
    """Every violated rule. wrong: settings that have a problem of their own."""
    return violated(RULES, "error", settings, wrong)


def dataset_problems(
    dataset: ImageDataset, run: AllSettings, wrong: Set[str] = frozenset()
) -> Iterator[Violation]:
    """The same for the keys of a dataset, by themselves and beside the settings of the run."""
    yield from violated(DATASET_CONTRADICTIONS, "error", dataset, wrong)
    yield from violated(FORBIDDEN_BY_RUN, "error", DatasetOfRun(run, dataset), wrong)


def dataset_notes(dataset: ImageDataset) -> Iterator[str]:
    """A sentence for each key of a dataset that was set and changes nothing."""
    return (v.sentence for v in violated(DATASET_WITHOUT_EFFECT, "warning", dataset))


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
