"""LoRA through peft: attach, take out, put back, and write the file other programs load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd3tune.errors import CheckpointError, ConfigError

FILE = "pytorch_lora_weights.safetensors"


def attach(
    transformer: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: tuple[str, ...],
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Adds a trainable adapter named "default" on every linear whose name ends in a target.

    Its first output is zero (B = 0), so the model starts unchanged. Everything else must be frozen
    before. Raises ConfigError when nothing matches.
    """
    from peft import LoraConfig

    torch.manual_seed(seed)  # A is drawn from torch's generator
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets)
    )
    try:
        transformer.add_adapter(config)
    except ValueError as e:  # peft: "Target modules … not found in the base model"
        raise ConfigError(
            f"`peft_lora_target_modules={','.join(targets)}`: {e}",
            hint="use suffixes of module names, as in to_q, to_k, to_v, to_out.0",
        ) from None
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def take(transformer: Any) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU, under peft's names."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(transformer)
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def put(transformer: Any, state: Mapping[str, Tensor]) -> None:
    """The inverse of `take`, bit for bit. Raises CheckpointError when names do not fit."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    expected = set(get_peft_model_state_dict(transformer))
    if expected != set(state):
        odd = sorted(expected ^ set(state))
        raise CheckpointError(
            f"the adapter in the checkpoint differs from this configuration's, at `{odd[0]}` "
            f"and {len(odd) - 1} more tensors",
            hint="set lora_rank and peft_lora_target_modules as they were, or "
            "resume_from_checkpoint=never",
        )
    try:
        set_peft_model_state_dict(transformer, dict(state))
    except RuntimeError as e:
        raise CheckpointError(
            f"the adapter in the checkpoint has other shapes: {str(e).splitlines()[-1].strip()}",
            hint="set lora_rank as it was, or resume_from_checkpoint=never",
        ) from None


def export(transformer: Any, folder: Path) -> Path:
    """Writes `pytorch_lora_weights.safetensors` as StableDiffusion3Pipeline.load_lora_weights takes
    it, with alpha = rank and the scale folded into B: a loader that ignores the metadata (ComfyUI)
    then applies the same weights.
    """
    from diffusers import StableDiffusion3Pipeline

    config = transformer.peft_config["default"]
    scale = config.lora_alpha / config.r
    state = take(transformer)
    folded = {k: v * scale if "lora_B" in k else v for k, v in state.items()}
    metadata = config.to_dict() | {"lora_alpha": config.r}
    metadata["target_modules"] = sorted(config.target_modules)
    StableDiffusion3Pipeline.save_lora_weights(
        str(folder), transformer_lora_layers=folded, transformer_lora_adapter_metadata=metadata
    )
    return folder / FILE
