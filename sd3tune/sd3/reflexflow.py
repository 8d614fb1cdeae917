"""ReflexFlow (Huang et al. 2025, arXiv:2512.04904; its successor is DEFAR, arXiv:2606.28226): the
loss where the network is shown where it drifted to itself, instead of the path.

    zr         where the rollout ended, z where the path is, both at level s; v the network
    L          beta2 mean( w d(v(zr) - (eps - x0)) )  +  beta1 A
    w = 1 + alpha b / sum |b|,  b = v(z) - v(zr)      frequency compensation: what drifting loses
    A = || v(zr) / |v(zr)| - (zr - x0) / |zr - x0| ||^2     anti-drift rectification: from zr to x0

The velocity points from image to noise, hence zr - x0; the paper counts time the other way. The
sum runs over an image, so w differs from 1 by alpha / elements on average: 1 is a gentle touch.
"""

from torch import Tensor
from torch.nn.functional import normalize

TINY = 1e-12


def emphasis(clean: Tensor, rolled: Tensor, alpha: float, beta2: float) -> Tensor:
    """beta2 w (B, C, H, W), of the predictions v(z) and v(zr), (B, C, H, W) each."""
    b = clean - rolled
    total = b.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
    return beta2 * (1 + alpha * b / total)


def drift(v: Tensor, zr: Tensor, x0: Tensor, beta1: float, weight: Tensor | None = None) -> Tensor:
    """beta1 A for each image (B,). weight (B, 1, H, W): directions within a mask only."""
    d = zr - x0
    if weight is not None:
        v, d = v * weight, d * weight
    apart = normalize(v.flatten(1), dim=1) - normalize(d.flatten(1), dim=1)
    return beta1 * apart.square().sum(dim=1)
