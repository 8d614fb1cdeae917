"""How captions are encoded."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Settings, Whole


class TextSettings(Settings):
    """How captions are encoded."""

    t5_padding: Literal["unmodified", "zero"] = "unmodified"
    """T5 embeddings of padding tokens: kept, as SD3.5 was trained, or set to zero."""
    tokenizer_max_length: Whole = Field(154, ge=16, le=256)
    """T5 tokens per caption. 77 saves space and cuts off the end of long captions."""
    sd3_clip_uncond_behaviour: Literal["empty_string", "zero"] = "empty_string"
    """The CLIP part of the blank caption: encoded like any text, or zeros."""
    sd3_t5_uncond_behaviour: Literal["empty_string", "zero"] = "empty_string"
    """The T5 part of the blank caption: encoded like any text, or zeros."""
