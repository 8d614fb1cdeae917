"""Recognises the out-of-memory error of each backend."""

import torch

# The CPU's allocator raises a plain RuntimeError, and so does MPS.
WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the host ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in WORDS)
