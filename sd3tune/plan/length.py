"""How long a run is, how large its steps are, and who takes part."""

from collections.abc import Sequence

from sd3tune.backends.decide import Decision
from sd3tune.backends.processes import Processes
from sd3tune.config.dataset import ImageDataset
from sd3tune.config.settings import Config
from sd3tune.data.discover import Sample
from sd3tune.data.schedule import schedule


def is_set(config: Config, name: str) -> bool:
    return name in config.model_fields_set and getattr(config, name) is not None


def as_set(config: Config, name: str, default: str) -> Decision:
    if is_set(config, name):
        return Decision(str(getattr(config, name)), "user", "set in the configuration")
    return Decision(str(getattr(config, name)), "auto", default)


def several(config: Config, processes: Processes, batch: int) -> Decision:
    accumulated = config.gradient_accumulation_steps
    images = batch * accumulated * processes.size
    why = f"a step sees {images} images: {batch} x {accumulated} x {processes.size}"
    if config.fsdp_enable and processes.size > 1:
        why += "; weights, gradients and optimizer state are split (FSDP2)"
    return Decision(str(processes.size), "user" if processes.size > 1 else "auto", why)


def scaled_rate(config: Config, batch: int, processes: int = 1) -> Decision:
    """The schedule's peak. The noise of a mean over n images falls with its root: hence the two
    rules of scaling."""
    rate = config.learning_rate
    if not config.lr_scale:
        return as_set(config, "learning_rate", "the default")
    images = batch * config.gradient_accumulation_steps * processes
    factor = images**0.5 if config.lr_scale_sqrt else images
    root = "the square root of " if config.lr_scale_sqrt else ""
    return Decision(str(rate * factor), "user", f"{rate:g} x {root}{images} images a step")


def steps(
    config: Config,
    samples: Sequence[Sample],
    datasets: Sequence[ImageDataset],
    batch: int,
    processes: int,
) -> Decision:
    if config.max_train_steps:
        return Decision(str(config.max_train_steps), "user", "set in the configuration")
    epochs = config.num_train_epochs or 1
    made = schedule(samples, datasets, config, batch, processes=processes)
    steps = made.steps_of(epochs)
    why = f"{epochs} epochs of {made.steps_of(1)} steps over {len(samples)} images"
    return Decision(str(steps), "user", why)
