"""Adapters in a transformer that draws: LoRA beside the weights, everything else added to them.

A LoRA stays beside the frozen weights, as in training, so that a picture of `sample` equals the
validation picture of the run, and quantised weights need not be changed. DoRA, LyCORIS and whole
differences are added to the weights, in float32, before these are quantised. An adapter of which
nothing fits is an error, and so is one of which a part does not.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd3tune.drawing.drawing_sources import AdapterSource
from sd3tune.errors import ModelError
from sd3tune.formats import adapter_files
from sd3tune.formats.adapter_hash import file_sha256, weights_sha256
from sd3tune.formats.adapter_weights import LoraWeights, ModuleWeights
from sd3tune.formats.picture_recipe import AdapterUsed
from sd3tune.formats.weight_deltas import delta
from sd3tune.sd3.linears import is_modulating, linears
from sd3tune.sd3.variants import Transformer

LIKELY = {1536: "SD3 or SD3.5 medium", 2432: "SD3.5 large"}  # width -> whose


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read. beside: it stays beside the weights."""

    source: AdapterSource
    modules: dict[str, ModuleWeights]
    used: AdapterUsed

    @property
    def beside(self) -> bool:
        """Plain LoRA only; a bias of lora_B has no place in peft's layer for inference."""
        return all(
            isinstance(m, LoraWeights) and m.magnitude is None and m.bias is None
            for m in self.modules.values()
        )

    @property
    def modulating(self) -> bool:
        """Whether it changes AdaLN layers or the embedder before them."""
        return any(map(is_modulating, self.modules))

    @property
    def values(self) -> int:
        """Numbers that stay beside the weights."""
        if not self.beside:
            return 0
        own = (m for m in self.modules.values() if isinstance(m, LoraWeights))
        return sum(m.down.numel() + m.up.numel() for m in own)


def read_adapters(sources: Sequence[AdapterSource], shape: Transformer) -> list[Adapter]:
    """Reads and checks them against the model's layers. Raises ModelError, which names the first
    tensor that does not fit."""
    return [_read(source, shape) for source in sources]


def _read(source: AdapterSource, shape: Transformer) -> Adapter:
    held = adapter_files.read(source.path)
    refuse_other_layers(source, held.modules, shape)
    used = AdapterUsed(
        name=source.path.stem,
        strength=source.strength,
        weights_sha256=weights_sha256(held.modules),
        sha256=file_sha256(source.path),
    )
    return Adapter(source, dict(held.modules), used)


def refuse_other_layers(
    source: AdapterSource, modules: Mapping[str, ModuleWeights], shape: Transformer
) -> None:
    """Raises ModelError for a LoRA of layers that a transformer of this shape lacks, or has in
    another size."""
    sizes = {layer.name: (layer.inputs, layer.outputs) for layer in linears(shape)}
    for name, module in modules.items():
        if not isinstance(module, LoraWeights):
            continue  # its difference is compared when it is added
        size = int(module.down.shape[1]), int(module.up.shape[0])
        if name not in sizes:
            raise ModelError(
                f"`{source.path}`: this model has no layer `{name}`", hint=_hint(modules, shape)
            )
        if size != sizes[name]:
            here = sizes[name]
            raise ModelError(
                f"`{source.path}`: `{name}` fits a layer of {size[0]} to {size[1]} features, and "
                f"this model's has {here[0]} to {here[1]}",
                hint=_hint(modules, shape),
            )


def _hint(modules: Any, shape: Transformer) -> str:
    """Whose adapter it probably is, from the width of its attention layers."""
    for name, module in modules.items():
        if name.endswith(".to_q") and isinstance(module, LoraWeights):
            width = int(module.down.shape[1])
            if width != shape.hidden:
                whose = LIKELY.get(width, f"a model of width {width}")
                return (
                    f"it is an adapter of {whose}, this model has width {shape.hidden}: give "
                    "the base model it was trained on with --model"
                )
    return "give the base model that it was trained on with --model"


