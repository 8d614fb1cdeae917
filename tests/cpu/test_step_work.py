"""The counted work of a step against torch's own counter, and bytes and kernels of a block against
a dispatch mode that sees every operator. Fake tensors: nothing is computed."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sd3tune.plan.memory import Load
from sd3tune.plan.step_work import forward, step_work
from sd3tune.sd3.variants import Transformer

SIDE, TEXT = 16, 10  # latent pixels / 2, and T5's tokens
SHAPE = {"heads": 3, "head_dim": 64, "joint_dim": 96, "pooled_dim": 64, "positions": 32}
# Operators that move nothing, and those whose bytes belong to products and attention.
FREE = set(
    "view _unsafe_view t transpose permute reshape expand unsqueeze squeeze slice select split "
    "chunk detach alias unbind empty_like empty new_empty device size stride sym_size".split()
)
PRODUCTS = {"mm", "addmm", "bmm"}


class Moved(TorchDispatchMode):
    """Bytes that operators read and write, and their number."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.kernels = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name not in FREE | PRODUCTS and not name.startswith("_scaled_dot_product"):
            seen = {id(t.untyped_storage()): t for t in tree_leaves((args, kwargs)) if _is(t)}
            moved = [*seen.values(), *filter(_is, tree_leaves(out))]
            self.bytes += sum(t.numel() * t.element_size() for t in moved)
        self.kernels += name not in FREE
        return out


def _is(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def network(shape: Transformer) -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=SIDE * 2,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=shape.layers,
        attention_head_dim=64,
        num_attention_heads=shape.heads,
        caption_projection_dim=shape.hidden,
        joint_attention_dim=shape.joint_dim,
        pooled_projection_dim=shape.pooled_dim,
        pos_embed_max_size=shape.positions,
        qk_norm="rms_norm" if shape.qk_norm else None,
        dual_attention_layers=tuple(range(shape.dual_layers)),
    ).requires_grad_(False)


def batch(shape: Transformer) -> dict[str, torch.Tensor]:
    latents = torch.empty(1, 16, SIDE * 2, SIDE * 2).requires_grad_()
    text = torch.empty(1, TEXT + 77, shape.joint_dim)
    return {
        "hidden_states": latents,
        "encoder_hidden_states": text,
        "pooled_projections": torch.empty(1, shape.pooled_dim),
        "timestep": torch.empty(1),
    }


@pytest.mark.parametrize("dual", [0, 2])
def test_operations_are_those_that_torch_counts(dual: int) -> None:
    """The last block's text, the embedders' vectors and the projection out are what may differ."""
    shape = Transformer(layers=3, dual_layers=dual, qk_norm=True, **SHAPE)
    with torch.device("meta"):
        model = network(shape)
        with FlopCounterMode(display=False) as counter:
            out = model(**batch(shape))[0]
        one = forward(shape, SIDE**2, TEXT)
        assert counter.get_total_flops() == pytest.approx(one.linear + one.attention, rel=0.01)
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == pytest.approx(one.linear + 2 * one.attention, rel=0.03)


def counted(layers: int, dual: int, *, qk_norm: bool) -> Moved:
    """A forward and backward pass without autocast in float32, gradients of the inputs only."""
    shape = Transformer(layers=layers, dual_layers=dual, qk_norm=qk_norm, **SHAPE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, inputs, counting = network(shape), batch(shape), Moved()
        with counting:
            model(**inputs)[0].sum().backward()
    return counting


def reckoned(layers: int, dual: int, *, qk_norm: bool) -> tuple[float, float]:
    shape = Transformer(layers=layers, dual_layers=dual, qk_norm=qk_norm, **SHAPE)
    load = Load(
        vendor="cpu", base_dtype="fp32", precision="no_change", trainable_dtype="fp32",
        optimizer="adamw", trained=0, batch=1, tokens=SIDE**2, text_tokens=TEXT, interval=0,
        swapped=0, inputs_on_host=False, text_dtype="fp32", text_precisions=("no_change",) * 3,
    )  # fmt: skip
    work = step_work(shape, load)
    return work.moved, work.kernels


@pytest.mark.parametrize(
    "fewer, more, qk_norm",
    [((2, 0), (4, 0), False), ((2, 0), (4, 0), True), ((3, 0), (3, 2), True)],
    ids=["joint", "qk-norm", "dual"],
)
def test_bytes_and_kernels_of_a_block_are_those_that_torch_dispatches(
    fewer: tuple[int, int], more: tuple[int, int], qk_norm: bool
) -> None:
    """In float32 without autocast: fewer conversions of wider values, about as many bytes as the
    mixed formats that were counted."""
    first, second = (counted(*size, qk_norm=qk_norm) for size in (fewer, more))
    little, much = (reckoned(*size, qk_norm=qk_norm) for size in (fewer, more))
    assert second.bytes - first.bytes == pytest.approx(much[0] - little[0], rel=0.15)
    assert second.kernels - first.kernels == pytest.approx(much[1] - little[1], rel=0.3)
