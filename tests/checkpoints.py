"""Checkpoint folders written by hand, as the format is documented, without torch."""

import json
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Any

STATE = {"format": 2, "step": 1, "position": 1, "noise": 7, "loss_before": 2.5,
         "recent_losses": [2.5], "lowered_until": 0, "scaler": {}, "optimizer": {},
         "optimizer_class": "torch.AdamW"}  # fmt: skip


def tensors() -> bytes:
    """A safetensors file of two numbers."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def folder(output: Path, step: int, *, name: str = "", run: str | None = "a", **state: Any) -> Path:
    """A whole checkpoint. run None: as they were before they had run.json."""
    path = output / (name or f"checkpoint-{step}")
    path.mkdir(parents=True)
    (path / "state.json").write_text(json.dumps(STATE | {"step": step} | state))
    for file in ("trained", "optimizer"):
        (path / f"{file}.safetensors").write_bytes(tensors())
    if run is not None:
        (path / "run.json").write_text(json.dumps({"run": run, "named": None}))
    seal(path)
    return path


def seal(path: Path) -> None:
    """Its manifest, for whatever it holds now."""
    listed = {p.name: blake2b(p.read_bytes(), digest_size=16).hexdigest()
              for p in sorted(path.iterdir()) if p.name != "manifest.json"}  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(listed))


def flip(file: Path) -> None:
    """The last bit of it."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def foreign(output: Path, step: int) -> Path:
    """What other trainers leave under that name."""
    path = output / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("optimizer.bin", "random_states_0.pkl", "pytorch_lora_weights.safetensors"):
        (path / name).write_bytes(b"x" * 100)
    return path


def names(output: Path) -> set[str]:
    return {p.name for p in output.iterdir()}
