"""Prompts of a drawing command as embeddings, rounded as a run's cache keeps them: a picture of
`sample` then equals the validation picture of the run."""

from collections.abc import Sequence
from typing import TypeAlias

import torch

from sd3tune.errors import DataError
from sd3tune.plan.drawing import DrawingPlan
from sd3tune.report.progress import stage
from sd3tune.sample.pipeline import Embeds
from sd3tune.sd3.text import TextEncoders, packed, unconditional, unpacked

ByPrompt: TypeAlias = dict[str, Embeds]


def encoded(encoders: TextEncoders, plan: DrawingPlan, prompts: Sequence[str]) -> ByPrompt:
    """Prompt -> (1, tokens, width) and (1, pooled width), float32 on the CPU. The blank prompt is
    what the settings make of it. Raises DataError for NaN or infinity."""
    found: ByPrompt = {}
    how, width = plan.captions, plan.model.transformer.joint_dim
    different = list(dict.fromkeys(prompts))
    with stage("encode prompts", len(different)) as bar:
        for prompt in different:
            embeds, pooled = (t[0] for t in encoders.encode([prompt]))
            if not all(torch.isfinite(t).all() for t in (embeds, pooled)):
                raise DataError(
                    f"the text encoders produced NaN or infinity for `{prompt[:60]}`",
                    hint="draw on the CPU: --on-cpu",
                )
            if not prompt:
                embeds, pooled = unconditional(
                    embeds,
                    pooled,
                    zero_clip=how.blank_clip == "zero",
                    zero_t5=how.blank_t5 == "zero",
                )
            kept = unpacked(packed(embeds, pooled), how.t5_tokens, width)
            found[prompt] = kept[0].float()[None], kept[1].float()[None]
            bar.advance()
    return found
