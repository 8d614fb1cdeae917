"""The attention kernels PyTorch may choose from, by the names of `attention_mechanism`."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "diffusers": None,  # PyTorch's own choice, untouched
    "native-flash": SDPBackend.FLASH_ATTENTION,
    "native-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "native-math": SDPBackend.MATH,
    "sliced": None,  # ours (sliced.py)
}


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Restricts scaled_dot_product_attention to the kernels of `name`. Must also cover the backward
    pass: checkpointed blocks run their forward again there."""
    chosen = KERNELS[name]
    if chosen is None:
        yield
        return
    with sdpa_kernel([chosen]):
        yield
