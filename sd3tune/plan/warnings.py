"""What will run and may disappoint on this model. Recipes: docs/guides/stability.md. What depends
on settings alone is in config/rules."""

from collections.abc import Iterator

from sd3tune.config.config import Config
from sd3tune.sd3.variants import Model

LARGE = 5_000_000_000  # SD3.5 large has 8 billion parameters, medium 2.5


def of_optimisation(config: Config, model: Model, optimizer: str, peak: float) -> Iterator[str]:
    """peak: the learning rate after lr_scale."""
    large = model.transformer.parameters > LARGE
    if large and optimizer == "optimi-stableadamw" and peak >= 4e-5:
        yield (
            f"learning_rate {peak:g} with StableAdamW on {model.name}: 4e-5 and above has diverged "
            "there; 1e-5 held"
        )
    if large and not 0 < config.max_grad_norm <= 1:
        how = f"max_grad_norm={config.max_grad_norm:g}"
        off = " switches clipping off, which" if not config.max_grad_norm else ""
        yield (
            f"{how}{off} lets single batches through on {model.name}, whose runs are known to "
            "diverge from them; 0.1 to 1 held"
        )
    if optimizer == "prodigy" and not 0.1 <= peak <= 10:
        yield (
            f"learning_rate {peak:g} is a factor on the rate that Prodigy finds: set 1, or it "
            "takes steps that much too small or large"
        )
    if optimizer == "torch-adadelta" and peak < 0.01:
        yield f"learning_rate {peak:g} is a factor on Adadelta's own step: set about 1"
