"""Loading the parts of an SD3 model, one at a time, and naming what was loaded.

Only diffusers and transformers read weights here. Nothing is downloaded twice: the hub's cache is
theirs. Loading errors become ModelError with what to do.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from sd3tune.backends.memory import is_out_of_memory
from sd3tune.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SAMPLES, SAMPLE_BYTES = 16, 2**20


@contextmanager
def reading(part: str, source: str) -> Iterator[None]:
    """Turns what the libraries raise for missing or gated weights into one sentence."""
    try:
        yield
    except OSError as e:  # includes huggingface_hub's HTTP errors and missing files
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(
            f"`pretrained_model_name_or_path={source}`: cannot load the {part}: {first}",
            hint="gated models need `hf auth login` and the licence accepted on their page; "
            "offline, give a local diffusers folder",
        ) from e
    except (ValueError, KeyError, RuntimeError) as e:
        if is_out_of_memory(e):
            raise
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(
            f"`pretrained_model_name_or_path={source}`: the {part} is damaged or of another "
            f"kind: {first}",
            hint="download the model again",
        ) from e


def local(source: str, **where: Any) -> str:
    """The folder of a model: itself, or the hub's cache after downloading what is missing there.

    where: revision and variant, as from_pretrained takes them. Raises ModelError.
    """
    if Path(source).is_dir():
        return source
    from diffusers import StableDiffusion3Pipeline

    with reading("model", source):
        return str(StableDiffusion3Pipeline.download(source, **where))


def transformer(source: str, dtype: str, **where: Any) -> Any:
    """The denoiser, frozen, in `dtype`, on the CPU."""
    from diffusers import SD3Transformer2DModel

    with reading("transformer", source):
        model = SD3Transformer2DModel.from_pretrained(
            source, subfolder="transformer", dtype=DTYPES[dtype], **where
        )
    return model.requires_grad_(False)


def blank_transformer(source: str) -> Any:
    """The denoiser's shape without weights, on the meta device."""
    from diffusers import SD3Transformer2DModel

    with reading("transformer", source), torch.device("meta"):
        config = SD3Transformer2DModel.load_config(source, subfolder="transformer")
        return SD3Transformer2DModel.from_config(config).eval()


def vae(source: str, dtype: str, **where: Any) -> Any:
    """The autoencoder, frozen, in `dtype`, on the CPU."""
    from diffusers import AutoencoderKL

    with reading("vae", source):
        model = AutoencoderKL.from_pretrained(source, subfolder="vae", dtype=DTYPES[dtype], **where)
    return model.requires_grad_(False).eval()


def identity(source: str, component: str) -> str:
    """A short name for what a component holds: changes when its weights or its config change.

    Large files are sampled (sixteen megabytes spread over the file and its header), since a T5 of
    nine gigabytes would take longer to hash than to use; training touches every weight.
    """
    folder = Path(source)
    h = blake2b(digest_size=16)
    for file in sorted((folder / component).rglob("*")):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".txt", ".model"):
            h.update(file.name.encode())
            h.update(_meaning(file))
    return h.hexdigest()


def _meaning(file: Path) -> bytes:
    if file.suffix == ".json":  # key order and the library's own version stamps do not count
        data = json.loads(file.read_text())
        if isinstance(data, dict):
            data = {
                k: v
                for k, v in data.items()
                if k not in ("_diffusers_version", "transformers_version", "_name_or_path")
            }
        return json.dumps(data, sort_keys=True).encode()
    size = file.stat().st_size
    if size <= SAMPLES * SAMPLE_BYTES:
        return file.read_bytes()
    with file.open("rb") as f:
        parts = [str(size).encode()]
        for i in range(SAMPLES):
            f.seek(i * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            parts.append(f.read(SAMPLE_BYTES))
    return b"".join(parts)
