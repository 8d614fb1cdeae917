"""Query, key, value and output gradient of a trained model's attention, in any shape.

Recorded from the demo's painter (scripts/record-activations). Random numbers have no outliers,
no means and no keys that nobody attends to; kernels whose gradients were right on them and wrong in
training have been reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

FILE = Path(__file__).with_name("activations.safetensors")
LAYERS = ("joint-first", "joint-middle", "image")
KEYS = ("q", "k", "v", "gradient")
VARIATION = 0.5  # of a copied token, over its root mean square: no two tokens are the same


@dataclass(frozen=True)
class AttentionShape:
    """Of one attention: images, heads, tokens of an image with its text."""

    batch: int
    heads: int
    tokens: int


def activations(layer: str, shape: AttentionShape, seed: int) -> list[Tensor]:
    """q, k, v and the gradient of the output, (B, tokens, heads, head_dim) in float32, on the CPU.

    Each sample and head is a recorded head whose channels were turned by a random rotation, the
    same for q and k so that scores stay. Tokens beyond the recorded ones are copies with noise of
    VARIATION; fewer are a random choice.
    """
    made = [_head(layer, shape.tokens, seed, n) for n in range(shape.batch * shape.heads)]
    parts = zip(*made, strict=True)
    whole = (torch.stack(part).unflatten(0, (shape.batch, shape.heads)) for part in parts)
    return [x.transpose(1, 2).contiguous() for x in whole]


def _head(layer: str, tokens: int, seed: int, number: int) -> list[Tensor]:
    """(tokens, head_dim) each."""
    dice = torch.Generator().manual_seed(1000 * seed + number)
    rows = list(recorded(layer))
    recorded_tokens, heads, width = rows[0].shape
    turn, other = _rotation(width, dice), _rotation(width, dice)
    chosen = torch.cat([torch.randperm(recorded_tokens, generator=dice)
                        for _ in range(-(-tokens // recorded_tokens))])[:tokens]  # fmt: skip
    made = []
    for x, rotation in zip(rows, (turn, turn, other, other), strict=True):
        picked = x[chosen, number % heads] @ rotation
        noise = torch.randn(picked.shape, generator=dice) * picked.square().mean().sqrt()
        noise[:recorded_tokens] = 0
        made.append(picked + VARIATION * noise)
    return made


def recorded(layer: str) -> Iterator[Tensor]:
    """q, k, v and gradient as they were recorded, (tokens, heads, head_dim) in float32."""
    return (_file()[f"{layer}.{key}"].float() for key in KEYS)


@cache
def _file() -> dict[str, Tensor]:
    return load_file(FILE)


def _rotation(width: int, dice: torch.Generator) -> Tensor:
    turn: Tensor = torch.linalg.qr(torch.randn(width, width, generator=dice)).Q
    return turn
