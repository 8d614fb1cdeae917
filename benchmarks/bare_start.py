"""The least that a first step of LoRA training needs: what benchmarks/startup.py is compared with.

    python benchmarks/bare_start.py FOLDER MODEL [STEPS]

Imports torch, diffusers and peft, loads the transformer of FOLDER/MODEL, attaches LoRA, and takes
STEPS steps (4 images of 128 px, AdamW, float32), with a line after each. Random numbers stand for
the encoded images and captions, whose reading takes milliseconds. No configuration, no plan, no
check of anything.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from peft import LoraConfig

TOKENS, BATCH, RANK, SIDE = 77 + 77, 4, 8, 128 // 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("folder", type=Path)
    made.add_argument("model", help="a folder below it, in the layout of diffusers")
    made.add_argument("steps", type=int, nargs="?", default=1)
    given = made.parse_args()
    root, steps = given.folder, given.steps
    model = SD3Transformer2DModel.from_pretrained(root / given.model, subfolder="transformer")
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    x = torch.randn(BATCH, 16, SIDE, SIDE)
    embeds = torch.randn(BATCH, TOKENS, model.config.joint_attention_dim)
    pooled = torch.randn(BATCH, model.config.pooled_projection_dim)
    model.train()
    for step in range(steps):
        s, eps = torch.rand(BATCH), torch.randn_like(x)
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
