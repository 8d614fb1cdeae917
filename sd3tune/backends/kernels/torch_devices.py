"""Questions about a torch device whose answer depends on its vendor."""

import torch


def dtype_of_sums(device: torch.device) -> torch.dtype:
    """For sums over processes: float64 on the CPU; float32 elsewhere, since MPS has no float64."""
    return torch.float64 if device.type == "cpu" else torch.float32


def device_ids(device: torch.device) -> list[torch.device] | None:
    """As DistributedDataParallel wants them: None for a model on the CPU."""
    return None if device.type == "cpu" else [device]
