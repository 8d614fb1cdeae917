"""Every random number of training, as a function of (seed, step, image): noise, and noise levels.

Drawn on the CPU: the same run sees the same noise on every vendor, in every batch layout, and
after a resume. There is no generator state to save. Levels are computed in float64, which MPS
lacks.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.seeds import seed_of
from sd3tune.plan.objective import NoiseLevels
from sd3tune.sd3 import flow
from sd3tune.sd3.variants import PATCH
from sd3tune.train import cubic


@dataclass(frozen=True)
class Noise:
    """What is drawn for a batch."""

    eps: Tensor  # unit noise, shaped like the latents and on their device
    u: Tensor  # (B,) uniform in (0, 1), on the CPU: each image's noise level is made of it
    digests: tuple[int, ...]  # 64 bits of each image's noise, by which runs are compared


@dataclass(frozen=True)
class Points:
    """Where on their paths the images of a batch are, in one step."""

    batch: Batch
    step: int
    eps: Tensor  # unit noise, shaped like the latents
    s: Tensor  # (B,) noise levels, on their device


def draw(seed: int, step: int, batch: Batch) -> Noise:
    """The noise of every image of a batch."""
    eps, u = torch.empty(batch.latents.shape), torch.empty(len(batch.ids))
    digests = []
    for i, image in enumerate(batch.ids):
        generator = torch.Generator().manual_seed(seed_of(seed, step, image))
        eps[i].normal_(generator=generator)
        u[i : i + 1].uniform_(1e-7, 1 - 1e-7, generator=generator)
        data = eps[i].numpy().tobytes() + u[i].numpy().tobytes()
        digests.append(int.from_bytes(blake2b(data, digest_size=8).digest(), "big"))
    return Noise(eps.to(batch.latents.device), u, tuple(digests))


def another(seed: int, step: int, batch: Batch, label: str) -> Tensor:
    """Unit noise of another kind, shaped like the latents and on their device."""
    eps = torch.empty(batch.latents.shape)
    for i, image in enumerate(batch.ids):
        eps[i].normal_(generator=torch.Generator().manual_seed(seed_of(seed, step, image, label)))
    return eps.to(batch.latents.device)


def dice(seed: int, step: int, image: int, label: str) -> float:
    """A uniform number in [0, 1)."""
    return seed_of(seed, step, image, label) / 2**63


def draw_levels(how: NoiseLevels, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
    """Noise levels (B,) float32 on the CPU, as the network sees them. u (B,): of `draw`."""
    if how.listed:
        return _from_list(how, seed, step, batch, u)
    height, width = batch.latents.shape[-2:]
    by_tokens = flow.auto_shift((height // PATCH) * (width // PATCH))
    shift = by_tokens if how.shift is None else how.shift
    return flow.shifted(_unshifted(how, seed, step, batch, u), shift)


def _unshifted(how: NoiseLevels, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
    if how.uniform:
        return u
    if how.beta is not None:
        return torch.tensor([_beta(seed, step, i, *how.beta) for i in batch.ids])
    if how.weights:
        return cubic.quantile(u, how.weights)
    return flow.logit_normal(u, how.scale, batch.level_offset)


def _from_list(how: NoiseLevels, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
    count = len(how.listed)
    if how.in_turn:  # each image begins at a place of its own
        places = [(step + seed_of(seed, i, "turn")) % count for i in batch.ids]
    else:
        places = [int(x * count) for x in u.tolist()]
    return torch.tensor([how.listed[p] for p in places])


def _beta(seed: int, step: int, image: int, alpha: float, beta: float) -> float:
    """One draw; torch has neither the quantile function nor a seeded sampler."""
    return float(np.random.default_rng(seed_of(seed, step, image, "beta")).beta(alpha, beta))
