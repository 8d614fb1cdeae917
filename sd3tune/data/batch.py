"""The batch: the data of one forward pass. data/ creates it, train/ uses it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sd3tune.data.seeds import Draw, draw_of


@dataclass(frozen=True)
class DrawnAhead:
    """What is drawn for a batch in one optimizer step."""

    step: int  # finished steps before it
    eps: Tensor  # unit noise, shaped like the latents and on their device
    levels: Tensor  # (B,) noise levels as the network sees them, on the CPU
    digests: tuple[int, ...]  # 64 bits of each image's noise, by which runs are compared

    def part(self, here: slice) -> "DrawnAhead":
        """Of some images of the batch."""
        return DrawnAhead(self.step, self.eps[here], self.levels[here], self.digests[here])


@dataclass(frozen=True)
class Batch:
    """Images of one bucket of one dataset, with their captions' embeddings."""

    ids: tuple[int, ...]  # one per image, independent of the order
    latents: Tensor  # (B, 16, H/8, W/8) float32, scaled and shifted as the transformer expects
    prompt_embeds: Tensor  # (B, 77 + T5 tokens, joint_attention_dim)
    pooled: Tensor  # (B, pooled_projection_dim)
    mask: Tensor | None = None  # (B, 1, H/8, W/8) in 0..1: weight of each latent's loss
    regularisation: bool = False  # target: the prediction of the model without its adapter
    level_offset: float = 0.0  # the dataset's timestep_sampling_offset
    # Of each image: how often it came before in its optimizer step; empty: 0 for all.
    occurrences: tuple[int, ...] = ()
    drawn: DrawnAhead | None = None  # ahead of the step, in the loader's threads
    first: Draw | None = None  # of the whole batch, where this is a part of it

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What stands for each image in the seeds of its optimizer step."""
        occurrences = self.occurrences or (0,) * len(self.ids)
        return tuple(map(draw_of, self.ids, occurrences))

    @property
    def draw(self) -> Draw:
        """What stands for the whole batch in those seeds."""
        return self.draws[0] if self.first is None else self.first

    def part(self, begin: int, end: int) -> "Batch":
        """Images `begin` to `end` - 1, with all that is drawn for them in the whole batch."""
        here = slice(begin, end)
        ahead = self.drawn
        return replace(
            self,
            ids=self.ids[here],
            latents=self.latents[here],
            prompt_embeds=self.prompt_embeds[here],
            pooled=self.pooled[here],
            mask=None if self.mask is None else self.mask[here],
            occurrences=self.occurrences[here],
            drawn=None if ahead is None else ahead.part(here),
            first=self.draw,
        )

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """A copy in which `change` was applied to every tensor."""
        return replace(
            self,
            latents=change(self.latents),
            prompt_embeds=change(self.prompt_embeds),
            pooled=change(self.pooled),
            mask=None if self.mask is None else change(self.mask),
            drawn=None if self.drawn is None else replace(self.drawn, eps=change(self.drawn.eps)),
        )


def in_parts(batches: Sequence[Batch], most: int) -> list[Batch]:
    """The images of the batches in their order, at most so many in each; 0: the batches."""
    return [part for batch in batches for part in _parts(batch, most)]


def _parts(batch: Batch, most: int) -> Iterator[Batch]:
    count = len(batch.ids)
    if not most or count <= most:
        yield batch
        return
    for begin in range(0, count, most):
        yield batch.part(begin, min(begin + most, count))
