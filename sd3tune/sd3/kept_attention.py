"""Outputs of attention that a recomputed block does not compute again.

A checkpointed block runs twice: in the forward pass without keeping anything, and again in the
backward pass. Attention is its slowest part and its output a small one. Here the first pass leaves
the outputs of the attention kernels, and the second takes them; everything else is computed again,
so that the gradients are the same bits.

torch's own selective checkpointing watches every operator of a block from Python, twice: on a small
model it takes back more time than attention costs. This watches the call of attention alone. In a
compiled block nothing is watched when it runs: there torch's own tells the compiler once which
outputs to keep. A kernel that consists of several operators (the definition) is not kept.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from sd3tune.backends.kernels.sliced import SLICED_OPERATOR
from sd3tune.sd3.attention import JointAttention

NAMES = (  # operators of PyTorch's attention kernels
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
KEPT = {getattr(torch.ops.aten, n).default for n in NAMES} | {SLICED_OPERATOR}


def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """What the compiler does with the output of an operator in a checkpointed block."""
    kept = operator in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def keeping_outputs() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """`context_fn` of torch's checkpoint inside a compiled block."""
    first, again = create_selective_checkpoint_contexts(policy)
    return first, again


# PyTorch keeps the compiled code of such blocks under this name: to be changed with `policy`.
keeping_outputs.cache_hash = f"outputs kept: {sorted(map(str, KEPT))}"  # type: ignore[attr-defined]


class _Outputs(TorchDispatchMode):
    """Watches one call of attention. outputs: of the kernels of one block, in their order."""

    def __init__(self, outputs: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outputs = outputs


class _Leaving(_Outputs):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in KEPT:
            self.outputs.append(tree_map_only(Tensor, Tensor.detach, made))
        return made


class _Taking(_Outputs):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in KEPT and self.outputs:
            return self.outputs.pop(0)
        return func(*args, **(kwargs or {}))


class KeptAttention:
    """Shared by the processors of a model and by what checkpoints its blocks."""

    def __init__(self) -> None:
        self._running = threading.local()  # a card's backward pass has a thread of its own

    def passes(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first and the second pass of one block, as `context_fn` of torch's checkpoint
        takes it."""
        outputs: list[Any] = []
        return self._watched_by(_Leaving(outputs)), self._watched_by(_Taking(outputs))

    @contextmanager
    def _watched_by(self, mode: _Outputs) -> Iterator[None]:
        before = getattr(self._running, "mode", None)
        self._running.mode = mode
        try:
            yield
        finally:
            self._running.mode = before

    def attend(self, processor: JointAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, tokens, heads, head_dim) each; outside a block that keeps them, the kernel alone."""
        mode = getattr(self._running, "mode", None)
        if mode is None:
            return processor.kernel(q, k, v)
        with mode:
            return processor.kernel(q, k, v)


class ViewedJointAttention(JointAttention):
    """PyTorch's attention, with query, key and value in memory as diffusers' own processor has
    them: joined ones in one piece, head by head; the others as views."""

    def joined(self, image: Tensor, text: Tensor) -> Tensor:
        return torch.cat([image.transpose(1, 2), text.transpose(1, 2)], dim=2).transpose(1, 2)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)


class KeptJointAttention(JointAttention):
    """Another processor, whose outputs are kept where a block says so."""

    def __init__(self, inner: JointAttention, kept: KeptAttention) -> None:
        self.inner, self.kept = inner, kept

    def joined(self, image: Tensor, text: Tensor) -> Tensor:
        return self.inner.joined(image, text)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kept.attend(self.inner, q, k, v)


def keep_attention(transformer: Any) -> KeptAttention:
    """Puts processors into the transformer that can keep their outputs."""
    kept = KeptAttention()
    before = next(iter(transformer.attn_processors.values()))
    inner = before if isinstance(before, JointAttention) else ViewedJointAttention()
    transformer.set_attn_processor(KeptJointAttention(inner, kept))
    return kept
