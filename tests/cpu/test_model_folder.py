"""A model folder from which something is missing, or in which something does not fit, is refused by
name before anything is loaded: the libraries would make it up, and the run would train on noise."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from sd3tune.demo import MODELS
from sd3tune.errors import ModelError
from sd3tune.sd3 import (
    model_folder,
    models,
    tensor_names,
    tokenizer_files,
    weight_files,
    weights,
)
from sd3tune.sd3.text import TextEncoders
from sd3tune.sd3.variants import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, Transformer
from tests.cpu.weightless import built

Spoil = Callable[[Path], object]
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"


def gone(name: str) -> Spoil:
    return lambda folder: (
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    )


def changed(name: str, **values: Any) -> Spoil:
    """Keys of a JSON file; ... removes one."""

    def spoil(folder: Path) -> None:
        data = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))

    return spoil


def other(name: str, change: Callable[[dict[str, Tensor]], object]) -> Spoil:
    """Tensors of a safetensors file."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        (folder / name).unlink()  # it may be a link
        save_file({k: v.clone() for k, v in tensors.items()}, folder / name)

    return spoil


def copied(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / target)
        shutil.copytree(folder / name, folder / target)

    return spoil


def in_two_files(
    vocabulary: Callable[[str], str] | None = str, merges: Callable[[str], str] | None = str
) -> Spoil:
    """CLIP's tokenizer as the released models have it, after a change of each file's text."""

    def spoil(folder: Path) -> None:
        whole = folder / "tokenizer" / "tokenizer.json"
        model = json.loads(whole.read_text())["model"]
        whole.unlink()
        lines = ["#version: 0.2", *(" ".join(m) for m in model["merges"]), ""]
        for name, text, change in (
            ("vocab.json", json.dumps(model["vocab"]), vocabulary),
            ("merges.txt", "\n".join(lines), merges),
        ):
            if change is not None:
                (whole.parent / name).write_text(change(text))

    return spoil


