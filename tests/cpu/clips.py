"""A small CLIP model with random weights, in the folder form of transformers."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from sd3tune.demo import tokenizers

SIDE = 64  # pixels


def write(folder: Path) -> Path:
    """Saves model, tokenizer and processor."""
    tokenizer = tokenizers.clip()
    both = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "projection_dim": 24}  # fmt: skip
    tokens = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id")
              for kind in ("bos", "eos", "pad")}  # fmt: skip
    text = {**both, **tokens, "vocab_size": len(tokenizer)}
    vision = {**both, "image_size": SIDE, "patch_size": 16}
    torch.manual_seed(5)  # all scores of the tests are above 0
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder
