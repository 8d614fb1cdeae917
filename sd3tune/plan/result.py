"""The name of a run's result, and the facts about its data that travel with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.dataset_without_effect import fixed_caption
from sd3tune.data.discover import Sample
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.publishing import model_name

DEFAULT_STEM = "pytorch_lora_weights"  # the name that diffusers looks for in a folder
MOST_TAGS = 200  # of a dataset
LONGEST_TAG = 100  # characters; what is longer is a sentence


@dataclass(frozen=True)
class ResultPlan:
    """base: the model as the user named it, of a folder its name alone. images: of an epoch, with
    repeats. tags: dataset -> tag -> captions that have it, the most frequent ones first."""

    file: str
    title: str
    base: str
    trigger_words: tuple[str, ...]
    images: int
    tags: Mapping[str, Mapping[str, int]]


def result_plan(inputs: RunInputs) -> ResultPlan:
    """output_name, and what discovery has seen."""
    c = inputs.config
    return ResultPlan(
        file=f"{c.output_name or DEFAULT_STEM}.safetensors",
        title=c.output_name or c.output_dir.name,
        base=model_name(c.pretrained_model_name_or_path) or inputs.model.name,
        trigger_words=tuple(dict.fromkeys(filter(None, map(_trigger_words, inputs.datasets)))),
        images=sum(1 + s.repeats for s in inputs.samples),
        tags=_tags(inputs.samples),
    )


def _trigger_words(dataset: ImageDataset) -> str:
    """The instance_prompt where captions have it and it is not of regularisation images."""
    used = fixed_caption(dataset) or dataset.prepend_instance_prompt
    if not used or dataset.is_regularisation_data:
        return ""
    return (dataset.instance_prompt or "").strip()


def _tags(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Parts of captions between commas that two captions or more have in common: a caption that
    describes one image stays out of the file."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        for caption in sample.captions:
            parts = {part.strip() for part in caption.split(",")}
            counts.setdefault(sample.dataset, Counter()).update(parts)
    return {dataset: _frequent(count) for dataset, count in sorted(counts.items())}


def _frequent(counts: Mapping[str, int]) -> dict[str, int]:
    shared = ((t, n) for t, n in counts.items() if n > 1 and 0 < len(t) <= LONGEST_TAG)
    return dict(sorted(shared, key=lambda item: (-item[1], item[0]))[:MOST_TAGS])
