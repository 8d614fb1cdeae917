"""Noise and noise levels: functions of (seed, step, image, its occurrence in the step).

DrawnAhead on the CPU: the same run sees the same noise on every vendor, in every batch layout, and
after a resume. There is no generator state to save. Levels are computed in float64, which MPS
lacks.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from sd3tune.data.batch import Batch, DrawnAhead
from sd3tune.data.seeds import Draw, seed_of
from sd3tune.plan.objective import NoiseLevels
from sd3tune.sd3 import flow
from sd3tune.sd3.variants import PATCH
from sd3tune.train import levels


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
    for i, sample in enumerate(batch.draws):
        generator = torch.Generator().manual_seed(seed_of(seed, step, *sample))
        eps[i].normal_(generator=generator)
        u[i : i + 1].uniform_(1e-7, 1 - 1e-7, generator=generator)
        data = eps[i].numpy().tobytes() + u[i].numpy().tobytes()
        digests.append(int.from_bytes(blake2b(data, digest_size=8).digest(), "big"))
    return Noise(eps.to(batch.latents.device), u, tuple(digests))


def drawn(how: NoiseLevels, seed: int, step: int, batch: Batch) -> DrawnAhead:
    """Noise and noise levels of a batch: those that its loader drew ahead, or new ones."""
    if batch.drawn is not None and batch.drawn.step == step:
        return batch.drawn
    noise = draw(seed, step, batch)
    return DrawnAhead(step, noise.eps, draw_levels(how, seed, step, batch, noise.u), noise.digests)


def another(seed: int, step: int, batch: Batch, label: str) -> Tensor:
    """Unit noise of another kind, shaped like the latents and on their device."""
    eps = torch.empty(batch.latents.shape)
    for i, sample in enumerate(batch.draws):
        eps[i].normal_(generator=torch.Generator().manual_seed(seed_of(seed, step, *sample, label)))
    return eps.to(batch.latents.device)


def dice(seed: int, step: int, sample: Draw, label: str) -> float:
    """A uniform number in [0, 1). sample: of `Batch.draws`."""
    return seed_of(seed, step, *sample, label) / 2**63


def draw_levels(how: NoiseLevels, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
    """Noise levels (B,) float32 on the CPU, as the network sees them. u (B,): of `draw`."""
    if how.listed:
        return levels.listed(how, seed, step, batch, u)
    height, width = batch.latents.shape[-2:]
    by_tokens = flow.auto_shift((height // PATCH) * (width // PATCH))
    shift = by_tokens if how.shift is None else how.shift
    return flow.shifted(levels.unshifted(how, seed, step, batch, u), shift)
