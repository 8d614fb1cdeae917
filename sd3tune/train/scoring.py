"""Scores of validation pictures: figures of one validation as an event and a line. What fails here
is reported by whoever draws the pictures, and never ends the run."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sd3tune.encode.fill import free
from sd3tune.plan.plan import Plan
from sd3tune.report.events import Scored
from sd3tune.report.progress import say
from sd3tune.report.stream import Stream
from sd3tune.sample.clip_score import clip_scores


@dataclass(frozen=True)
class ScoredPicture:
    """A picture to be scored."""

    shortname: str  # of its prompt
    prompt: str
    image: Any  # as PIL has it


@dataclass(frozen=True)
class ClipScorer:
    """Scores the pictures of a validation with the CLIP model of the plan."""

    model: str
    device: torch.device
    dtype: str
    stream: Stream

    @classmethod
    def of(cls, plan: Plan, device: torch.device, stream: Stream) -> "ClipScorer | None":
        """None where the plan scores no pictures. CLIP has the dtype of the text encoders."""
        if plan.score is None:
            return None
        return cls(plan.score.model, device, plan.precision.text.value, stream)

    def score(self, step: int, weights: str, pictures: Sequence[ScoredPicture]) -> None:
        """One validation with one version of the weights. weights: its name, "" for the usual one.
        Raises what loading and computing raise; memory is given back either way."""
        try:
            pairs = [(p.image, p.prompt) for p in pictures]
            scores = clip_scores(self.model, pairs, self.device, self.dtype)
        finally:
            free()
        figures = summary([p.shortname for p in pictures], scores, weights)
        self.stream.emit(Scored(step, figures))
        of = f" of {weights}" if weights else ""
        say(
            f"CLIP score{of} {math.fsum(scores) / len(scores):.1f} after step {step}, "
            f"{min(scores):.1f} to {max(scores):.1f} on a scale of 100"
        )


def summary(
    shortnames: Sequence[str], scores: Sequence[float], weights: str = ""
) -> Mapping[str, float]:
    """`clip/min`, `clip/max`, `clip/mean` and `clip/std` (of these pictures, not of a population
    they stand for) over every picture, and `clip/prompt/NAME`, the mean of each prompt; with the
    name of the weights after `clip/`."""
    top = f"clip/{weights}/" if weights else "clip/"
    figures = {
        f"{top}min": min(scores),
        f"{top}max": max(scores),
        f"{top}mean": statistics.fmean(scores),
        f"{top}std": statistics.pstdev(scores),
    }
    for name in dict.fromkeys(shortnames):
        own = [s for n, s in zip(shortnames, scores, strict=True) if n == name]
        figures[f"{top}prompt/{name}"] = statistics.fmean(own)
    return figures
