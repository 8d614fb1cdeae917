"""Predictions without training: dropout is off, and optionally the adapter too."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor

from sd3tune.adapters.trained import Trained
from sd3tune.sd3.condition import denoiser


@contextmanager
def evaluating(trained: Trained, *, adapter: bool = True) -> Iterator[None]:
    """Dropout off, and with adapter=False the adapter too; as before afterwards."""
    training = trained.model.training
    trained.model.eval()
    try:
        with nullcontext() if adapter else trained.off():
            yield
    finally:
        trained.model.train(training)


def without_adapter(trained: Trained, z: Tensor, t: Tensor, condition: Any) -> Tensor:
    """What the model predicted before it was adapted, as flow.Model: the target on regularisation
    images."""
    with evaluating(trained, adapter=False):
        return denoiser(trained.model)(z, t, condition)
