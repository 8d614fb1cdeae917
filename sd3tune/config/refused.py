"""Values of the vocabulary that sd3tune knows and does not take: why, and the nearest it has.

Each function passes every other value through. Raises ValueError "reason; use value", of which
report.py makes the error and the hint.
"""

from typing import Any

BACKENDS = {
    f"{name}-ffn": ("whole blocks are checkpointed, not their feed-forward layers", name)
    for name in ("torch", "unsloth")
}
VIA = {
    "pipeline": (
        "diffusers' loaders quantise on GPUs only, and one layer at a time needs no more room",
        "accelerator",
    )
}


def quantize_via(value: Any) -> Any:
    return _passed(value, VIA)


def checkpointing_backend(value: Any) -> Any:
    return _passed(value, BACKENDS)


def _passed(value: Any, table: dict[str, tuple[str, str]]) -> Any:
    if isinstance(value, str) and value in table:
        reason, nearest = table[value]
        raise ValueError(f"is refused: {reason}; use {nearest}")
    return value
