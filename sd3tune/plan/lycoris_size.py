"""How many values a LyCORIS adapter trains, by arithmetic: `plan` counts before weights are loaded.

Matching and sizes are lycoris-lora's (4.1); tests compare them with the network it makes.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from sd3tune.errors import ConfigError
from sd3tune.sd3.linears import Linear, linears

if TYPE_CHECKING:
    from sd3tune.config.files.lycoris_config import Lycoris, Part
    from sd3tune.sd3.variants import Transformer

Matched = dict[str, tuple[Linear, "Lycoris"]]


def parameters(shape: "Transformer", config: "Lycoris") -> int:
    """Values that are trained."""
    return sum(_values(linear, own) for linear, own in matched(shape, config).values())


def matched(shape: "Transformer", config: "Lycoris") -> Matched:
    """Adapted linears by name, each with the settings it gets."""
    adapted: Matched = {}
    preset = config.apply_preset
    classes = {*preset.target_module, *preset.module_algo_map}
    names = (*preset.target_name, *preset.name_algo_map)

    def hit(patterns: Sequence[str], name: str) -> bool:
        return _any(patterns, name, preset.use_fnmatch)

    for linear in linears(shape):
        own: Lycoris | None = None
        for name, kind in (*linear.inside, (linear.name, "Linear")):
            # The outermost class that is named takes what is inside; an inner one may refine it.
            if kind in classes and not hit((*names, *preset.exclude_name), name):
                part = preset.module_algo_map.get(kind)
                own = _refined(config, part) if part or own is None else own
        if own is None and hit(names, linear.name):
            parts = preset.name_algo_map.items()
            own = _refined(config, next((p for n, p in parts if hit((n,), linear.name)), None))
        if own is not None and not hit(preset.exclude_name, linear.name):
            adapted[linear.name] = linear, own
    return adapted


def _any(patterns: Sequence[str], name: str, shell: bool) -> bool:
    return any(fnmatch(name, p) if shell else re.match(p, name) for p in patterns)


def _refined(config: "Lycoris", part: "Part | None") -> "Lycoris":
    if part is None:
        return config
    changed = {"algo": part.algo, "linear_dim": part.dim, "linear_alpha": part.alpha,
               "factor": part.factor}  # fmt: skip
    return config.model_copy(update={k: v for k, v in changed.items() if v is not None})


def _values(linear: Linear, c: "Lycoris") -> int:
    i, o, r = linear.inputs, linear.outputs, c.linear_dim
    count = int(c.use_scalar)
    if c.dora_wd:
        count += o if c.wd_on_output else i
    if c.algo in ("lora", "locon"):
        return count + r * (i + o)
    if c.algo == "loha":
        return count + 2 * r * (i + o)
    if c.algo == "glora":
        return count + r * (3 * i + o)
    if c.algo == "lokr":
        return count + _lokr(i, o, c)
    count = o if c.rescaled else 0
    if c.algo == "diag-oft":
        size, blocks = factorization(o, r)
        return count + blocks * size * size
    size, blocks = _butterfly(o, r)
    return count + (bin(blocks - 1).count("1") + 1) * blocks * size * size


def _lokr(i: int, o: int, c: "Lycoris") -> int:
    in_m, in_n = factorization(i, c.factor)
    out_l, out_k = factorization(o, c.factor)
    if c.unbalanced_factorization:
        out_l, out_k = out_k, out_l
    r = c.linear_dim
    small, large = out_l * in_m, out_k * in_n
    if c.decompose_both and r < max(out_l, in_m) / 2 and not c.full_matrix:
        small = r * (out_l + in_m)
    if r < max(out_k, in_n) / 2 and not c.full_matrix:
        large = r * (out_k + in_n)
    return small + large


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a dimension, the first one near `factor` and not the larger."""
    if factor > 0 and dimension % factor == 0:
        pair = factor, dimension // factor
        return min(pair), max(pair)
    limit = dimension if factor < 0 else factor
    m, n = 1, dimension
    while m < n:
        larger = next(d for d in range(m + 1, dimension + 1) if dimension % d == 0)
        if larger + dimension // larger > m + n or larger > limit:
            break
        m, n = larger, dimension // larger
    return min(m, n), max(m, n)


def _butterfly(dimension: int, factor: int) -> tuple[int, int]:
    """Block size and number of blocks of BOFT: dimension = 2k x 2^p. Raises ConfigError."""
    sizes = [m for m in range(2, dimension + 1, 2)
             if dimension % m == 0 and bin(dimension // m).count("1") == 1]  # fmt: skip
    usable = [m for m in sizes if m <= factor]
    if not usable:
        raise ConfigError(
            f"`lycoris_config`: boft cannot split a layer {dimension} wide into blocks of at most "
            f"linear_dim={factor}",
            hint=f"set linear_dim to {sizes[0]} or more",
        )
    return usable[-1], dimension // usable[-1]
