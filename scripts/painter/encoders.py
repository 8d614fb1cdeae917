"""encoders.py clip|t5 POOL OUT MINUTES: the three text encoders and the CLIP that scores pictures.

CLIP-L, CLIP-G and one image tower learn together which caption belongs to which picture (Radford et
al. 2021); T5's encoder learns to guess words that are missing. T5 sees captions padded to lengths
from 24 to 256 without a mask, as SD3 uses it, and learns to answer alike.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
)

from sd3tune.demo import scenes, tokenizers

L, G, T5, PROJECTED = 48, 64, 128, 64
IMAGE_MEAN, IMAGE_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def sentences() -> list[str]:
    """Every word of the world, in captions; and the negative prompts that people write."""
    everything = scenes.SceneWords(scenes.SHAPES, tuple(scenes.COLOURS), scenes.TEXTURES, ())
    lines = [made.caption for made in scenes.scenes(7, 400, everything)]
    return [*lines, "blurry, cropped, ugly, low quality", "a picture of the shape and colours"]


def clip_text(tokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, projection_dim=PROJECTED,
        hidden_act=activation, intermediate_size=2 * width, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def train_clip(pool, out: Path, minutes: float) -> None:
    torch.manual_seed(1)
    first, second = tokenizers.clip(sentences()), tokenizers.clip(sentences())
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, projection_dim=PROJECTED, num_hidden_layers=4,
        num_attention_heads=4, image_size=64, patch_size=8, hidden_act="quick_gelu",
    )  # fmt: skip
    config = CLIPConfig(
        text_config=clip_text(first, L, "quick_gelu").to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=PROJECTED,
    )
    model = CLIPModel(config)
    other = CLIPTextModelWithProjection(clip_text(second, G, "gelu"))
    beside = nn.Linear(96, PROJECTED, bias=False)  # of the image tower, for CLIP-G
    ids = first(list(pool["captions"]), padding="max_length", max_length=77,
                return_tensors="pt").input_ids  # fmt: skip
    longest = int((ids == first.eos_token_id).int().argmax(1).max()) + 1
    parameters = [*model.parameters(), *other.parameters(), *beside.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    started, step, batch = time.time(), 0, 192
    rng = np.random.default_rng(0)
    while (share := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 50) * (1 - share) ** 0.5
        chosen = rng.choice(len(ids), batch, replace=False)
        images = torch.from_numpy(pool["pixels"][chosen]).permute(0, 3, 1, 2).float() / 255
        images = images + 0.04 * torch.rand(batch, 1, 1, 1) * torch.randn_like(images)
        seen = model.vision_model((images - mean) / std).pooler_output
        text = ids[chosen, :longest]  # attention is causal: what follows the end changes nothing
        wanted = F.one_hot(torch.arange(batch)).float()
        same = torch.tensor([[a == b for b in pool["captions"][chosen]]
                             for a in pool["captions"][chosen]])  # fmt: skip
        wanted = (same | wanted.bool()).float()
        wanted = wanted / wanted.sum(1, keepdim=True)
        scale, loss = model.logit_scale.clamp(max=4.6).exp(), torch.zeros(())
        towers = ((model.visual_projection(seen), projected(model, text)),
                  (beside(seen), other(text).text_embeds))  # fmt: skip
        for image, caption in towers:
            logits = scale * F.normalize(image, dim=1) @ F.normalize(caption, dim=1).T
            loss = loss + F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            right = (logits.argmax(1) == torch.arange(batch)).float().mean()
            print(f"clip {step} loss {loss.item():.3f} right {right.item():.2f} {share:.0%}",
                  flush=True)  # fmt: skip
    text_l = CLIPTextModelWithProjection(clip_text(first, L, "quick_gelu"))
    text_l.load_state_dict({k: v for k, v in model.state_dict().items()
                            if k.startswith(("text_model", "text_projection"))})  # fmt: skip
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64},
        image_mean=IMAGE_MEAN, image_std=IMAGE_STD,
    )  # fmt: skip
    for folder, parts in (("clip", (model, first, processor)), ("text_encoder", (text_l,)),
                          ("tokenizer", (first,)), ("text_encoder_2", (other,)),
                          ("tokenizer_2", (second,))):  # fmt: skip
        for part in parts:
            part.to(torch.float16) if isinstance(part, nn.Module) else None
            part.save_pretrained(out / folder)


def projected(model: CLIPModel, text: Tensor) -> Tensor:
    return model.text_projection(model.text_model(text).pooler_output)


def train_t5(pool, out: Path, minutes: float) -> None:
    torch.manual_seed(2)
    tokenizer = tokenizers.t5_of_words(sentences())
    model = T5EncoderModel(T5Config(
        vocab_size=-(-len(tokenizer) // 32) * 32, d_model=T5, d_kv=32, d_ff=256, num_layers=3,
        num_heads=4, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
        tie_word_embeddings=False, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    ))  # fmt: skip
    head = nn.Linear(T5, model.config.vocab_size)
    texts = [*pool["captions"], ""]
    ids = tokenizer(texts, padding="max_length", max_length=256, return_tensors="pt").input_ids
    longest = int((ids != 0).sum(1).max())
    print(f"t5: {len(tokenizer)} pieces, longest caption {longest}")
    gap = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
    started, step, batch = time.time(), 0, 96
    constant = nn.Parameter(torch.zeros(T5))  # what padding shall look like, whatever the caption
    optimizer.add_param_group({"params": [constant]})
    while (share := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 50) * (1 - share) ** 0.5
        length = [longest, longest, 77, 154, 256][step % 5] if step % 10 > 4 else longest
        chosen = torch.randint(len(ids), (batch if length == longest else batch // 8,))
        text = ids[chosen, :length]
        gone = (torch.rand(text.shape) < 0.25) & (text > 1)
        hidden = model(torch.where(gone, gap, text)).last_hidden_state
        loss = F.cross_entropy(head(hidden[gone]), text[gone])
        padding = hidden[text == 0]
        alike = (padding - constant).square().mean()
        known = F.cross_entropy(head(hidden[(text > 0) & ~gone]), text[(text > 0) & ~gone])
        optimizer.zero_grad()
        (loss + 0.3 * known + alike).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"t5 {step} loss {loss.item():.3f} known {known.item():.3f} "
                  f"padding {alike.item():.4f} {share:.0%}", flush=True)  # fmt: skip
    model.to(torch.float16).save_pretrained(out / "text_encoder_3")
    tokenizer.save_pretrained(out / "tokenizer_3")


if __name__ == "__main__":
    which, pool, target, minutes = sys.argv[1:]
    training = {"clip": train_clip, "t5": train_t5}[which]
    training(dict(np.load(pool)), Path(target), float(minutes))
