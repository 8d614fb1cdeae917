"""Text encoders and VAE on the meta device: of the released models, or as a folder describes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd3tune.plan.stage_loads import CaptionLoad
from sd3tune.sd3 import configs
from sd3tune.sd3.variants import COMPONENTS, TEXT_ENCODERS, VAE
from sd3tune.sd3.weights import DTYPES

# config.json of the released text encoders: values that decide shapes.
CLIPS: tuple[dict[str, Any], ...] = (
    {"hidden_size": 768, "projection_dim": 768, "intermediate_size": 3072, "vocab_size": 49408,
     "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    {"hidden_size": 1280, "projection_dim": 1280, "intermediate_size": 5120, "vocab_size": 49408,
     "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"},
)  # fmt: skip
T5_XXL: dict[str, Any] = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": False,
    "use_cache": False, "tie_word_embeddings": False, "decoder_start_token_id": 0,
}  # fmt: skip
SD3_VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 32, "sample_size": 1024, "scaling_factor": 1.5305, "shift_factor": 0.0609,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
T5_OUTPUT = ".wo"  # layers that transformers keeps in float32 in a float16 model


def clip(number: int, load: CaptionLoad) -> Any:
    """CLIP-L or CLIP-G."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    known = load.encoders[number] == TEXT_ENCODERS[number]
    config = CLIPS[number] if known else _of(load.folder, COMPONENTS[number])
    return _frozen(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config)), load.dtype)


def t5(load: CaptionLoad) -> Any:
    """T5's encoder; None where the model has none."""
    from transformers import T5Config, T5EncoderModel

    if not load.encoders[2]:
        return None
    known = load.encoders[2] == TEXT_ENCODERS[2]
    config = T5_XXL if known else _of(load.folder, COMPONENTS[2])
    model = _frozen(lambda: T5EncoderModel(T5Config(**config)), load.dtype)
    if load.dtype == "fp16":
        for name, module in model.named_modules():
            if name.endswith(T5_OUTPUT):
                nn.Module.to(module, torch.float32)
    return model


def vae(parameters: int, dtype: str, folder: str) -> Any:
    """The autoencoder."""
    from diffusers import AutoencoderKL

    config = SD3_VAE if parameters == VAE else _of(folder, "vae")
    return _frozen(lambda: AutoencoderKL(**config), dtype)


def _of(folder: str, part: str) -> dict[str, Any]:
    """config.json of a part, without what only describes it. Raises ModelError."""
    config = configs.read(Path(folder) / part / "config.json")
    left_out = ("architectures", "dtype", "torch_dtype", "model_type", "transformers_version")
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in left_out}


def _frozen(make: Any, dtype: str) -> Any:
    with torch.device("meta"):
        model = make()
    nn.Module.to(model, DTYPES[dtype])
    return model.requires_grad_(False).eval()
