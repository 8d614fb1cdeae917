"""Identifies the weights of a model: a hash that is part of the keys of caches. No torch."""

import json
from hashlib import blake2b
from pathlib import Path

from sd3tune.filesystem import opening, safetensors_header
from sd3tune.sd3 import single
from sd3tune.sd3.models import is_file
from sd3tune.sd3.variants import ModelSource
from sd3tune.sd3.weight_errors import reading

SAMPLES, SAMPLE_BYTES = 16, 2**20


def identity(source: str | ModelSource, component: str) -> str:
    """A hash that changes when the weights or the config of a component change; part of cache keys.

    Of large files, sixteen samples of one MiB are hashed, spread over file and header: hashing a T5
    of nine gigabytes would take longer than using it, and training changes every weight. Of a
    single file all tensors of the component are read.
    """
    source = ModelSource.of(source)
    place = {"transformer": source.transformer, "vae": source.vae}.get(component, source.base)
    if is_file(place):
        return _identity_in_file(Path(place), component)
    with reading(component, place):
        return _identity_in_folder(source, Path(place), component)


def _identity_in_folder(source: ModelSource, folder: Path, component: str) -> str:
    component = source.subfolder if component == "transformer" else component
    h = blake2b(digest_size=16)
    for file in sorted((folder / component).rglob("*")):
        if opening.is_regular(file) and file.suffix in (".json", ".safetensors", ".txt", ".model"):
            h.update(file.name.encode())
            h.update(_meaning(file))
    return h.hexdigest()


def _identity_in_file(path: Path, component: str) -> str:
    found = safetensors_header.read(path)
    h = blake2b(digest_size=16)
    with path.open("rb") as f:
        for name, entry in sorted(found.tensors.items()):
            if name.startswith(single.ENCODERS) or name.startswith(single.VAE) != (
                component == "vae"
            ):
                continue
            h.update(f"{name} {entry.dtype} {entry.shape}".encode())
            f.seek(entry.begin)
            left = entry.end - entry.begin
            while left:
                h.update(data := f.read(min(left, SAMPLE_BYTES)))
                left -= len(data)
    return h.hexdigest()


def _meaning(file: Path) -> bytes:
    if file.suffix == ".json":  # ignore key order and the versions that libraries write
        data = opening.json_of(file)
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
