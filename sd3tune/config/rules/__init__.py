"""Every rule over several settings: when it holds, how severe it is, its sentence and its hint.

To add a rule, add a row: to contradictions.py for settings that cannot both be meant,
without_effect.py for one that another switches off, doubtful.py for what may not be meant,
datasets.py for keys of a dataset.
"""

from collections.abc import Iterator, Sequence, Set

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.contradictions import CONTRADICTIONS
from sd3tune.config.rules.datasets import DATASET_RULES, RUN_RULES, DatasetOfRun
from sd3tune.config.rules.doubtful import DOUBTFUL
from sd3tune.config.rules.rule import violated
from sd3tune.config.rules.without_effect import WITHOUT_EFFECT
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import Problem

RULES = (*CONTRADICTIONS, *DOUBTFUL, *WITHOUT_EFFECT)


def problems(settings: AllSettings, wrong: Set[str] = frozenset()) -> Iterator[Problem]:
    """Every violated rule. wrong: settings that have a problem of their own."""
    return violated(RULES, "error", settings, wrong)


def dataset_problems(dataset: ImageDataset, wrong: Set[str] = frozenset()) -> Iterator[Problem]:
    """The same for the keys of a dataset."""
    return violated(DATASET_RULES, "error", dataset, wrong)


def dataset_notes(dataset: ImageDataset) -> Iterator[str]:
    """A sentence for each key of a dataset that was set and changes nothing."""
    return (sentence(problem) for problem in violated(DATASET_RULES, "warning", dataset))


def warnings(settings: AllSettings, datasets: Sequence[ImageDataset] = ()) -> tuple[str, ...]:
    """What will run and may disappoint: a sentence each, with what to write instead."""
    found = [sentence(p) for p in violated(RULES, "warning", settings)]
    for dataset in datasets:
        both = DatasetOfRun(settings, dataset)
        found += [f"dataset `{dataset.id}`: {sentence(p)}"
                  for p in violated(RUN_RULES, "warning", both)]  # fmt: skip
    return tuple(found)


def sentence(problem: Problem) -> str:
    """On one line."""
    return f"{problem.message}; {problem.hint}"
