"""How long a run is, how large its steps are, and who takes part."""

from collections.abc import Sequence

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data.discover import Sample
from sd3tune.data.order import schedule
from sd3tune.decision import Decision
from sd3tune.processes.environment import Processes


def as_set(config: Config, name: str, default: str) -> Decision[str]:
    source = config.source(name)
    why = "set in the configuration" if source.by == "user" else default
    return Decision(str(getattr(config, name)), source, why)


def several(config: Config, processes: Processes, batch: int) -> Decision[str]:
    accumulated = config.gradient_accumulation_steps
    images = batch * accumulated * processes.size
    why = f"a step sees {images} images: {batch} x {accumulated} x {processes.size}"
    if config.fsdp_enable and processes.size > 1:
        why += "; weights, gradients and optimizer state are split (FSDP2)"
    return Decision(str(processes.size), config.source("num_processes"), why)


def scaled_rate(config: Config, batch: int, processes: int = 1) -> Decision[str]:
    """The schedule's peak. The noise of a mean over n images falls with its root: hence the two
    rules of scaling."""
    rate = config.learning_rate
    if not config.lr_scale:
        return as_set(config, "learning_rate", "the default")
    images = batch * config.gradient_accumulation_steps * processes
    factor = images**0.5 if config.lr_scale_sqrt else images
    root = "the square root of " if config.lr_scale_sqrt else ""
    return Decision(
        str(rate * factor), config.source("lr_scale"), f"{rate:g} x {root}{images} images a step"
    )


def steps(
    config: Config,
    samples: Sequence[Sample],
    datasets: Sequence[ImageDataset],
    batch: int,
    processes: int,
) -> Decision[str]:
    if config.max_train_steps:
        return Decision(
            str(config.max_train_steps),
            config.source("max_train_steps"),
            "set in the configuration",
        )
    epochs = config.num_train_epochs or 1
    made = schedule(samples, datasets, config, batch, processes=processes)
    steps = made.steps_of(epochs)
    why = f"{epochs} epochs of {made.steps_of(1)} steps over {len(samples)} images"
    return Decision(str(steps), config.source("num_train_epochs"), why)
