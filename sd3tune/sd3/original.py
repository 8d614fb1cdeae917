"""Converts the tensors of a transformer from diffusers' layout to Stability's original layout, for
programs that read single files. sd3/weights.py uses diffusers' own code for the other direction.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.sd3 import module_names
from sd3tune.sd3.single import TRANSFORMER


def to_original(state: Mapping[str, Tensor], prefix: str = TRANSFORMER[0]) -> dict[str, Tensor]:
    """All tensors under their original names, with `prefix`. Raises ModelError, which names the
    tensor, when one is missing or left over."""
    blocks = {name.split(".")[1] for name in state if name.startswith("transformer_blocks.")}
    dual = [int(n.split(".")[1]) for n in state if n.endswith(".attn2.to_q.weight")]
    qk_norm = any(name.endswith(".attn.norm_q.weight") for name in state)
    left, found = dict(state), {}
    for original in module_names.originals(len(blocks), dual, qk_norm):
        names = _tensors_of(original)
        if missing := next((n for n in names if n not in left), None):
            raise ModelError(
                f"`{missing}` is missing from the transformer", hint="download it again"
            )
        value = torch.cat([left.pop(name) for name in names])
        found[prefix + original] = _halves(names[0], value, state)
    if left:
        raise ModelError(f"`{min(left)}` is not a tensor of an SD3 transformer",
                         hint="quantised models cannot be written as one file")  # fmt: skip
    return found


def _tensors_of(original: str) -> tuple[str, ...]:
    if original == module_names.TABLE[0]:
        return (module_names.TABLE[1],)
    module, ending = original.rsplit(".", 1)
    return tuple(f"{name}.{ending}" for name in module_names.diffusers_names(module))


def _halves(name: str, value: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    module = name.rsplit(".", 1)[0]
    weight = state.get(f"{module}.weight")
    if weight is None or weight.ndim != 2 or not module_names.swaps(module, *weight.shape):
        return value
    return torch.cat(value.chunk(2)[::-1])
