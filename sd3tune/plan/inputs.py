"""The inputs of the plan: settings, the machine's facts, the model, and the discovered datasets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.data.discover import Sample
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.processes.environment import ALONE, Processes
from sd3tune.sd3.variants import Model, Transformer, tokens

# Bytes of tensors at the peak of a step, counted in a fake one; None: it was not counted.
Count = Callable[[Transformer, Load], int | None]
NEAR = 0.03  # of the room: how far the formula may be from the count


def not_counted(shape: Transformer, load: Load) -> int | None:
    """The formula alone."""
    return None


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
    count: Count = not_counted  # asked where the formula is too near the limit to decide

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

    def needed(self, load: Load) -> int:
        """Bytes of the device that training needs: counted where the formula comes near to what
        there is, since it may be off by NEAR; otherwise by the formula."""
        by_formula = estimate(self.model, load)
        room = self.room_bytes
        if room is None or abs(by_formula.training - room) > NEAR * room:
            return by_formula.training
        counted = self.count(self.model.transformer, load)
        return by_formula.training if counted is None else counted + by_formula.workspace

    @property
    def room_words(self) -> str:
        """The memory that may be filled, as a part of a sentence."""
        device = self.facts.tightest
        if device.free is not None:
            return f"{device.free} on {device.name}"
        return f"{device.name} has {gib(device.room_bytes or 0)}"
