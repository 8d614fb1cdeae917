"""The file named by `lycoris_config`: which LyCORIS algorithm, how large, on which modules."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from sd3tune.config import checks
from sd3tune.config.complaints import refusal, refuse_unknown, shown
from sd3tune.config.fields import Count, Flag, Number, Settings, Whole
from sd3tune.config.files.reading import read_json
from sd3tune.errors import ConfigError

_NO_CONVOLUTION = "is about convolutions, and SD3's transformer has none to adapt"
REASONS = {
    "conv_dim": _NO_CONVOLUTION,
    "conv_alpha": _NO_CONVOLUTION,
    "use_tucker": _NO_CONVOLUTION,
    "train_norm": "is not supported: SD3's layer norms have no weights",
    "block_size": "belongs to dylora",
    "preset": "is not supported: name the modules in apply_preset",
}
UNSUPPORTED = {
    "full": "trains whole weights; model_type=full does that without a copy of each",
    "dylora": "cannot be loaded back exactly (lycoris-lora 4.1)",
    "ia3": "cannot be loaded back (lycoris-lora 4.1)",
    "tlora": "changes with the noise level, which no other program applies",
}
Factor = Annotated[Whole, Field(ge=-1)]


class Part(Settings):
    """What one kind of module gets instead of the settings above it."""

    algo: Literal["lora", "locon", "loha", "lokr", "glora", "diag-oft", "boft"] | None = None
    """Another algorithm."""
    dim: Count | None = None
    """Another rank."""
    alpha: Number | None = Field(None, gt=0)
    """Another alpha."""
    factor: Factor | None = None
    """lokr: another factor."""


def _known(algo: Any) -> Any:
    word = str(algo).lower()
    if word in UNSUPPORTED:
        raise ValueError(f"{UNSUPPORTED[word]}; use lokr, loha, locon, glora, diag-oft or boft")
    return word


class Targets(Settings):
    """`apply_preset`: which modules are adapted."""

    target_module: Annotated[tuple[str, ...], BeforeValidator(checks.names)] = ("Attention",)
    """Class names: Attention, FeedForward, JointTransformerBlock, or Linear for all."""
    target_name: tuple[str, ...] = ()
    """Module names, as expressions (or as shell patterns with use_fnmatch)."""
    module_algo_map: dict[str, Part] = Field(default_factory=dict)
    """Class name to what those modules get instead."""
    name_algo_map: dict[str, Part] = Field(default_factory=dict)
    """Name pattern to what those modules get instead."""
    use_fnmatch: Flag = False
    """Patterns are those of a shell, as in *.attn.*"""
    exclude_name: tuple[str, ...] = ()
    """Patterns of modules that are left alone."""
    enable_conv: Flag = False
    """No effect on SD3's transformer, which is linear but for its first layer."""

    @model_validator(mode="after")
    def fits_together(self) -> "Targets":
        if self.enable_conv:
            raise ValueError(f"enable_conv {_NO_CONVOLUTION}; leave it out")
        patterns = () if self.use_fnmatch else (*self.target_name, *self.name_algo_map,
                                                *self.exclude_name)  # fmt: skip
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as e:
                raise ValueError(f"`{pattern}` is no regular expression: {e}") from None
        return self


class Lycoris(Settings):
    """The file."""

    algo: Annotated[
        Literal["lora", "locon", "loha", "lokr", "glora", "diag-oft", "boft"],
        BeforeValidator(_known),
    ] = "lokr"
    """`lokr` Kronecker products, `loha` Hadamard products, `locon` (or `lora`), `glora`, or
    rotations: `diag-oft`, `boft`."""
    multiplier: Number = 1.0
    """Strength of the update, folded into the file that is written."""
    linear_dim: Count = 4
    """Rank; for rotations the size of their blocks."""
    linear_alpha: Number = Field(1.0, ge=0)
    """The update is scaled by alpha / rank."""
    factor: Factor = -1
    """lokr: size of the smaller matrix. A larger one makes a smaller adapter."""
    full_matrix: Flag = False
    """lokr: the larger matrix whole instead of in two factors."""
    decompose_both: Flag = False
    """lokr: the smaller matrix in two factors as well."""
    unbalanced_factorization: Flag = False
    """lokr: the output side is split the other way round."""
    dropout: Number = Field(0.0, ge=0, lt=1)
    """Share of the update's output that is dropped in training."""
    rank_dropout: Number = Field(0.0, ge=0, lt=1)
    """Share of ranks that are dropped in training."""
    module_dropout: Number = Field(0.0, ge=0, lt=1)
    """Share of modules that are left out of a pass in training."""
    use_scalar: Flag = False
    """One trained factor for each module."""
    dora_wd: Flag = False
    """Weight decomposition (DoRA)."""
    wd_on_output: Flag = True
    """dora_wd: one magnitude per output instead of per input."""
    constraint: Number = Field(0.0, ge=0)
    """Rotations: how far they may turn; 0 is free."""
    rescaled: Flag = False
    """Rotations: one trained scale per output as well."""
    bypass_mode: Flag | None = None
    """The update is computed beside the layer instead of in its weight. Left out: where the weight
    is quantised."""
    apply_preset: Targets = Targets()
    """Which modules are adapted, and how."""

    @model_validator(mode="after")
    def fits_together(self) -> "Lycoris":
        if self.multiplier == 0:
            raise ValueError("multiplier=0 would train nothing; use 1.0")
        if self.multiplier != 1 and self.algo not in ("lora", "locon", "loha", "lokr"):
            raise ValueError(f"multiplier={self.multiplier:g} cannot be folded into a file of "
                             f"algo={self.algo}; use 1.0")  # fmt: skip
        own = {"factor": -1, "full_matrix": False, "decompose_both": False,
               "unbalanced_factorization": False}  # fmt: skip
        parts = [*self.apply_preset.module_algo_map.values(),
                 *self.apply_preset.name_algo_map.values()]  # fmt: skip
        algos = {self.algo, *(p.algo for p in parts)}
        for name, idle in own.items():
            if getattr(self, name) != idle and "lokr" not in algos:
                raise ValueError(f"{name} belongs to lokr, this is algo={self.algo}; leave it out")
        for name in ("constraint", "rescaled"):
            if getattr(self, name) and not algos & {"diag-oft", "boft"}:
                raise ValueError(f"{name} belongs to diag-oft and boft, this is algo={self.algo}; "
                                 "leave it out")  # fmt: skip
        if self.dora_wd and algos & {"glora", "diag-oft", "boft"}:
            raise ValueError("dora_wd belongs to lora, loha and lokr; leave it out")
        return self


def load_lycoris(path: Path) -> Lycoris:
    """Raises ConfigError naming file, key and value."""
    values = read_json(path, dict, "lycoris_config")
    for name in [n for n in values if n.startswith("_")]:
        raise ConfigError(f"`{path}`: unknown setting `{shown(name)}`", hint="leave it out")
    values = refuse_unknown(values, Lycoris, path, {}, REASONS)
    try:
        return Lycoris.model_validate(values)
    except ValidationError as e:
        raise refusal(e, Lycoris, path, {}, values) from None
