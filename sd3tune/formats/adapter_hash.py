"""The hash of an adapter's numbers: the same for the values of a run in memory, for its file, and
for the file in another dialect, whose bytes all differ."""

from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from sd3tune.formats.adapter_weights import LoraWeights, Modules


def weights_sha256(modules: Modules) -> str:
    """Of every module by its name, with the scale of a LoRA folded in. Dialects that keep another
    form of a module (DoRA as whole differences, for one) have another hash."""
    h = sha256()
    for name in sorted(modules):
        module = modules[name]
        if isinstance(module, LoraWeights):
            own = module.folded()
            parts = {"down": own.down, "up": own.up, "magnitude": own.magnitude, "bias": own.bias}
        else:
            parts = dict(module.tensors)
            h.update(f"{module.algorithm} {module.alpha}".encode())
        for part, tensor in sorted(parts.items()):
            if tensor is not None:
                h.update(f"{name} {part} {tensor.dtype} {tuple(tensor.shape)}".encode())
                h.update(_bytes(tensor))
    return h.hexdigest()


def file_sha256(path: Path) -> str:
    """As `sha256sum` prints it. Raises OSError."""
    h = sha256()
    with path.open("rb") as f:
        while chunk := f.read(2**20):
            h.update(chunk)
    return h.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
