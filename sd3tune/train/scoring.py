"""Scores of validation pictures: figures of one validation as an event and a line. What fails here
is reported, and the run goes on.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sd3tune.encode.fill import free
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report.events import Scored
from sd3tune.report.progress import say
from sd3tune.report.stream import Stream
from sd3tune.sample.clip_score import clip_scores
from sd3tune.train.harmless import Harmless
from sd3tune.train.validation import Observer, Validated


@dataclass(frozen=True)
class ClipScorer:
    """Scores the pictures of a validation with a CLIP model: a folder or repository."""

    model: str
    dtype: str
    world: World
    stream: Stream
    harmless: Harmless

    def observe(self, validated: Validated) -> None:
        """Scores what was drawn with one version of the weights, without the pictures of an empty
        prompt. The base model's pictures are the beginning of the curve, at step 0."""
        drawn = [each for each in validated.drawn if each[0].prompt.strip()]
        if not drawn:
            return
        base = validated.kind == "base"
        step, weights = (0, "") if base else (validated.step, validated.weights)
        with self.harmless.at(step):
            try:
                pairs = [(image, picture.prompt) for picture, image in drawn]
                scores = clip_scores(self.model, pairs, self.world.device, self.dtype)
            finally:
                free()
            names = [picture.shortname for picture, _ in drawn]
            self.stream.emit(Scored(step, summary(names, scores, weights)))
            of = f" of {weights}" if weights else ""
            when = "before training" if base else f"after step {step}"
            say(
                f"CLIP score{of} {math.fsum(scores) / len(scores):.1f} {when}, "
                f"{min(scores):.1f} to {max(scores):.1f} on a scale of 100"
            )


def scorers(plan: Plan, world: World, stream: Stream) -> Sequence[Observer]:
    """What scores the pictures of a run; nothing where the plan scores none. CLIP has the dtype of
    the text encoders."""
    if plan.score is None:
        return ()
    harmless = Harmless("CLIP score", world)
    dtype = plan.precision.text.value
    return (ClipScorer(plan.score.model, dtype, world, stream, harmless).observe,)


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
