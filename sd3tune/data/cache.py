"""Tensors on disk under the hash of everything that decides them.

A changed setting or an edited caption changes the key, so nothing stale can be read and nothing
needs invalidating. Entries are written under another name, synced and renamed; one that cannot be
read back is treated as absent. Nothing is ever written beside the images.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.data.discover import Sample
from sd3tune.errors import DataError

VERSION = 1  # of what an entry means; raise it and everything is computed again


def latent_key(sample: Sample, digest: str, vae: str) -> str:
    """digest: of the image file's bytes; vae: identity and dtype of the autoencoder."""
    return _hash("latent", digest, json.dumps(asdict(sample.geometry)), vae)


def text_key(caption: str, encoders: str) -> str:
    """encoders: identity, dtype, token length and padding of the text encoders."""
    return _hash("text", caption, encoders)


class TensorCache:
    """A folder of safetensors files named by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] | None = None

    def has(self, key: str) -> bool:
        return self._path(key).is_file()

    def get(self, key: str) -> dict[str, Tensor]:
        """Raises DataError for a missing, torn or non-finite entry, which is then removed."""
        path = self._path(key)
        try:
            entry: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError) as e:
            path.unlink(missing_ok=True)
            raise DataError(
                f"cache entry `{path}` cannot be read: {e}", hint="run again: it is made anew"
            ) from None
        if not all(torch.isfinite(t).all() for t in entry.values()):
            path.unlink()
            raise DataError(
                f"cache entry `{path}` holds NaN or infinity", hint="set vae_dtype=fp32"
            )
        return entry

    def put(self, key: str, entry: Mapping[str, Tensor]) -> None:
        """Atomic: a reader sees nothing or the whole entry. Raises DataError when the disk does
        not take it."""
        path = self._path(key)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: t.contiguous() for name, t in entry.items()}, draft)
            with draft.open("rb") as f:
                os.fsync(f.fileno())
            draft.replace(path)
        except (OSError, SafetensorError) as e:
            draft.unlink(missing_ok=True)
            raise DataError(
                f"cannot write the cache `{self.folder}`: {e}",
                hint="free some space, or set cache_dir and cache_dir_vae to another disk",
            ) from None

    def digest(self, path: Path) -> str:
        """Hash of a file's bytes, remembered under its path, size and time of change."""
        if self._digests is None:
            self._digests = self._remembered()
        stat = path.stat()
        name = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
        if name not in self._digests:
            self._digests[name] = blake2b(path.read_bytes(), digest_size=16).hexdigest()
        return self._digests[name]

    def remember(self) -> None:
        """Writes the digests known so far; losing them costs reading the files again."""
        if self._digests:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = self.folder / f"digests.{os.getpid()}.tmp"
            draft.write_text(json.dumps(self._digests))
            draft.replace(self.folder / "digests.json")

    def _remembered(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / "digests.json").read_text()))
        except (OSError, ValueError):
            return {}

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _hash(*parts: str) -> str:
    return blake2b(json.dumps([VERSION, *parts]).encode(), digest_size=20).hexdigest()
