"""Conditioning and latents against diffusers' own pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from sd3tune.demo import MODELS
from sd3tune.sd3 import latents, text, weight_identity, weights
from tests.image_folders import shown

PROMPTS = ["a tabby cat with green eyes", "", "a rocket " * 60]


def load(demo: Path, zero: bool = False) -> text.TextEncoders:
    source = str(demo / "models" / "sd3.5-medium")
    return text.TextEncoders.load(source, dtype="fp32", t5_tokens=77, width=96, zero_padding=zero)


def test_embeddings_are_those_of_the_pipeline(demo: Path) -> None:
    embeds, pooled = load(demo).encode(PROMPTS)
    pipe = StableDiffusion3Pipeline.from_pretrained(demo / "models" / "sd3.5-medium")
    want, _, want_pooled, _ = pipe.encode_prompt(
        PROMPTS, PROMPTS, PROMPTS, do_classifier_free_guidance=False, max_sequence_length=77
    )
    torch.testing.assert_close(embeds, want)
    torch.testing.assert_close(pooled, want_pooled)
    assert embeds.shape == (3, 154, 96)


def test_without_t5_its_half_is_zero_as_in_the_pipeline(demo: Path) -> None:
    encoders = load(demo)
    encoders.t5 = None
    embeds, _ = encoders.encode(["a cat"])
    assert embeds[:, 77:].abs().max() == 0 and embeds[:, :77].abs().max() > 0


def test_zeroed_padding_leaves_the_words(demo: Path) -> None:
    plain, _ = load(demo).encode(["a cat"])
    zeroed, _ = load(demo, zero=True).encode(["a cat"])
    words = int((zeroed[0, 77:].abs().sum(-1) > 0).sum())
    assert 2 <= words < 20
    torch.testing.assert_close(zeroed[0, : 77 + words], plain[0, : 77 + words])
    assert plain[0, 77 + words :].abs().max() > 0


def test_the_blank_caption_s_halves_are_zeroed_apart(demo: Path) -> None:
    embeds, pooled = load(demo).encode([""])
    clip, no_pool = text.unconditional(embeds, pooled, zero_clip=True, zero_t5=False)
    t5, kept = text.unconditional(embeds, pooled, zero_clip=False, zero_t5=True)
    assert clip[:, :77].abs().max() == 0 and torch.equal(clip[:, 77:], embeds[:, 77:])
    assert t5[:, 77:].abs().max() == 0 and torch.equal(t5[:, :77], embeds[:, :77])
    assert no_pool.abs().max() == 0 and torch.equal(kept, pooled)


def test_latents_are_the_posterior_s_mean_shifted_and_scaled(demo: Path) -> None:
    vae = weights.vae(str(demo / "models" / "sd3.5-medium"), "fp32")
    picture = shown(next((demo / "photos" / "aspect").glob("*.png"))).convert("RGB")
    pixels = torch.from_numpy(np.array(picture.resize((128, 64)))).permute(2, 0, 1)[None]
    pixels = pixels.float() / 127.5 - 1
    mean, deviation = latents.encode(vae, pixels)
    posterior = vae.encode(pixels).latent_dist
    want = (posterior.mean - 0.0609) * 1.5305, posterior.std * 1.5305
    torch.testing.assert_close(mean.float(), want[0], rtol=2**-11, atol=1e-6)
    torch.testing.assert_close(deviation.float(), want[1], rtol=2**-11, atol=1e-6)
    assert mean.shape == deviation.shape == (1, 16, 8, 16)


def test_the_demo_s_photographs_become_latents_of_about_unit_size(demo: Path) -> None:
    vae = weights.vae(str(demo / "models" / "sd3.5-medium"), "fp32")
    found = []
    for path in sorted((demo / "photos" / "square").glob("*.png")):
        pixels = torch.from_numpy(np.array(shown(path).convert("RGB").resize((128, 128))))
        found.append(latents.encode(vae, pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)[0])
    assert 0.3 < torch.cat(found).float().std() < 3


@pytest.mark.parametrize("name", MODELS)
def test_the_tiny_models_have_the_released_ones_structure(name: str, demo: Path) -> None:
    model = weights.transformer(str(demo / "models" / name), "fp32")
    first, last = model.transformer_blocks[0], model.transformer_blocks[-1]
    assert (first.attn.norm_q is not None) == (name != "sd3-medium")
    assert (first.attn2 is not None) == (name == "sd3.5-medium")
    assert last.attn2 is None and last.context_pre_only
    width = model.config.num_attention_heads * 64
    assert model.config.num_layers == model.config.num_attention_heads == width // 64


def test_the_demo_is_the_same_bytes_every_time(demo: Path, tmp_path: Path) -> None:
    from sd3tune.demo import tiny

    tiny.write(tmp_path / "again", "sd3-medium")
    for path in (demo / "models" / "sd3-medium").rglob("*"):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(demo / "models" / "sd3-medium")
            assert again.read_bytes() == path.read_bytes(), path.name


def test_identity_changes_with_a_weight_and_not_with_a_version_stamp(tmp_path: Path) -> None:
    from sd3tune.demo import tiny

    tiny.vae().save_pretrained(tmp_path / "vae")
    first = weight_identity.identity(str(tmp_path), "vae")
    config = tmp_path / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.42", "0.43"))
    assert weight_identity.identity(str(tmp_path), "vae") == first
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert weight_identity.identity(str(tmp_path), "vae") != first
