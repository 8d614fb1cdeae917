"""The loss on a few fixed images at fixed noise levels: the same question before and after."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sd3tune.data.batch import Batch
from sd3tune.plan.prepare import Prepared
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import Denoiser
from sd3tune.train.caches import Caches
from sd3tune.train.noise import draw
from sd3tune.train.step import Recipe, autocast

IMAGES = 8
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
DRAW = 2**31  # a step no run reaches: these draws are never trained on


def fixed_batches(prepared: Prepared, caches: Caches, device: torch.device) -> list[Batch]:
    """The images with the lowest ids, alone in their batches, with their first caption."""
    chosen = sorted({s.id: s for s in prepared.samples}.values(), key=lambda s: s.id)[:IMAGES]
    found = []
    for s in chosen:
        embeds, pooled = caches.embeds(s.captions[0])
        found.append(
            Batch((s.id,), caches.latent(s)[None].to(device), embeds[None].to(device),
                  pooled[None].to(device))
        )  # fmt: skip
    return found


def evaluate(
    model: Any, batches: Sequence[Batch], recipe: Recipe, *, adapter: bool = True
) -> float:
    """Mean loss over images and LEVELS. adapter=False: of the model before any training."""
    total = 0.0
    with torch.no_grad(), quiet(model, adapter):
        for batch in batches:
            for number, level in enumerate(LEVELS):
                eps, _ = draw(recipe.seed, DRAW + number, batch)
                s = torch.full((len(batch.ids),), level, device=batch.latents.device)
                condition = batch.prompt_embeds, batch.pooled
                with autocast(batch, recipe):
                    loss = flow.loss(Denoiser(model), batch.latents, condition, eps, s)
                total += loss.mean().item()
    return total / (len(batches) * len(LEVELS))


@contextmanager
def quiet(model: Any, adapter: bool) -> Iterator[None]:
    """Dropout off, and the adapter too when asked; as before afterwards."""
    training = model.training
    model.eval()
    if not adapter:
        model.disable_adapters()
    try:
        yield
    finally:
        if not adapter:
            model.enable_adapters()
        model.train(training)
