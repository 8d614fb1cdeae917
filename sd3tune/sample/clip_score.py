"""The CLIP score of pictures: 100 times the cosine between the embeddings of picture and prompt,
from 0 to 100 as in torchmetrics (Hessel et al. 2021, arXiv:2104.08718, without its weight of 2.5).

Scores between 20 and 35 are usual with the released models of OpenAI; SimpleTuner's guide speaks of
0.20 to 0.35 for the same. A prompt is cut after CLIP's 77 tokens. transformers computes the
embeddings; the model is loaded for one call and dropped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd3tune.report.progress import waiting
from sd3tune.sd3 import clip_files, hub
from sd3tune.sd3.weight_errors import reading
from sd3tune.sd3.weights import DTYPES

AT_ONCE = 8  # pictures in one pass


def clip_scores(
    model: str, pictures: Sequence[tuple[Any, str]], device: torch.device, dtype: str
) -> list[float]:
    """One score for each pair of a PIL image and its prompt.

    model: a folder or repository with a CLIP model. dtype: of its weights, as `bf16`. Raises
    ModelError.
    """
    with waiting("loading the CLIP model"):
        clip, tokenizer, processor = _loaded(model, dtype)
        clip.to(device)
    scores: list[float] = []
    with (
        waiting(lambda: f"scoring pictures, {len(scores)} of {len(pictures)}"),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        for start in range(0, len(pictures), AT_ONCE):
            images, prompts = zip(*pictures[start : start + AT_ONCE], strict=True)
            of_images = image_embeddings(clip, processor, images)
            of_texts = text_embeddings(clip, tokenizer, prompts)
            scores += cosine_scores(of_images, of_texts)
    return scores


def _loaded(model: str, dtype: str) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor. Raises ModelError."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    if Path(model).is_dir():
        clip_files.check(Path(model))
    else:
        clip_files.check_kind(hub.config(clip_files.SETTING, model, ".", None), model)
    with reading("CLIP model", model, clip_files.SETTING):
        clip = CLIPModel.from_pretrained(model, dtype=DTYPES[dtype], use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(model)
        processor = CLIPImageProcessorPil.from_pretrained(model)
    return clip.eval().requires_grad_(False), tokenizer, processor


def image_embeddings(clip: Any, processor: Any, images: Sequence[Any]) -> Tensor:
    """(B, width) of PIL images."""
    pixels = processor(images=[i.convert("RGB") for i in images], return_tensors="pt").pixel_values
    pixels = pixels.to(clip.device, clip.dtype)
    embeddings: Tensor = clip.get_image_features(pixel_values=pixels).pooler_output
    return embeddings


def text_embeddings(clip: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """(B, width) of prompts, each cut where CLIP ends."""
    tokens = tokenizer(
        list(prompts),
        padding=True,
        truncation=True,
        max_length=clip.text_model.embeddings.position_embedding.num_embeddings,
        return_tensors="pt",
    ).to(clip.device)
    embeddings: Tensor = clip.get_text_features(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
    ).pooler_output
    return embeddings


def cosine_scores(images: Tensor, texts: Tensor) -> list[float]:
    """max(0, 100 cos) of each row (B, width) with its counterpart, in float32."""
    cosines = torch.nn.functional.cosine_similarity(images.float(), texts.float())
    return (100 * cosines).clamp(min=0).tolist()
