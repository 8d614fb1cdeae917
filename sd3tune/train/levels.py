"""The distributions that noise levels can have, before they are shifted."""

import numpy as np
import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.seeds import Draw, seed_of
from sd3tune.plan.objective import NoiseLevels
from sd3tune.sd3 import flow
from sd3tune.train import cubic


def unshifted(how: NoiseLevels, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
    """Levels (B,) of a continuous distribution. u (B,): uniform in (0, 1)."""
    if how.uniform:
        return u
    if how.beta is not None:
        return torch.tensor([_beta(seed, step, d, *how.beta) for d in batch.draws])
    if how.weights:
        return cubic.quantile(u, how.weights)
    return flow.logit_normal(u, how.scale, batch.level_offset)


def listed(how: NoiseLevels, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
    """Levels (B,) of flow_custom_timesteps: drawn with u (B,), or each image's next one. An image
    that occurs again in its step gets the one after that."""
    count = len(how.listed)
    if how.in_turn:  # each image begins at a place of its own
        places = [
            (step + seed_of(seed, image, "turn") + sum(occurrence)) % count
            for image, *occurrence in batch.draws
        ]
    else:
        places = [int(x * count) for x in u.tolist()]
    return torch.tensor([how.listed[p] for p in places])


def _beta(seed: int, step: int, sample: Draw, alpha: float, beta: float) -> float:
    """One draw; torch has neither the quantile function nor a seeded sampler."""
    return float(np.random.default_rng(seed_of(seed, step, *sample, "beta")).beta(alpha, beta))
