"""Loads the parts of an SD3 model, one at a time.

diffusers and transformers read the weights. Single files are converted by diffusers' own code with
a configuration from their shapes, without a request to the hub. Downloads go to the hub's cache,
which the libraries share. Loading errors become ModelError with a hint (weight_errors.py).
"""

from pathlib import Path
from typing import Any

import torch

from sd3tune.errors import ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.sd3 import configs, hub, single, weight_files
from sd3tune.sd3.hub_refusals import Question
from sd3tune.sd3.models import MODEL, TRANSFORMER, is_file
from sd3tune.sd3.variants import ModelSource
from sd3tune.sd3.weight_errors import reading

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def local(source: str | ModelSource, **where: Any) -> ModelSource:
    """The source with its base on this disk: a folder as it is, or the folder in the hub's cache
    after downloading. A transformer or VAE with another source is not downloaded from the base.

    where: revision and variant, as in from_pretrained. Raises ModelError.
    """
    source = ModelSource.of(source)
    if Path(source.base).is_dir():
        return source
    hub.file(Question(source.base, MODEL, where.get("revision")), configs.INDEX)
    from diffusers import StableDiffusion3Pipeline

    elsewhere = {name: None for name in ("transformer", "vae")
                 if getattr(source, name) != source.base}  # fmt: skip
    with reading("model", source.base):
        found = str(
            StableDiffusion3Pipeline.download(
                source.base, use_safetensors=True, **elsewhere, **where
            )
        )
    configs.check_folder(Path(found))
    transformer, vae = (found if p == source.base else p for p in (source.transformer, source.vae))
    return ModelSource(found, transformer, vae, source.subfolder)


def transformer(source: str | ModelSource, dtype: str, **where: Any) -> Any:
    """The transformer, frozen, in `dtype`, on the CPU. where: revision and variant, used if the
    transformer comes from the base. Raises ModelError."""
    from diffusers import SD3Transformer2DModel

    source = ModelSource.of(source)
    own = source.transformer == source.base
    setting, folder = MODEL if own else TRANSFORMER, Path(source.transformer) / source.subfolder
    with reading("transformer", source.transformer, setting):
        if is_file(source.transformer):
            model = _transformer_of_file(Path(source.transformer), DTYPES[dtype])
        else:
            model = SD3Transformer2DModel.from_pretrained(
                source.transformer,
                subfolder=None if source.subfolder == "." else source.subfolder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                **(weight_files.meant(where, weight_files.DIFFUSERS, folder) if own else {}),
            )
    return model.requires_grad_(False)


def state(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of all shards in a transformer's folder, as they are stored. Raises
    ModelError."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("diffusion_pytorch_model*.safetensors")):
        safetensors_header.read(file)  # refuses what is damaged
        found |= load_file(file)
    if not found:
        raise ModelError(f"`{folder}` holds no diffusion_pytorch_model*.safetensors",
                         hint="download the model again")  # fmt: skip
    return found


def blank_transformer(source: str | ModelSource) -> Any:
    """The transformer without weights, on the meta device."""
    from diffusers import SD3Transformer2DModel

    source = ModelSource.of(source)
    with reading("transformer", source.transformer), torch.device("meta"):
        if is_file(source.transformer):
            config = single.contents(safetensors_header.read(Path(source.transformer))).config
        else:
            part = None if source.subfolder == "." else source.subfolder
            config = SD3Transformer2DModel.load_config(source.transformer, subfolder=part)
        return SD3Transformer2DModel.from_config(config).eval()


def vae(source: str | ModelSource, dtype: str, **where: Any) -> Any:
    """The VAE, frozen, in `dtype`, on the CPU. Raises ModelError."""
    from diffusers import AutoencoderKL

    source = ModelSource.of(source)
    with reading("vae", source.vae):
        if is_file(source.vae):
            model = _vae_of_file(Path(source.vae), DTYPES[dtype])
        else:
            model = AutoencoderKL.from_pretrained(
                source.vae,
                subfolder="vae",
                dtype=DTYPES[dtype],
                use_safetensors=True,
                **weight_files.meant(where, weight_files.DIFFUSERS, Path(source.vae) / "vae"),
            )
    return model.requires_grad_(False).eval()


def _transformer_of_file(path: Path, dtype: torch.dtype) -> Any:
    from accelerate import init_empty_weights
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    held = single.contents(safetensors_header.read(path))
    state = _tensors(path, held.prefix, dtype)
    if not held.prefix:  # then drop the VAE and the encoders, which the file may hold too
        state = {k: v for k, v in state.items() if not k.startswith((single.VAE, single.ENCODERS))}
    with init_empty_weights():
        model = SD3Transformer2DModel(**held.config)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(state)
    model.load_state_dict(converted, strict=True, assign=True)
    return model.eval()


def _vae_of_file(path: Path, dtype: torch.dtype) -> Any:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = _tensors(path, single.VAE, dtype)
    config = single.vae_config({name: tuple(value.shape) for name, value in state.items()})
    with init_empty_weights():
        model = AutoencoderKL(**config)
    converted = convert_ldm_vae_checkpoint({single.VAE + k: v for k, v in state.items()}, config)
    model.load_state_dict(converted, strict=True, assign=True)
    return model


def _tensors(path: Path, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, under their names without it."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        names = [name for name in f.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name[len(prefix) :]: f.get_tensor(name).to(dtype) for name in names}
