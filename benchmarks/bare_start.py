"""The least that a first step of LoRA training needs: what benchmarks/startup.py is compared with.

    python benchmarks/bare_start.py FOLDER MODEL [STEPS]

Imports torch, diffusers and peft, loads the transformer of FOLDER/MODEL, reads the encoded
images and captions of FOLDER/cache, attaches LoRA, and takes STEPS steps (4 images, AdamW,
float32), with a line after each. No configuration, no plan, no check of anything.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from safetensors.torch import load_file

CLIP_TOKENS, BATCH, RANK = 77, 4, 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def entries(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of all shards below a folder."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= load_file(file)
    return found


def captions(folder: Path, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, 77 + T, width) and pooled vectors (N, pooled width) of four captions."""
    held = entries(folder)
    keys = [name.removesuffix(".pooled") for name in held if name.endswith(".pooled")][:BATCH]
    tokens = max(len(held[f"{key}.t5"]) for key in keys)
    embeds = torch.zeros(len(keys), CLIP_TOKENS + tokens, width)
    for row, key in zip(embeds, keys, strict=True):
        clip, t5 = held[f"{key}.clip"], held[f"{key}.t5"]
        row[:CLIP_TOKENS, : clip.shape[1]] = clip
        row[CLIP_TOKENS : CLIP_TOKENS + len(t5)] = t5
    return embeds, torch.stack([held[f"{key}.pooled"].float() for key in keys])


def main() -> None:
    root, steps = Path(sys.argv[1]), int(sys.argv[3]) if sys.argv[3:] else 1
    model = SD3Transformer2DModel.from_pretrained(root / sys.argv[2], subfolder="transformer")
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    held = entries(root / "cache" / "vae" / "square")
    x = torch.stack([held[n].float() for n in held if n.endswith(".mean")][:BATCH])
    embeds, pooled = captions(root / "cache" / "text", model.config.joint_attention_dim)
    model.train()
    for step in range(steps):
        s, eps = torch.rand(len(x)), torch.randn_like(x)
        z = (1 - s.view(-1, 1, 1, 1)) * x + s.view(-1, 1, 1, 1) * eps
        v = model(z, embeds, pooled, 1000 * s, return_dict=False)[0]
        loss = F.mse_loss(v, eps - x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(step + 1, loss.item(), flush=True)


if __name__ == "__main__":
    main()
