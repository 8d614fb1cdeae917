"""Writes SD3.5 at full size with random weights, pictures and a configuration, without a hub.

    python benchmarks/random_models.py FOLDER [--size full|tiny] [--models sd3.5-large,sd3.5-medium]

Transformers and VAE have the released shapes; the text encoders have the released widths and few
layers. 22 GB and about a minute at full size on a card. `--size tiny` writes the demo's shapes in
seconds, to rehearse what will run on a card.
"""

import json
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from PIL import Image

MODELS = ("sd3.5-large", "sd3.5-medium")
SHAPES: dict[str, dict[str, Any]] = {
    "sd3.5-large": {"num_layers": 38, "pos_embed_max_size": 192, "qk_norm": "rms_norm"},
    "sd3.5-medium": {"num_layers": 24, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
                     "dual_attention_layers": tuple(range(13))},
}  # fmt: skip
HEAD_DIM, T5_WIDTH, POOLED = 64, 4096, 2048
PICTURES, SIDE = 24, {"full": 1024, "tiny": 128}
PIXELS = "pixels.txt"  # in the folder: the side of its pictures
DATASETS: list[dict[str, Any]] = [
    {"id": "p", "type": "local", "instance_data_dir": "photos", "crop": False,
     "resolution_type": "pixel_area", "caption_strategy": "filename",
     "cache_dir_vae": "cache/vae"},
    {"id": "t", "type": "local", "dataset_type": "text_embeds", "default": True,
     "cache_dir": "cache/text"},
]  # fmt: skip


def transformer(name: str) -> Any:
    """The denoiser of that name as released, with random weights, in torch's default dtype."""
    from diffusers import SD3Transformer2DModel

    heads = SHAPES[name]["num_layers"]
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=heads,
        caption_projection_dim=heads * HEAD_DIM,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=POOLED,
        **SHAPES[name],
    )


def encoders() -> dict[str, Any]:
    """Text encoders of the released widths with few layers, and the demo's tokenizers."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )

    from sd3tune.demo import tokenizers

    first, second, third = tokenizers.clip(), tokenizers.clip(), tokenizers.t5()

    def clip(tokenizer: Any, width: int, activation: str) -> Any:
        return CLIPTextModelWithProjection(CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, projection_dim=width,
            hidden_act=activation, intermediate_size=4 * width, num_hidden_layers=3,
            num_attention_heads=width // 64, max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id))  # fmt: skip

    t5 = T5EncoderModel(T5Config(
        vocab_size=-(-len(third) // 32) * 32, d_model=T5_WIDTH, d_kv=64, d_ff=10240, num_layers=2,
        num_heads=64, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
        tie_word_embeddings=False, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0))  # fmt: skip
    return {
        "text_encoder": clip(first, 768, "quick_gelu"),
        "tokenizer": first,
        "text_encoder_2": clip(second, 1280, "gelu"),
        "tokenizer_2": second,
        "text_encoder_3": t5,
        "tokenizer_3": third,
    }


def vae() -> Any:
    """The autoencoder as released, with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=32,
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )


def write(folder: Path, names: list[str], size: str, device: str) -> Path:
    """Everything that a run needs; the configuration file is returned."""
    torch.manual_seed(0)
    for name, pipeline in pipelines(names, size, device):
        pipeline.save_pretrained(str(folder / "models" / name), max_shard_size="8GB")
        print(f"wrote {name}", flush=True)
    pictures(folder / "photos", SIDE[size])
    path = folder / "config" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.with_name("multidatabackend.json").write_text(json.dumps(DATASETS))
    (folder / PIXELS).write_text(str(SIDE[size]))
    path.write_text(json.dumps({
        "model_type": "lora", "model_family": "sd3", "output_dir": "output", "seed": 1,
        "pretrained_model_name_or_path": f"models/{names[0]}", "max_train_steps": 8,
        "train_batch_size": 1, "learning_rate": 1e-4, "lora_rank": 16, "lr_warmup_steps": 0,
        "validation_disable": True, "checkpoint_step_interval": 10000}))  # fmt: skip
    return path


def pipelines(names: list[str], size: str, device: str) -> Any:
    """Name and pipeline of each model; one at a time, since two do not fit everywhere."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    if size == "tiny":
        from sd3tune.demo import tiny

        yield from ((name, tiny.pipeline(name)) for name in names)
        return
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        parts = {**encoders(), "vae": vae(), "scheduler": FlowMatchEulerDiscreteScheduler(shift=3)}
        for name in names:
            yield name, StableDiffusion3Pipeline(transformer=transformer(name), **parts)
    torch.set_default_dtype(torch.float32)


def pictures(folder: Path, side: int) -> None:
    """Smooth random pictures, whose names are their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = Image.fromarray((dice.random((16, 16, 3)) * 255).astype("uint8"))
        picture = coarse.resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / f"a photograph of a round clock number {number}.jpg", quality=92)


def accelerator() -> str:
    """torch's name of the accelerator, or "cpu"."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return str(found or "cpu")


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("folder", type=Path)
    made.add_argument("--size", choices=tuple(SIDE), default="full")
    made.add_argument("--models", default=",".join(MODELS))
    given = made.parse_args()
    started = time.perf_counter()
    print(write(given.folder, given.models.split(","), given.size, accelerator()))
    written = sum(f.stat().st_size for f in (given.folder / "models").rglob("*") if f.is_file())
    result = {"seconds": round(time.perf_counter() - started, 1), "gigabytes": written / 1e9}
    machine.report("random_models", result, given.json)


if __name__ == "__main__":
    main()
