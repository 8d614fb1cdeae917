"""LoRA through peft: attach, switch off, and write the file other programs load."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained, whole
from sd3tune.errors import ConfigError

FILE = "pytorch_lora_weights.safetensors"
NAME = "default"  # peft's own
SHIFTING = ("pissa", "olora")  # initialisations that move part of the base weights into the adapter

Init = Literal["default", "gaussian", "pissa", "olora"]


@dataclass(frozen=True)
class Shape:
    """The settings of an adapter."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    dora: bool = False  # weight decomposition (arXiv:2402.09353)
    rslora: bool = False  # scaled by alpha / sqrt(rank) (arXiv:2312.03732)
    init: Init = "default"


@dataclass(frozen=True)
class Lora(Trained):
    """peft's adapter inside diffusers' transformer."""

    start: Mapping[str, Tensor] = field(default_factory=dict)  # what SHIFTING took from the base

    @contextmanager
    def off(self) -> Iterator[None]:
        if self.start:  # the base alone lacks what the adapter began with
            with _exchanged(self.model, self.start):
                yield
            return
        self.model.disable_adapters()
        try:
            yield
        finally:
            self.model.enable_adapters()

    def export(self, folder: Path, about: Mapping[str, str]) -> Path:
        """`pytorch_lora_weights.safetensors` as StableDiffusion3Pipeline.load_lora_weights takes
        it, with alpha = rank and the scale folded into B: a loader that ignores the metadata
        (ComfyUI) then applies the same weights."""
        from diffusers import StableDiffusion3Pipeline

        config = self.model.peft_config[NAME]
        scale = scale_of(config)
        state = {n: v * scale if "lora_B" in n else v for n, v in tensors(self.model).items()}
        rank = config.r
        if self.start:
            begun = {n: v * scale if "lora_B" in n else v for n, v in self.start.items()}
            state, rank = _less(state, begun), 2 * rank
        metadata = config.to_dict() | {
            "r": rank,
            "lora_alpha": rank,
            "use_rslora": False,
            "init_lora_weights": True,
            "target_modules": sorted(config.target_modules),
        }
        StableDiffusion3Pipeline.save_lora_weights(
            str(folder), transformer_lora_layers=state, transformer_lora_adapter_metadata=metadata
        )
        return folder / FILE


def attach(transformer: Any, shape: Shape, *, dtype: torch.dtype, seed: int) -> Lora:
    """Adds a trainable adapter on every linear whose name ends in a target.

    The model starts unchanged. Everything else must be frozen before. Raises ConfigError when
    nothing matches.
    """
    from peft import LoraConfig

    torch.manual_seed(seed)  # A is drawn from torch's generator
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=shape.dropout,
        target_modules=list(shape.targets),
        use_dora=shape.dora,
        use_rslora=shape.rslora,
        init_lora_weights=True if shape.init == "default" else shape.init,
    )
    try:
        transformer.add_adapter(config, adapter_name=NAME)
    except ValueError as e:  # peft: "Target modules … not found in the base model"
        raise ConfigError(
            f"`peft_lora_target_modules={','.join(shape.targets)}`: {e}",
            hint="use suffixes of module names, as in to_q, to_k, to_v, to_out.0",
        ) from None
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return Lora(transformer, tensors(transformer) if shape.init in SHIFTING else {})


def scale_of(config: Any) -> float:
    """What B A is multiplied by."""
    root: float = config.r**0.5 if config.use_rslora else config.r
    return float(config.lora_alpha / root)


def tensors(transformer: Any) -> dict[str, Tensor]:
    """The adapter's values on the CPU, under peft's names."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(transformer, adapter_name=NAME)
    return {name: whole(value).cpu().contiguous().clone() for name, value in state.items()}


def _less(now: Mapping[str, Tensor], begun: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B A - B0 A0 as one adapter of twice the rank: the difference from the weights as released."""
    found = {}
    for name, value in now.items():
        if "lora_A" in name:
            found[name] = torch.cat([value, begun[name]])
        elif "lora_B" in name:
            found[name] = torch.cat([value, -begun[name]], dim=1)
        else:
            found[name] = value
    return found


@contextmanager
def _exchanged(transformer: Any, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The adapter with other values for a while."""
    from peft import set_peft_model_state_dict

    present = tensors(transformer)
    set_peft_model_state_dict(transformer, dict(values), adapter_name=NAME)
    try:
        yield
    finally:
        set_peft_model_state_dict(transformer, present, adapter_name=NAME)
