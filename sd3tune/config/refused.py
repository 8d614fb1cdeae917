"""Values of the vocabulary that sd3tune knows and does not take: why, and the nearest it has.

Each function passes every other value through. Raises ValueError "reason; use value", of which
report.py makes the error and the hint.
"""

from typing import Any

TORCHAO = "torchao's weights do not train on several processes (aten.view is missing for them)"
TORCHAO_INT4 = "peft takes no adapter on torchao's 4-bit weights"
DYNAMIC = "activations are not quantised here: weights only"
SDNQ = "sdnq is not one of the libraries sd3tune quantises with"
NO_GAIN = "16 bits are no smaller than bf16"
COMPUTE_FP8 = "arithmetic in fp8 is not built in: fp8 is for storage only"
PRECISIONS = {
    "int8-torchao": (TORCHAO, "int8-quanto"),
    "int8dq-torchao": (DYNAMIC, "int8-quanto"),
    "int8dq-int4-torchao": (DYNAMIC, "int4-quanto"),
    "int4-torchao": (TORCHAO_INT4, "nf4-bnb"),
    "fp8-torchao": (DYNAMIC, "fp8-quanto"),
    "fp8wo-torchao": (TORCHAO, "fp8-quanto"),
    "fp8-int4-torchao": (TORCHAO_INT4, "nf4-bnb"),
    "fp8uz-quanto": ("the flavour of fp8 is the chip's, not the user's", "fp8-quanto"),
    "fp8-native": (COMPUTE_FP8, "fp8-quanto"),
    "fp8-transformerengine": (COMPUTE_FP8, "fp8-quanto"),
    **{f"{name}-sdnq": (NO_GAIN, "no_change") for name in ("int16", "uint16", "fp16")},
    **{
        f"{name}-sdnq": (SDNQ, "int8-quanto") for name in ("int8", "uint8", "int6", "int5", "uint5")
    },
    **{f"{name}-sdnq": (SDNQ, "int4-quanto") for name in ("uint4", "uint3")},
    "uint2-sdnq": (SDNQ, "int2-quanto"),
    "fp8-sdnq": (SDNQ, "fp8-quanto"),
}
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


def precision(value: Any) -> Any:
    return _passed(value, PRECISIONS)


def quantize_via(value: Any) -> Any:
    return _passed(value, VIA)


def checkpointing_backend(value: Any) -> Any:
    return _passed(value, BACKENDS)


def _passed(value: Any, table: dict[str, tuple[str, str]]) -> Any:
    if isinstance(value, str) and value in table:
        reason, nearest = table[value]
        raise ValueError(f"is refused: {reason}; use {nearest}")
    return value
