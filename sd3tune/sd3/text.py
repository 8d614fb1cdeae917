"""Encodes captions with CLIP-L, CLIP-G and T5-XXL and joins the results as SD3 expects them.

The sequence is CLIP (77 tokens, L and G concatenated, zero-padded to T5's width) followed by T5.
The pooled vector is both CLIP projections, concatenated. The transformer gets no attention mask,
because SD3 was trained without one. Source: diffusers' StableDiffusion3Pipeline.encode_prompt, with
which a test compares this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sd3tune.sd3 import configs, weight_files
from sd3tune.sd3.variants import CLIP_TOKENS, COMPONENTS, ModelSource
from sd3tune.sd3.weight_errors import reading
from sd3tune.sd3.weights import DTYPES

SIGN, EXPONENT = np.int16(-(2**15)), np.int16(0x7F80)  # bits of a bfloat16


class TextEncoders:
    """The three encoders with their tokenizers; a model may lack `text_encoder_3` (T5)."""

    def __init__(
        self,
        clips: Sequence[tuple[Any, Any]],
        t5: tuple[Any, Any] | None,
        *,
        t5_tokens: int,
        width: int,
        zero_padding: bool,
    ) -> None:
        self.clips, self.t5 = clips, t5
        self.t5_tokens, self.width, self.zero_padding = t5_tokens, width, zero_padding

    @classmethod
    def load(
        cls,
        source: str | ModelSource,
        *,
        dtype: str,
        t5_tokens: int,
        width: int,
        zero_padding: bool,
        **where: Any,
    ) -> "TextEncoders":
        """Loads the encoders from a diffusers folder or hub id to the CPU. Raises ModelError.

        t5_tokens: length of T5's sequence; width: of the joined embeddings; zero_padding: set T5's
        values for padding to zero; where: revision and variant.
        """
        from diffusers import StableDiffusion3Pipeline

        source = ModelSource.of(source).base
        unused: dict[str, Any] = {}
        index = Path(source) / configs.INDEX
        if index.exists() and "text_encoder_3" not in configs.parts_of(index):
            unused = {"text_encoder_3": None, "tokenizer_3": None}  # diffusers wants to be told
        folders = [Path(source) / name for name in COMPONENTS if (Path(source) / name).is_dir()]
        if folders:
            where = weight_files.meant(where, weight_files.TRANSFORMERS, *folders) | unused
        with reading("text encoders", source):
            pipe = StableDiffusion3Pipeline.from_pretrained(
                source,
                transformer=None,
                vae=None,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                **where,
            )
        clips = (
            (pipe.tokenizer, pipe.text_encoder.requires_grad_(False).eval()),
            (pipe.tokenizer_2, pipe.text_encoder_2.requires_grad_(False).eval()),
        )
        t5 = None
        if pipe.text_encoder_3 is not None:
            t5 = (pipe.tokenizer_3, pipe.text_encoder_3.requires_grad_(False).eval())
        return cls(clips, t5, t5_tokens=t5_tokens, width=width, zero_padding=zero_padding)

    @property
    def modules(self) -> dict[str, Any]:
        """Component name -> module; used for moving and quantising."""
        found = dict(zip(COMPONENTS, [m for _, m in self.clips], strict=False))
        return found | ({COMPONENTS[2]: self.t5[1]} if self.t5 else {})

    def to(self, device: torch.device) -> "TextEncoders":
        """Moves the encoders in place."""
        for module in self.modules.values():
            module.to(device)
        return self

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The embeddings (B, 77 + T5 tokens, width) and the pooled vectors (B, pooled width),
        float32, on the CPU."""
        with torch.no_grad():
            hidden, pooled = zip(*(_clip(*clip, prompts) for clip in self.clips), strict=True)
            clip = torch.cat(hidden, dim=-1)
            clip = torch.nn.functional.pad(clip, (0, self.width - clip.shape[-1]))
            embeds = torch.cat([clip, self._t5(prompts)], dim=-2)
        return embeds.float().cpu(), torch.cat(pooled, dim=-1).float().cpu()

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        if self.t5 is None:
            device = next(self.clips[0][1].parameters()).device
            return torch.zeros(len(prompts), self.t5_tokens, self.width, device=device)
        tokenizer, encoder = self.t5
        ids = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.t5_tokens,
            truncation=True,
            return_tensors="pt",
        )
        embeds: Tensor = encoder(ids.input_ids.to(encoder.device))[0]
        if self.zero_padding:
            embeds = embeds * ids.attention_mask.to(embeds.device).unsqueeze(-1)
        return embeds


def _clip(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The second-to-last hidden state (B, 77, D) and the projected end-of-text token (B, P)."""
    ids = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=CLIP_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    out = encoder(ids.to(encoder.device), output_hidden_states=True)
    return out.hidden_states[-2], out[0]


def packed(embeds: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """One caption's embeddings as the cache stores them: bfloat16, without zero padding.

    CLIP's part is cut to CLIP's own width (half of T5's). T5's part is cut after its last row that
    is not zero: the end of the caption with t5_padding=zero, otherwise the last token, because T5's
    values for padding depend on the caption. Only zeros are cut, so `unpacked` restores everything.
    """
    bits = _bits(embeds.to(torch.bfloat16))
    clip, t5 = bits[:CLIP_TOKENS], bits[CLIP_TOKENS:]
    return {
        "clip": _of_bits(clip[:, : _used(clip, over=0)]),
        "t5": _of_bits(t5[: _used(t5, over=1)]),
        "pooled": pooled.to(torch.bfloat16).contiguous(),
    }


def unpacked(entry: Mapping[str, Tensor], tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """The inverse of `packed`: embeddings (77 + tokens, width) and pooled vector (pooled width,),
    bfloat16."""
    embeds = torch.zeros(CLIP_TOKENS + tokens, width, dtype=torch.bfloat16)
    clip, t5 = entry["clip"], entry["t5"]
    embeds[:CLIP_TOKENS, : clip.shape[1]] = clip
    embeds[CLIP_TOKENS : CLIP_TOKENS + t5.shape[0]] = t5
    return embeds, entry["pooled"]


def is_finite(values: Tensor) -> bool:
    """Whether a bfloat16 tensor on the CPU holds neither NaN nor infinity."""
    return not ((_bits(values) & EXPONENT) == EXPONENT).any()


# NumPy and not torch: captions are packed beside the encoder by other threads, and each of these
# would start OpenMP threads of its own for torch's operators, which take the encoder's cores.
def _bits(values: Tensor) -> np.ndarray:
    return values.view(torch.int16).numpy()


def _of_bits(bits: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(bits)).view(torch.bfloat16)


def _used(bits: np.ndarray, over: int) -> int:
    """Number of columns (over=0) or rows (over=1) up to and including the last one that is not
    zero; -0.0 is zero."""
    used = np.flatnonzero(np.bitwise_or.reduce(bits, axis=over) & ~SIGN)
    return int(used[-1]) + 1 if len(used) else 0


def unconditional(
    embeds: Tensor, pooled: Tensor, *, zero_clip: bool, zero_t5: bool
) -> tuple[Tensor, Tensor]:
    """The embeddings of the blank caption, with the parts of CLIP or T5 set to zero as
    `sd3_clip_uncond_behaviour` and `sd3_t5_uncond_behaviour` request."""
    embeds, pooled = embeds.clone(), pooled.clone()
    if zero_clip:
        embeds[..., :CLIP_TOKENS, :] = 0
        pooled.zero_()
    if zero_t5:
        embeds[..., CLIP_TOKENS:, :] = 0
    return embeds, pooled
