"""The inputs of the plan: settings, the machine's facts, the model, and the discovered datasets."""

from collections.abc import Sequence
from dataclasses import dataclass

from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.data.discover import Sample
from sd3tune.plan.memory import gib
from sd3tune.processes.environment import ALONE, Processes
from sd3tune.sd3.variants import Model, tokens


@dataclass(frozen=True)
class RunInputs:
    """Everything `resolve` looks at."""

    config: Config
    facts: Facts
    model: Model
    samples: Sequence[Sample]  # what is trained on
    datasets: Sequence[ImageDataset] = ()  # with settings of their own; without: the run's count
    processes: Processes = ALONE
    lycoris: Lycoris | None = None  # with lora_type=lycoris
    prompts: int = 0  # of validation pictures

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """Width and height in pixels of every bucket that has images."""
        return {s.geometry.bucket for s in self.samples}

    @property
    def largest_size(self) -> tuple[int, int]:
        """Width and height of the bucket with the most tokens."""
        return max(self.sizes, key=lambda size: tokens(*size))

    @property
    def average_tokens(self) -> float:
        """Image tokens of an image, on average over what an epoch draws."""
        drawn = sum(s.repeats + 1 for s in self.samples)
        return sum((s.repeats + 1) * tokens(*s.geometry.bucket) for s in self.samples) / drawn

    @property
    def smallest_batch(self) -> int:
        """Images per forward pass: what the user set; 1 where the size is left open, since the plan
        then chooses what fits."""
        return self.config.train_batch_size or 1

    @property
    def room_bytes(self) -> int | None:
        """Memory that may be filled, of the device with the least; None: no device says."""
        return self.facts.tightest.room_bytes

    @property
    def room_words(self) -> str:
        """The memory that may be filled, as a part of a sentence."""
        device = self.facts.tightest
        if device.free is not None:
            return f"{device.free} on {device.name}"
        return f"{device.name} has {gib(device.room_bytes or 0)}"
