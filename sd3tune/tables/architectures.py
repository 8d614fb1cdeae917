"""The architectures: the released Stable Diffusion 3 models, one row each.

Sizes are those of diffusers' SD3Transformer2DModel (0.42). What follows from them, parameters and
memory, is arithmetic in `sd3tune/sd3/variants.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.tables.table import Table


@dataclass(frozen=True)
class Architecture:
    """One released model.

    aliases: names in `model_flavour`. repository: on the Hugging Face hub. sizes: arguments of
    `sd3/variants.py` Transformer. tiny: arguments of diffusers' model for the demo's model of the
    same structure. modelspec: its name in the metadata of safetensors files.
    """

    name: str
    aliases: tuple[str, ...]
    about: str
    repository: str
    modelspec: str
    sizes: Mapping[str, Any]
    tiny: Mapping[str, Any]


WIDTHS = {"head_dim": 64, "joint_dim": 4096, "pooled_dim": 2048}
SD3_MEDIUM = Architecture(
    "sd3-medium", ("3.0-medium",), "SD3 medium, 2.0 B parameters",
    "stabilityai/stable-diffusion-3-medium-diffusers", "stable-diffusion-v3-medium",
    WIDTHS | {"layers": 24, "heads": 24, "dual_layers": 0, "qk_norm": False, "positions": 192},
    {"num_layers": 2, "pos_embed_max_size": 32},
)  # fmt: skip
SD35_MEDIUM = Architecture(
    "sd3.5-medium", ("medium", "3.5-medium"), "SD3.5 medium, 2.2 B parameters, the default",
    "stabilityai/stable-diffusion-3.5-medium", "stable-diffusion-v3.5-medium",
    WIDTHS | {"layers": 24, "heads": 24, "dual_layers": 13, "qk_norm": True, "positions": 384},
    {"num_layers": 3, "pos_embed_max_size": 48, "qk_norm": "rms_norm",
     "dual_attention_layers": (0, 1)},
)  # fmt: skip
SD35_LARGE = Architecture(
    "sd3.5-large", ("large", "3.5-large"), "SD3.5 large, 8.1 B parameters",
    "stabilityai/stable-diffusion-3.5-large", "stable-diffusion-v3.5-large",
    WIDTHS | {"layers": 38, "heads": 38, "dual_layers": 0, "qk_norm": True, "positions": 192},
    {"num_layers": 3, "pos_embed_max_size": 32, "qk_norm": "rms_norm"},
)  # fmt: skip
ARCHITECTURES = Table("an architecture", (SD3_MEDIUM, SD35_MEDIUM, SD35_LARGE))
DEFAULT = SD35_MEDIUM


def of_repository(repository: str) -> Architecture | None:
    """The released model that is kept there."""
    return next((row for row in ARCHITECTURES.rows if row.repository == repository), None)
