"""Where PyTorch's optimizers update all weights with one kernel."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

# Adagrad's kernel exists for CPUs alone (torch 2.13).
FUSED_OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def has_fused_kernel(optimizer: Any, weight: Tensor) -> bool:
    """Whether that class of optimizer has a fused kernel for the weight's device and format.
    PyTorch says so itself, but not before the first step raises an error (torch 2.13)."""
    known = optimizer in FUSED_OPTIMIZERS and torch.is_floating_point(weight)
    return known and weight.device.type in _get_fused_kernels_supported_devices()