def merge(transformer: Any, adapters: Sequence[Adapter]) -> None:
    """Adds what cannot stay beside the weights to them. Call before quantising. Raises
    ModelError."""
    for adapter in adapters:
        if not adapter.beside:
            for name, module in adapter.modules.items():
                with adapter_files.understood(adapter.source.path, name):
                    _add(transformer, name, module, adapter.source)


def _add(transformer: Any, name: str, module: ModuleWeights, source: AdapterSource) -> None:
    try:
        layer = transformer.get_submodule(name)
        weight: Tensor = layer.weight
    except AttributeError:
        raise ModelError(
            f"`{source.path}`: this model has no layer `{name}`",
            hint="give the base model that it was trained on with --model",
        ) from None
    added, bias = delta(name, module, lambda _: weight.detach())
    if added.ndim and added.shape != weight.shape:
        if added.numel() != weight.numel():
            raise ModelError(
                f"`{source.path}`: `{name}` adds {list(added.shape)} to a weight of "
                f"{list(weight.shape)}",
                hint="give the base model that it was trained on with --model",
            )
        added = added.reshape(weight.shape)
    with torch.no_grad():
        weight.copy_(weight.float() + source.strength * added)
        if bias is not None:
            _add_bias(layer, bias * source.strength, name, source)


def _add_bias(layer: Any, bias: Tensor, name: str, source: AdapterSource) -> None:
    if layer.bias is None:
        raise ModelError(
            f"`{source.path}`: `{name}` changes a bias, which this model's layer does not have",
            hint="give the base model that it was trained on with --model",
        )
    layer.bias.copy_(layer.bias.float() + bias)


def put_beside(transformer: Any, adapters: Sequence[Adapter]) -> int:
    """Attaches each LoRA beside the weights, in float32, at its strength; returns the number of
    layers. Call after quantising and before moving the model to its device."""
    from peft import set_peft_model_state_dict

    names, strengths, layers = [], [], set[str]()
    for number, adapter in enumerate(a for a in adapters if a.beside):
        name = f"adapter_{number}"
        own = dict(_lora(adapter))
        with warnings.catch_warnings():  # peft warns of a second adapter, which is meant
            warnings.simplefilter("ignore", UserWarning)
            transformer.add_adapter(_config(own), adapter_name=name)
        state = {f"{n}.lora_A.weight": m.down.float() for n, m in own.items()}
        state |= {f"{n}.lora_B.weight": m.up.float() for n, m in own.items()}
        _refuse_lost(set_peft_model_state_dict(transformer, state, adapter_name=name), adapter)
        names.append(name)
        strengths.append(adapter.source.strength)
        layers |= own.keys()
    if names:
        transformer.set_adapters(names, strengths)
    return len(layers)


def _lora(adapter: Adapter) -> Iterator[tuple[str, LoraWeights]]:
    for name, module in adapter.modules.items():
        if isinstance(module, LoraWeights):
            yield name, module


def _config(own: Mapping[str, LoraWeights]) -> Any:
    """peft's configuration of these layers: the most frequent rank and alpha, and the others."""
    from peft import LoraConfig

    ranks, alphas = ({n: getattr(m, part) for n, m in own.items()} for part in ("rank", "alpha"))
    rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(own),
        rank_pattern={re.escape(n): r for n, r in ranks.items() if r != rank},
        alpha_pattern={re.escape(n): a for n, a in alphas.items() if a != alpha},
    )


def _refuse_lost(loaded: Any, adapter: Adapter) -> None:
    """peft reports keys that it did not use; that must not pass in silence."""
    if loaded.unexpected_keys:
        raise ModelError(
            f"`{adapter.source.path}`: `{loaded.unexpected_keys[0]}` was not applied",
            hint="this is a bug in sd3tune: please report it with the output of `sd3tune inspect`",
        )
