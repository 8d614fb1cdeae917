"""The SD3 architectures at a thousandth of their size, with random weights.

Structure as released: SD3 has absolute positions only, SD3.5 medium a second attention in its
first blocks, query-key norms and a larger table of positions, SD3.5 large the norms alone. They
train, save and sample through the code path of the 8B model; their pictures are noise, on purpose.
"""

from pathlib import Path
from typing import Any

from sd3tune.demo import tokenizers
from sd3tune.tables.architectures import ARCHITECTURES

# Layers = heads = width / 64, as in the released models: other programs infer one from another.
HEAD_DIM, CLIP_L, CLIP_G, T5 = 64, 32, 48, 96
SHAPES = {row.name: dict(row.tiny) for row in ARCHITECTURES.rows}


def write(folder: Path, name: str, seed: int = 0) -> None:
    """Saves the pipeline `name` as a diffusers folder; the same bytes every time."""
    pipeline(name, seed).save_pretrained(str(folder))


def pipeline(name: str, seed: int = 0) -> Any:
    """A StableDiffusion3Pipeline in float32 on the CPU."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    torch.manual_seed(seed)
    first, second, third = tokenizers.clip(), tokenizers.clip(), tokenizers.t5()
    return StableDiffusion3Pipeline(
        transformer=transformer(dict(ARCHITECTURES[name].tiny)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=clip_encoder(first, CLIP_L, "quick_gelu"),
        tokenizer=first,
        text_encoder_2=clip_encoder(second, CLIP_G, "gelu"),
        tokenizer_2=second,
        text_encoder_3=t5_encoder(third),
        tokenizer_3=third,
    )


def transformer(shape: dict[str, Any]) -> Any:
    from diffusers import SD3Transformer2DModel

    heads = shape["num_layers"]
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=heads,
        caption_projection_dim=heads * HEAD_DIM,
        joint_attention_dim=T5,
        pooled_projection_dim=CLIP_L + CLIP_G,
        **shape,
    )


def vae() -> Any:
    """The 16-channel autoencoder without (post-)quant convolutions, SD3's scale and shift."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )
    return with_unit_latents(model)


def with_unit_latents(model: Any) -> Any:
    """Scales the encoder's last convolution so that scaled latents vary by about one, as those of
    the released VAE do: untrained, they would hardly vary at all."""
    import torch

    ramp = torch.linspace(-1, 1, 128)
    pictures = torch.stack([ramp.expand(3, 128, 128), ramp.flip(0)[:, None].expand(3, 128, 128)])
    dots = torch.randn(2, 3, 16, 16).repeat_interleave(8, 2).repeat_interleave(8, 3).clamp(-1, 1)
    with torch.no_grad():
        out = model.encoder.conv_out
        z = model.encode(torch.cat([pictures, dots])).latent_dist.mode()
        channels = z.transpose(0, 1).flatten(1)
        factor = 1 / (model.config.scaling_factor * channels.std(dim=1))
        means = slice(0, 16)
        out.weight[means] *= factor[:, None, None, None]
        out.bias[means] = -factor * (channels.mean(dim=1) - out.bias[means])
        out.weight[16:] = 0
        out.bias[16:] = -8  # log-variance: a posterior as narrow as the released VAE's
    return model


def clip_encoder(tokenizer: Any, width: int, activation: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            projection_dim=width,
            hidden_act=activation,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_encoder(tokenizer: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=-(-len(tokenizer) // 32) * 32,
            d_model=T5,
            d_kv=24,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )
