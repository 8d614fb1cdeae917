"""The file named by `lycoris_config`: which LyCORIS algorithm, how large, on which modules."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sd3tune.config import values
from sd3tune.config.fields import Count, Flag, Number, Settings, Whole
from sd3tune.config.files.reading import read_json
from sd3tune.config.names import Unsupported
from sd3tune.config.other_trainers import by_name
from sd3tune.config.problems import Location, Problems, known_settings, shown, validated
from sd3tune.config.rules.rule import Rule, violated
from sd3tune.errors import ConfigError, ErrorAndHint

_NO_CONVOLUTION = "is about convolutions, and SD3's transformer has none to adapt"
UNSUPPORTED = (
    Unsupported(_NO_CONVOLUTION, "leave it out", "conv_dim conv_alpha use_tucker"),
    Unsupported(
        "is not supported: SD3's layer norms have no weights", "leave it out", "train_norm"
    ),
    Unsupported("belongs to dylora, which is not supported", "leave it out", "block_size"),
    Unsupported("is not supported", "name the modules in apply_preset", "preset"),
)
RENAMED = {  # ours: what other trainers call it
    "algo": "algorithm type network_type lycoris_algo peft_type",
    "linear_dim": "dim rank network_dim lora_rank lokr_dim network_rank r linear",
    "linear_alpha": "alpha network_alpha lora_alpha",
    "factor": "lokr_factor decompose_factor lokr_decompose_factor",
    "full_matrix": "lokr_full_matrix lokr_full_rank full_rank",
    "decompose_both": "lokr_decompose_both",
    "dropout": "network_dropout lora_dropout",
    "dora_wd": "use_dora dora weight_decompose lokr_weight_decompose wd",
    "apply_preset": "target_modules targets",
}  # fmt: skip
REASONS = by_name(RENAMED, UNSUPPORTED)
ALGORITHMS = {  # that lycoris-lora has and sd3tune does not: why
    "full": "trains whole weights: model_type=full does that without a copy of each",
    "dylora": "cannot be loaded back exactly (lycoris-lora 4.1)",
    "ia3": "cannot be loaded back (lycoris-lora 4.1)",
    "tlora": "changes with the noise level, which no other program applies",
}
Factor = Annotated[Whole, Field(ge=-1)]


class Part(Settings):
    """Settings of some modules that differ from those of all."""

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
    if word in ALGORITHMS:
        raise ValueError(f"{ALGORITHMS[word]}; use lokr, loha, locon, glora, diag-oft or boft")
    return word


class Targets(Settings):
    """`apply_preset`: which modules are adapted."""

    target_module: Annotated[tuple[str, ...], BeforeValidator(values.names)] = ("Attention",)
    """Class names: Attention, FeedForward, JointTransformerBlock, or Linear for all."""
    target_name: tuple[str, ...] = ()
    """Module names, as expressions (or as shell patterns with use_fnmatch)."""
    module_algo_map: dict[str, Part] = Field(default_factory=dict)
    """Class name -> settings of its modules."""
    name_algo_map: dict[str, Part] = Field(default_factory=dict)
    """Name pattern -> settings of the modules it matches."""
    use_fnmatch: Flag = False
    """Patterns are those of a shell, as in *.attn.*"""
    exclude_name: tuple[str, ...] = ()
    """Patterns of modules that are not adapted."""
    enable_conv: Flag = False
    """No effect on SD3's transformer, which is linear but for its first layer."""

    @model_validator(mode="after")
    def fits_together(self) -> "Targets":
        """Patterns must be regular expressions. Raises ValueError."""
        if self.enable_conv:
            raise ValueError(f"enable_conv {_NO_CONVOLUTION}; leave it out")
        patterns = () if self.use_fnmatch else (*self.target_name, *self.name_algo_map,
                                                *self.exclude_name)  # fmt: skip
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as e:
                raise ValueError(f"`{pattern}` is not a regular expression: {e}") from None
        return self


class Lycoris(Settings):
    """The file named by lycoris_config."""

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
    """lokr: do not split the larger matrix into two factors."""
    decompose_both: Flag = False
    """lokr: split the smaller matrix into two factors too."""
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
    """Rotations: largest rotation; 0 is no limit."""
    rescaled: Flag = False
    """Rotations: one trained scale per output as well."""
    bypass_mode: Flag | None = None
    """The update is computed beside the layer instead of in its weight. Left out: where the weight
    is quantised."""
    apply_preset: Targets = Targets()
    """Which modules are adapted, and how."""

    @property
    def algorithms(self) -> set[str | None]:
        """Every algorithm that some module gets; None where a part names no other."""
        parts = (self.apply_preset.module_algo_map, self.apply_preset.name_algo_map)
        return {self.algo, *(part.algo for each in parts for part in each.values())}


def error(keys: str, when: Callable[[Lycoris], object], sentence: str, hint: str) -> Rule[Lycoris]:
    """keys: those it concerns, between blanks."""
    return Rule(tuple(keys.split()), "error", when, sentence, hint)


def belongs_to(key: str, *algorithms: str) -> Rule[Lycoris]:
    """A key that only some algorithms have."""
    default = Lycoris.model_fields[key].default
    return error(
        f"{key} algo apply_preset",
        lambda c: getattr(c, key) != default and not c.algorithms & {*algorithms},
        f"{key} belongs to {' and '.join(algorithms)}, this is algo={{c.algo}}",
        "leave it out",
    )


RULES = (
    error(
        "multiplier",
        lambda c: c.multiplier == 0,
        "multiplier=0 would train nothing",
        "use 1.0",
    ),
    error(
        "multiplier algo",
        lambda c: c.multiplier not in (0, 1) and c.algo not in ("lora", "locon", "loha", "lokr"),
        "multiplier={c.multiplier:g} cannot be folded into a file of algo={c.algo}",
        "use 1.0",
    ),
    *(
        belongs_to(key, "lokr")
        for key in ("factor", "full_matrix", "decompose_both", "unbalanced_factorization")
    ),
    *(belongs_to(key, "diag-oft", "boft") for key in ("constraint", "rescaled")),
    error(
        "dora_wd algo apply_preset",
        lambda c: c.dora_wd and c.algorithms & {"glora", "diag-oft", "boft"},
        "dora_wd belongs to lora, loha and lokr",
        "leave it out",
    ),
)


def load_lycoris(path: Path) -> Lycoris:
    """Raises ConfigError with all problems, each naming file, key and value."""
    document = read_json(path, dict, "lycoris_config")
    problems, location = Problems(), Location(str(path))
    for name in [n for n in document if n.startswith("_")]:
        what = f"`{path}`: unknown setting `{shown(name)}`"
        problems.add(ErrorAndHint(what, "leave it out"), name)
    named = {name: value for name, value in document.items() if not name.startswith("_")}
    values, _ = known_settings(named, Lycoris, location, problems, REASONS)
    validated(values, Lycoris, location, problems)
    wrong = problems.settings
    lycoris = Lycoris.model_validate({k: v for k, v in values.items() if k not in wrong})
    for violation in violated(RULES, "error", lycoris, wrong):
        problems.add(violation.at(f"`{path}`"))
    if every := problems.ordered(document):
        raise ConfigError.of(every)
    return lycoris
