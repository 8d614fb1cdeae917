"""SD3's joint attention, for the cases that diffusers' own processors do not cover:

* Some devices read views wrongly. They get query, key and value in contiguous memory, in training
  and in sampling.
* Where no kernel has a backward pass, attention is computed in slices of the queries, which keeps
  no scores.
* Sampling may use a kernel that training may not. SageAttention has no backward pass and raises no
  error (thu-ml/SageAttention#60): the projections of query, key and value would silently get no
  gradient. It is used only in passes without gradients, and raises if gradients are recorded.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sd3tune.backends.decide.limits import SLICE_VALUES
from sd3tune.backends.kernels import sliced


@contextmanager
def sampling_kernel(transformer: Any, name: str) -> Iterator[None]:
    """Attention for passes without gradients: `as-training` changes nothing."""
    if name != "sageattention":
        yield
        return
    before = transformer.attn_processors
    transformer.set_attn_processor(DispatchedJointAttention("sage"))
    try:
        yield
    finally:
        transformer.set_attn_processor(before)


def use_processors(transformer: Any, inputs: str, mechanism: str) -> None:
    """Replaces diffusers' attention processors where they do not do. inputs: `attention_inputs` of
    the plan, of which `views` leaves them. mechanism: the kernel that trains."""
    if mechanism == "sliced":
        transformer.set_attn_processor(SlicedJointAttention())
    elif inputs == "contiguous":
        transformer.set_attn_processor(ContiguousJointAttention())


class JointAttention(ABC):
    """Everything around the kernel, as diffusers' JointAttnProcessor2_0 does it (0.42)."""

    @abstractmethod
    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, tokens, heads, head_dim) each, and so is the result."""

    def joined(self, image: Tensor, text: Tensor) -> Tensor:
        """Tokens of both, (B, tokens, heads, head_dim)."""
        return torch.cat([image, text], dim=1)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Image tokens (B, N, D) and text tokens (B, T, D) or None."""
        image_tokens = hidden_states.shape[1]
        q, k, v = _project(attn, hidden_states, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if encoder_hidden_states is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            norms = ("norm_added_q", "norm_added_k")
            text = _project(attn, encoder_hidden_states, names, norms)
            q, k, v = (self.joined(*pair) for pair in zip((q, k, v), text, strict=True))
        out = self.kernel(q, k, v).flatten(2, 3).to(q.dtype)
        image: Tensor = attn.to_out[1](attn.to_out[0](out[:, :image_tokens]))
        if encoder_hidden_states is None:
            return image
        words = out[:, image_tokens:]
        return image, words if attn.context_pre_only else attn.to_add_out(words)


class ContiguousJointAttention(JointAttention):
    """PyTorch's attention of copies in one piece."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)


class SlicedJointAttention(JointAttention):
    """Ours, of copies in one piece; without gradients too, so that no product is too large. most:
    scores of a slice."""

    def __init__(self, most: int = SLICE_VALUES) -> None:
        self.most = most

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return sliced.attention(q, k, v, self.most).transpose(1, 2)


class DispatchedJointAttention(JointAttention):
    """Through diffusers' dispatcher, without gradients.

    diffusers 0.42's own processor calls scaled_dot_product_attention directly, so that
    `set_attention_backend` is a silent no-op for SD3. Look again at diffusers 0.43.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        if torch.is_grad_enabled():
            raise RuntimeError(f"{self.backend} attention has no backward: sampling only")
        out: Tensor = dispatch_attention_fn(q, k, v, backend=self.backend)
        return out


def _project(
    attn: Any, x: Tensor, names: tuple[str, str, str], norms: tuple[str, str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value (B, tokens, heads, head_dim), normalised where the model does (SD3.5)."""
    q, k, v = (getattr(attn, name)(x).unflatten(-1, (attn.heads, -1)) for name in names)
    norm_q, norm_k = (getattr(attn, name) for name in norms)
    return norm_q(q) if norm_q else q, norm_k(k) if norm_k else k, v