def cut(text: str) -> str:
    return text[: len(text) // 2]


def pieces(content: bytes) -> Spoil:
    """T5's tokenizer as sentencepiece's own file alone."""

    def spoil(folder: Path) -> None:
        (folder / "tokenizer_3" / "tokenizer.json").unlink()
        (folder / "tokenizer_3" / "spiece.model").write_bytes(content)

    return spoil


def in_the_model(name: str, **values: Any) -> Spoil:
    """Keys of `model` in a tokenizer.json; a number keeps so many tokens."""

    def spoil(folder: Path) -> None:
        path = folder / name / "tokenizer.json"
        data = json.loads(path.read_text())
        for key, value in values.items():
            if isinstance(value, int):
                had = data["model"][key]
                value = dict(list(had.items())[:value]) if isinstance(had, dict) else had[:value]
            data["model"][key] = value
        path.write_text(json.dumps(data))

    return spoil


def small_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    AutoencoderKL(
        latent_channels=4, block_out_channels=(16, 16, 32, 32), norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip


def sharded(spoil: Callable[[Path], object]) -> Spoil:
    """A text encoder in two shards, spoilt."""

    def go(folder: Path) -> None:
        part = folder / "text_encoder_3"
        model = T5EncoderModel.from_pretrained(part)
        (part / TRANSFORMERS).unlink()
        model.save_pretrained(part, max_shard_size="300KB")
        spoil(part)

    return go


PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2",
         "tokenizer_3", "vae", "scheduler")  # fmt: skip
WEIGHTS = {"text_encoder": TRANSFORMERS, "text_encoder_3": TRANSFORMERS, "vae": DIFFUSERS,
           "transformer": DIFFUSERS}  # fmt: skip
SPOILT: dict[str, tuple[Spoil, str]] = {
    **{f"no {part}": (gone(part), f"/{part}/") for part in PARTS},
    **{f"no weights of {part}": (gone(f"{part}/{file}"), f"/{part}/{file}` is missing")
       for part, file in WEIGHTS.items()},
    "no index": (gone("model_index.json"), "model_index.json` is missing"),
    "no config": (gone("vae/config.json"), "vae/config.json` is missing"),
    "no schedule": (gone("scheduler/scheduler_config.json"), "scheduler_config.json` is missing"),
    "no tokenizer's config": (gone("tokenizer_2/tokenizer_config.json"),
                              "tokenizer_2/tokenizer_config.json` is missing"),
    "T5 without its tokenizer": (changed("model_index.json", tokenizer_3=[None, None]),
                                 "names no class for `tokenizer_3`"),
    "no class of the VAE": (changed("model_index.json", vae=...), "names no class for `vae`"),
    "another pipeline": (changed("model_index.json", _class_name="FluxPipeline"), "FluxPipeline"),
    "another class": (changed("model_index.json", tokenizer=["transformers", "T5TokenizerFast"]),
                      "`tokenizer` is a T5TokenizerFast"),
    "CLIP's tokenizer at T5": (copied("tokenizer", "tokenizer_3"), "of the kind BPE"),
    "T5's tokenizer at CLIP": (copied("tokenizer_3", "tokenizer"), "of the kind Unigram"),
    "half the words of CLIP": (in_the_model("tokenizer", vocab=300, merges=[]), "<|startoftext|>"),
    "half the words of T5": (in_the_model("tokenizer_3", vocab=100), "<extra_id_"),
    "no merges in the file": (in_the_model("tokenizer", merges=[]), "merges of 333 of 333"),
    "an empty vocabulary": (in_two_files(vocabulary=lambda _: ""), "vocab.json` is not JSON"),
    "a vocabulary of nothing": (in_two_files(vocabulary=lambda _: "{}"), "vocab.json` does not"),
    "half a vocabulary": (in_two_files(vocabulary=cut), "vocab.json` is not JSON"),
    "no merges": (in_two_files(merges=None), "merges.txt` is missing"),
    "empty merges": (in_two_files(merges=lambda _: ""), "merges of 333 of 333 tokens"),
    "half the merges": (in_two_files(merges=cut), "merges.txt`: merges of 16"),
    "no vocabulary": (in_two_files(vocabulary=None), "holds no vocabulary"),
    "empty pieces": (pieces(b""), "spiece.model` holds no tokens"),
    "damaged pieces": (pieces(b"\x0a\x05hello"), "spiece.model` is damaged"),
    "captions that are too short": (changed("tokenizer/tokenizer_config.json", model_max_length=9),
                                    "model_max_length=9"),
    "an unknown special token": (changed("tokenizer/tokenizer_config.json", pad_token="<pad>"),
                                 "lacks the special token '<pad>'"),
    "another end": (changed("text_encoder/config.json", eos_token_id=7), "eos_token_id=7"),
    "another encoder": (copied("text_encoder_2", "text_encoder"), "of width 48 and 48"),
    "CLIP as T5": (copied("text_encoder", "text_encoder_3"), "of width 512"),
    "another width": (changed("text_encoder/config.json", hidden_size=16), "says [847, 16]"),
    "fewer words": (changed("text_encoder/config.json", vocab_size=100), "says [100, 32]"),
    "a width of text": (changed("text_encoder/config.json", hidden_size="wide"), "size=wide"),
    "another VAE": (small_vae, "latent_channels=4, but the transformer takes 16"),
    "no shift": (changed("vae/config.json", shift_factor=None), "`shift_factor` is None"),
    "no scale": (changed("vae/config.json", scaling_factor=...), "`scaling_factor` is None"),
    "a shallow VAE": (changed("vae/config.json", block_out_channels=[16, 32]), "[16, 32]"),
    "a tensor of CLIP": (other(f"text_encoder/{TRANSFORMERS}",
                               lambda t: t.pop("text_projection.weight")),
                         "`text_projection.weight` is missing"),
    "a tensor of T5": (other(f"text_encoder_3/{TRANSFORMERS}",
                             lambda t: t.pop("encoder.block.1.layer.1.DenseReluDense.wo.weight")),
                       "wo.weight` is missing"),
    "a tensor of the VAE": (other(f"vae/{DIFFUSERS}", lambda t: t.pop("decoder.conv_in.bias")),
                            "`decoder.conv_in.bias` is missing"),
    "a tensor of the transformer": (other(f"transformer/{DIFFUSERS}",
                                          lambda t: t.pop("transformer_blocks.1.attn.to_q.bias")),
                                    "attn.to_q.bias` is missing"),
    "another shape": (other(f"transformer/{DIFFUSERS}",
                            lambda t: t.update({"proj_out.weight": torch.zeros(64, 100)})),
                      "has the shape [64, 100]"),
    "no index of shards": (sharded(lambda p: (p / "model.safetensors.index.json").unlink()),
                           "model.safetensors.index.json` is missing"),
    "a tensor of another shard": (sharded(lambda p: changed("model.safetensors.index.json",
        weight_map={"shared.weight": sorted(p.glob("model-*"))[1].name,
                    "encoder.final_layer_norm.weight": sorted(p.glob("model-*"))[0].name})(p)),
        "is not in `model-0000"),
    "a variant alone": (lambda p: (p / "vae" / DIFFUSERS).rename(
        p / "vae" / "diffusion_pytorch_model.fp16.safetensors"), "there is diffusion_pytorch"),
}  # fmt: skip


@pytest.fixture
def folder(demo: Path, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    source = demo / "models" / "sd3.5-medium"
    large = source / "transformer" / DIFFUSERS
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(large.name))
    shutil.copy(source / "vae" / DIFFUSERS, target / "vae")
    (target / "transformer" / DIFFUSERS).symlink_to(large)
    return target


@pytest.mark.parametrize("kind", SPOILT)
def test_every_part_is_checked_by_name_before_anything_is_loaded(kind: str, folder: Path) -> None:
    spoil, words = SPOILT[kind]
    spoil(folder)
    with pytest.raises(ModelError) as e:
        models.find_whole(models.ModelRequest(str(folder)))
    assert [words in p.message for p in e.value.problems] == [True], e.value.problems


def test_all_that_is_missing_is_said_at_once(folder: Path) -> None:
    for part in ("vae", "tokenizer_3", "transformer"):
        shutil.rmtree(folder / part)
    changed("text_encoder/config.json", eos_token_id=7)(folder)
    with pytest.raises(ModelError) as e:
        models.find_whole(models.ModelRequest(str(folder)))
    said = [p.message for p in e.value.problems]
    assert len(said) == 3 and all(
        p in " ".join(said) for p in ("vae", "tokenizer_3", "transformer")
    )


def no_t5(folder: Path) -> None:
    changed("model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])(folder)
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")


def added_tokens(folder: Path) -> None:
    """As the training of an embedding leaves them: the encoder has grown too."""
    changed("tokenizer/tokenizer_config.json",
            added_tokens_decoder={"847": {"content": "<cat>"}})(folder)  # fmt: skip
    changed("text_encoder/config.json", vocab_size=848)(folder)
    name = "text_model.embeddings.token_embedding.weight"
    grow = other(f"text_encoder/{TRANSFORMERS}",
                 lambda t: t.update({name: torch.cat([t[name], t[name][:1]])}))  # fmt: skip
    grow(folder)


RIGHT: dict[str, Spoil] = {
    "as released": lambda _: None,
    "CLIP in two files": in_two_files(),
    "T5 in shards": sharded(lambda _: None),
    "without T5": no_t5,
    "with an added token": added_tokens,
    "legacy end": changed("text_encoder/config.json", eos_token_id=2),
    "more parts": changed("model_index.json", image_encoder=[None, None], note="text"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_model_that_is_whole_passes(kind: str, folder: Path) -> None:
    RIGHT[kind](folder)
    found = models.find_whole(models.ModelRequest(str(folder)))
    assert (found.text_encoders[2] == 0) == (kind == "without T5")


def test_a_part_without_the_variant_is_loaded_without_it(folder: Path) -> None:
    """As the released models have it: fp16 text encoders, and one transformer."""
    named = models.ModelRequest(str(folder), variant="fp16")
    assert models.find_whole(named) == models.find(str(folder))
    part = folder / "text_encoder"
    (part / TRANSFORMERS).rename(part / "model.fp16.safetensors")
    assert models.find_whole(named).text_encoders[0] > 0
    assert weights.vae(str(folder), "fp32", variant="fp16").config.latent_channels == 16
    TextEncoders.load(str(folder), dtype="fp32", t5_tokens=77, width=96, zero_padding=False,
                      variant="fp16")  # fmt: skip


def test_a_model_without_t5_encodes_captions(folder: Path) -> None:
    no_t5(folder)
    encoders = TextEncoders.load(
        str(folder), dtype="fp32", t5_tokens=77, width=96, zero_padding=False
    )
    embeds, _ = encoders.encode(["a cat"])
    assert embeds.shape == (1, 154, 96) and not embeds[:, 77:].any() and embeds[:, :77].any()


def test_a_transformer_of_its_own_is_checked_and_what_it_replaces_is_not(
    folder: Path, demo: Path, tmp_path: Path
) -> None:
    shutil.rmtree(folder / "transformer")
    large = tmp_path / "large"
    shutil.copytree(demo / "models" / "sd3.5-large", large)
    named = models.ModelRequest(str(folder), str(large))
    assert models.find_whole(named).name == "sd3.5-large (tiny)"
    other(f"transformer/{DIFFUSERS}", lambda t: t.pop("proj_out.bias"))(large)
    with pytest.raises(ModelError, match=r"`proj_out.bias` is missing"):
        models.find_whole(named)


@pytest.mark.parametrize("name", MODELS)
def test_the_names_are_those_of_the_libraries(name: str, demo: Path) -> None:
    folder = demo / "models" / name
    shape = models.find(str(folder)).transformer
    config = json.loads((folder / "vae" / "config.json").read_text())
    held = {part: set(weight_files.tensors(folder / part, Path(file).stem))
            for part, file in WEIGHTS.items()}  # fmt: skip
    assert tensor_names.vae(config, 16).keys() == held["vae"]
    assert tensor_names.transformer(shape, range(shape.dual_layers)).keys() == held["transformer"]


@pytest.mark.parametrize("shape", [SD3_MEDIUM, SD35_MEDIUM, SD35_LARGE])
def test_the_shapes_are_those_of_the_released_models(shape: Transformer) -> None:
    expected = tensor_names.transformer(shape, range(shape.dual_layers))
    held = {name: tuple(t.shape) for name, t in built(shape).state_dict().items()}
    assert expected.keys() == held.keys()
    assert all(size in (None, held[name]) for name, size in expected.items())


def test_the_text_encoders_have_the_libraries_names() -> None:
    with torch.device("meta"):
        clip = CLIPTextModelWithProjection(CLIPTextConfig())
        t5 = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu"))
        vae = AutoencoderKL(
            latent_channels=16, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
    shapes = {name: tuple(t.shape) for name, t in clip.state_dict().items()}
    expected = tensor_names.clip(model_folder.CLIP_DEFAULTS)
    assert expected.keys() == {k for k in shapes if not k.endswith("position_ids")}
    assert all(size in (None, shapes[name]) for name, size in expected.items())
    names = {tensor_names.present_name(name) for name in t5.state_dict()}
    assert tensor_names.t5(model_folder.T5_DEFAULTS, gated=True).keys() == names
    shapes = {name: tuple(t.shape) for name, t in vae.state_dict().items()}
    expected = tensor_names.vae(vae.config, 16)
    assert expected.keys() == shapes.keys()
    assert all(size in (None, shapes[name]) for name, size in expected.items())


def test_padding_of_the_embeddings_is_no_missing_token(folder: Path) -> None:
    """T5-XXL: 32,100 tokens, or 32,000 pieces, and 32,128 rows."""
    ids = {str(i): i for i in range(32_000)}
    vocabulary = tokenizer_files.Vocabulary(folder, ids, None, None)
    tokenizer_files.refuse_unfit(vocabulary, 32_128, folder)
    for rows in (31_999, 49_408):
        with pytest.raises(ModelError, match="has 32,000 tokens"):
            tokenizer_files.refuse_unfit(vocabulary, rows, folder)
