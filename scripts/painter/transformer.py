"""transformer.py OUT: an untrained SD3.5-medium-shaped transformer and the rest of the pipeline's
folder. Modulations and the last layer begin at zero, as in DiT (Peebles and Xie 2022)."""

import json
import sys
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from encoders import PROJECTED, T5

LAYERS = 3


def main(out: Path) -> None:
    torch.manual_seed(4)
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=LAYERS,
        attention_head_dim=64, num_attention_heads=LAYERS, joint_attention_dim=T5,
        caption_projection_dim=64 * LAYERS, pooled_projection_dim=2 * PROJECTED,
        pos_embed_max_size=32, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")):
            torch.nn.init.zeros_(module.weight)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    model.save_pretrained(out / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(out / "scheduler")
    clip, t5 = ("transformers", "CLIPTextModelWithProjection"), ("transformers", "T5EncoderModel")
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": clip, "text_encoder_2": clip, "text_encoder_3": t5,
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
        "tokenizer_3": ("transformers", "T5TokenizerFast"),
        "transformer": ("diffusers", "SD3Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }  # fmt: skip
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
