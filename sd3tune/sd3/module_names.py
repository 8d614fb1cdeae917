"""The two names of every module of an SD3 transformer: diffusers' name and Stability's original.

ComfyUI, kohya's scripts and single-file models use the original names. There, query, key and value
are one fused matrix with rows in this order, and two AdaLN projections give shift before scale,
where diffusers' layer gives scale before shift. This module handles names only, no tensors. Tests
compare it row by row with diffusers' own convert_sd3_transformer_checkpoint_to_diffusers.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

QKV = 3
# Within a block: original name -> diffusers' three names, the thirds of the original's rows.
FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
SINGLE = {
    "x_block.attn.proj": "attn.to_out.0",
    "context_block.attn.proj": "attn.to_add_out",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
NORMS = {  # these have a weight and no bias
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
}
OUTSIDE = {  # modules outside the blocks
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
TABLE = ("pos_embed", "pos_embed.pos_embed")  # a tensor without a module: original, diffusers
# The last block drops its text branch after attention.
NOT_IN_THE_LAST = ("context_block.attn.proj", "context_block.mlp.fc1", "context_block.mlp.fc2")

_WITHIN = {
    **{name: (original, part) for original, names in FUSED.items()
       for part, name in enumerate(names)},
    **{name: (original, None) for original, name in (SINGLE | NORMS).items()},
}  # fmt: skip
_WITHOUT = {name: original for original, name in OUTSIDE.items()}
_BLOCK = re.compile(r"(transformer_blocks|joint_blocks)([._])(\d+)\2(.+)")


@dataclass(frozen=True)
class OriginalName:
    """The module of the original layout that contains a module of diffusers."""

    original: str
    part: int | None = None  # 0, 1, 2: which third of a fused matrix; None: the complete matrix


def original_of(module: str) -> OriginalName | None:
    """The original of a module with diffusers' name; None if SD3 has no such module."""
    if module in _WITHOUT:
        return OriginalName(_WITHOUT[module])
    found = _BLOCK.fullmatch(module)
    if found is None or found[1] != "transformer_blocks" or found[4] not in _WITHIN:
        return None
    original, part = _WITHIN[found[4]]
    return OriginalName(f"joint_blocks.{found[3]}.{original}", part)


def diffusers_names(original: str) -> tuple[str, ...]:
    """diffusers' names of an original module: three for a fused one, none for an unknown one."""
    if original in OUTSIDE:
        return (OUTSIDE[original],)
    found = _BLOCK.fullmatch(original)
    if found is None or found[1] != "joint_blocks":
        return ()
    single = (SINGLE | NORMS).get(found[4])
    names = FUSED.get(found[4], () if single is None else (single,))
    return tuple(f"transformer_blocks.{found[3]}.{name}" for name in names)


def swaps(module: str, outputs: int, inputs: int) -> bool:
    """Whether the original has the two halves of the rows in the other order. True for
    `norm_out.linear` and for the last block's `norm1_context.linear`, which has two chunks where
    the other blocks have six. outputs, inputs: the shape of the weight."""
    if module == "norm_out.linear":
        return True
    return module.endswith(".norm1_context.linear") and outputs == 2 * inputs


def unflattened(flat: str) -> str | None:
    """The module, in either naming, whose dots were written as underscores; None if unknown."""
    if flat in _FLAT:
        return _FLAT[flat]
    found = _BLOCK.fullmatch(flat)
    inside = None if found is None else _FLAT_WITHIN.get((found[1], found[4]))
    return None if found is None or inside is None else f"{found[1]}.{found[3]}.{inside}"


def flattened(module: str) -> str:
    """The name of a module with underscores for its dots, as kohya's files have it."""
    return module.replace(".", "_")


_FLAT = {flattened(name): name for pair in OUTSIDE.items() for name in pair}
_FLAT_WITHIN = {("transformer_blocks", flattened(name)): name for name in _WITHIN} | {
    ("joint_blocks", flattened(name)): name for name in (*FUSED, *SINGLE, *NORMS)
}


def originals(layers: int, dual: Sequence[int], qk_norm: bool) -> Iterator[str]:
    """Names of all tensors of a transformer in the original layout. dual: the numbers of the blocks
    with a second attention (attn2)."""
    yield TABLE[0]
    for name in OUTSIDE:
        yield from (f"{name}.weight", f"{name}.bias")
    for block in range(layers):
        for name in (*FUSED, *SINGLE, *(NORMS if qk_norm else ())):
            if ".attn2." in name and block not in dual:
                continue
            if block == layers - 1 and name in NOT_IN_THE_LAST:
                continue
            yield f"joint_blocks.{block}.{name}.weight"
            if name not in NORMS:
                yield f"joint_blocks.{block}.{name}.bias"
