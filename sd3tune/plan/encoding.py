"""How captions become embeddings, before training."""

from dataclasses import dataclass
from typing import Literal

from sd3tune.config.config import Config

Blank = Literal["empty_string", "zero"]  # the blank caption is encoded, or is zeros


@dataclass(frozen=True)
class CaptionPlan:
    """The input of the text encoders, and the part of their output that is kept. Values are spelled
    as in the settings, because cache keys contain them."""

    t5_tokens: int  # per caption
    t5_padding: Literal["unmodified", "zero"]  # what T5 says about padding
    blank_clip: Blank
    blank_t5: Blank
    at_once: int  # captions encoded together


def caption_plan(c: Config) -> CaptionPlan:
    """The settings of captions, which need no decision."""
    return CaptionPlan(
        t5_tokens=c.tokenizer_max_length,
        t5_padding=c.t5_padding,
        blank_clip=c.sd3_clip_uncond_behaviour,
        blank_t5=c.sd3_t5_uncond_behaviour,
        at_once=c.text_encoder_batch_size,
    )
