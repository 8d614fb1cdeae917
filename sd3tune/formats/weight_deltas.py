"""The difference dW that a module of an adapter adds to a weight, in float32.

Plain LoRA, LoHa and LoKr need nothing else; DoRA, OFT and GLoRA also need the frozen weight.
Formulas: Liu et al. 2024 (DoRA), Yeh et al. 2023 (LyCORIS), Qiu et al. 2023 (OFT); a test compares
each with lycoris-lora and peft.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats import number_types
from sd3tune.formats.adapter_weights import Base, LoraWeights, LycorisWeights, ModuleWeights

NEEDS_BASE = ("oft", "glora")


def needs_base(module: ModuleWeights) -> bool:
    if isinstance(module, LoraWeights):
        return module.magnitude is not None
    return module.dora or module.algorithm in NEEDS_BASE


def check(name: str, module: LycorisWeights) -> None:
    """Checks that the shapes of the tensors fit together, as far as possible without the frozen
    weight. Raises the error of the arithmetic."""
    tucker = any(part.endswith(("_t1", "_t2")) for part in module.tensors)
    if module.algorithm in ("loha", "lokr") and not module.dora and not tucker:
        shapes = {part: t.to("meta") for part, t in module.tensors.items()}
        _lycoris(name, LycorisWeights(module.algorithm, shapes, module.alpha), None)


def delta(name: str, module: ModuleWeights, base: Base | None) -> tuple[Tensor, Tensor | None]:
    """(out, in) to add to the weight, and (out,) to add to the bias or None.

    Raises ModelError when the frozen weight is needed and `base` is None.
    """
    weight = None
    if needs_base(module):
        if base is None:
            raise ModelError(
                f"`{name}` is relative to the base model's weight (DoRA, OFT or GLoRA)",
                hint="give the model it was trained on: --model FOLDER",
            )
        weight = base(name).float()
    if isinstance(module, LoraWeights):
        added = module.scale * (module.up.float() @ module.down.float())
        if module.magnitude is not None and weight is not None:
            added = decomposed(weight, added, module.magnitude.float().unsqueeze(1))
        return added, None if module.bias is None else module.bias.float() * module.scale
    return _lycoris(name, module, weight)


def decomposed(weight: Tensor, added: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA's difference: magnitude (out, 1) by rows, or (1, in) by columns, as LyCORIS also has."""
    whole = weight + added
    lengths: Tensor = whole.norm(dim=1 if magnitude.shape[0] == whole.shape[0] else 0, keepdim=True)
    return magnitude * whole / lengths.clamp(min=torch.finfo(whole.dtype).tiny) - weight


def _lycoris(
    name: str, module: LycorisWeights, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    t = {part: value.float() for part, value in module.tensors.items()}
    match module.algorithm:
        case "full":
            bias = t.get("diff_b")
            return t["diff"] if "diff" in t else torch.zeros(()), bias
        case "loha" if "hada_t1" not in t:
            scale = _scale(module.alpha, t["hada_w1_b"].shape[0])
            added = scale * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
        case "lokr" if "lokr_t2" not in t:
            added = _lokr(t, module.alpha)
        case "glora" if weight is not None and "bm.weight" not in t:
            scale = _scale(module.alpha, t["a2.weight"].shape[0])
            through = weight @ t["a1.weight"] @ t["a2.weight"]
            added = scale * (through + t["b1.weight"] @ t["b2.weight"])
        case "locon":
            scale = _scale(module.alpha, t["lora_down.weight"].shape[0])
            added = scale * (t["lora_up.weight"] @ t["lora_down.weight"])
        case "oft" if weight is not None:
            added = _oft(t, module.alpha or 0.0, weight)
        case _:
            raise ModelError(
                f"`{name}` is {module.algorithm}, which sd3tune does not turn into plain weights",
                hint="--to comfyui keeps LyCORIS tensors as they are",
            )
    if "dora_scale" in t and weight is not None:
        added = decomposed(weight, added, t["dora_scale"])
    return added, None


def _scale(alpha: float | None, rank: int) -> float:
    """lycoris-lora reads alpha 0 as alpha = rank."""
    return (alpha or rank) / rank


def _lokr(t: dict[str, Tensor], alpha: float | None) -> Tensor:
    """Kronecker product of two factors, whole or products themselves; whole ones have no scale."""
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    second = t["lokr_w2"] if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    inner = t.get("lokr_w1_b", t.get("lokr_w2_b"))
    scale = 1.0 if inner is None else _scale(alpha, inner.shape[0])
    return scale * torch.kron(first.contiguous(), second.contiguous())


def _oft(t: dict[str, Tensor], constraint: float, weight: Tensor) -> Tensor:
    """Rows rotated in blocks: R = (I + Q)(I - Q)^-1 with Q skew, its norm bounded when asked. Four
    dimensions are those of BOFT: one rotation after the other, between rows ever further apart."""
    blocks = t["oft_blocks"]
    q = _bounded(blocks - blocks.transpose(-1, -2), blocks, constraint)
    eye = torch.eye(q.shape[-1])
    r = (eye + q) @ (eye - q).inverse()
    if r.ndim == 4:
        rotated = _butterflies(r, weight)
    else:
        rows = weight.view(blocks.shape[0], blocks.shape[1], -1)
        rotated = torch.einsum("knm,kni->kmi", r, rows).reshape(weight.shape)
    return rotated * t.get("rescale", torch.ones(1)) - weight


def _butterflies(r: Tensor, weight: Tensor) -> Tensor:
    """r: (factors, blocks, size, size). Factor i rotates rows that are 2^i size / 2 apart (Liu et
    al. 2023, BOFT)."""
    _, count, size, _ = r.shape
    for i, factor in enumerate(r):
        paired = weight.unflatten(0, (-1, 2, 2**i * size // 2)).transpose(1, 2)
        turned = (factor @ paired.reshape(count, size, -1)).reshape(paired.shape)
        weight = turned.transpose(1, 2).reshape(weight.shape)
    return weight


def _bounded(values: Tensor, blocks: Tensor, constraint: float) -> Tensor:
    """Values that are linear in the blocks, as lycoris-lora bounds a rotation: the norm of Q is at
    most the constraint times the rows of the weight."""
    norm = (blocks - blocks.transpose(-1, -2)).norm() + 1e-8
    bound = constraint * blocks.shape[-3] * blocks.shape[-2]
    return values * bound / norm if 0 < bound < norm else values


def unbounded(module: LycorisWeights) -> LycorisWeights:
    """The same rotation of OFT or BOFT with alpha 0: its constraint is multiplied into the blocks,
    since programs compare the norm of Q with different bounds."""
    blocks = module.tensors["oft_blocks"]
    if module.alpha:
        product = _bounded(blocks.float(), blocks.float(), module.alpha)
        blocks = number_types.stored(product, blocks.dtype)
    return replace(module, tensors={**module.tensors, "oft_blocks": blocks}, alpha=0.0)
