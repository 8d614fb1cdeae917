"""LoRA through peft: attach, switch off, and write the file other programs load."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sd3tune.adapters.shared_casts import SharedCast, cast_once, sharing
from sd3tune.adapters.trained import Trained, copies, put, take
from sd3tune.errors import ConfigError, PlanError
from sd3tune.formats import adapter_files, adapter_hash, file_metadata
from sd3tune.formats.adapter_weights import AdapterFile, LoraWeights
from sd3tune.formats.writers import size_bytes
from sd3tune.quant import dequantised

NAME = "default"  # peft's own
MAGNITUDE = "lora_magnitude_vector"
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
class LoraAdapter(Trained):
    """peft's adapter inside diffusers' transformer."""

    dialect: str = "diffusers"  # of the files it writes, a name of tables/dialects.py
    file: str = file_metadata.FILE  # their name
    start: Mapping[str, Tensor] = field(default_factory=dict)  # what SHIFTING took
    sharing: tuple[SharedCast, ...] = ()  # products that share the casts of their weights

    def cast_once(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        return cast_once(self.sharing, dtype)

    @contextmanager
    def off(self) -> Iterator[None]:
        if self.start:  # the base alone lacks what the adapter began with
            present = take(self)
            put(self, self.start)
            try:
                yield
            finally:
                put(self, present)
            return
        self.model.disable_adapters()
        try:
            yield
        finally:
            self.model.enable_adapters()

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        if self.start and strength != 1:
            raise PlanError(
                f"an adapter strength of {strength:g} is not possible while pissa or olora trains: "
                "the adapter holds a part of the base model",
                hint="draw the result with `sd3tune sample`",
            )
        layers = [m for m in self.model.modules() if NAME in getattr(m, "scaling", {})]
        before = [layer.scaling[NAME] for layer in layers]
        for layer, scale in zip(layers, before, strict=True):
            layer.scaling[NAME] = scale * strength
        try:
            yield
        finally:
            for layer, scale in zip(layers, before, strict=True):
                layer.scaling[NAME] = scale

    def values(self, *, keep: bool = True) -> dict[str, Tensor]:
        return tensors(self.model, keep=keep)

    def weights_sha256(self) -> str | None:
        if self.start:  # its file holds the difference from the weights as released
            return None
        return adapter_hash.weights_sha256(parts(tensors(self.model), self.model.peft_config[NAME]))

    def file_bytes(self, values: Mapping[str, Tensor]) -> int:
        """Dialects fuse, and write DoRA as whole differences."""
        size = size_bytes(parts(values, self.model.peft_config[NAME]), self.dialect)
        return 2 * size if self.start else size

    def write(self, folder: Path, values: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
        """Writes the file in the dialect that lora_format names."""
        held = parts(values, self.model.peft_config[NAME])
        if self.start:
            begun = {name.replace(f".{NAME}.", "."): t for name, t in self.start.items()}
            held = less(held, parts(begun, self.model.peft_config[NAME]))
        adapter_files.write(
            folder / self.file,
            AdapterFile(held, about),
            self.dialect,
            base=self._weight,
            synced=False,
        )
        return folder / self.file

    def begin_with(self, adapter: AdapterFile, where: str) -> int:
        """Begins with the values of another adapter; returns the number of its layers. Raises
        ConfigError for an adapter that this one cannot hold."""
        from peft import set_peft_model_state_dict

        config = self.model.peft_config[NAME]
        own, scale = parts(tensors(self.model), config), scale_of(config)
        state = tensors(self.model)
        for name, module in adapter.modules.items():
            _fits(name, module, own, where)
            assert isinstance(module, LoraWeights)
            down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            rank = module.rank  # rows beyond it keep their random values, times zero
            state[down][:rank] = module.down.to(state[down])
            state[up].zero_()
            state[up][:, :rank] = (module.up.float() * module.scale / scale).to(state[up])
            if module.magnitude is not None:
                state[f"{name}.{MAGNITUDE}"] = module.magnitude.to(state[f"{name}.{MAGNITUDE}"])
        set_peft_model_state_dict(self.model, state, adapter_name=NAME)
        return len(adapter.modules)

    def _weight(self, name: str) -> Tensor:
        return dequantised(self.model.get_submodule(name).base_layer)


def attach(
    transformer: Any,
    shape: Shape,
    *,
    dtype: torch.dtype,
    seed: int,
    dialect: str = "diffusers",
) -> LoraAdapter:
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
    made = LoraAdapter(transformer, dialect)
    return replace(made, start=take(made)) if shape.init in SHIFTING else made


def keep_input_dtype(transformer: Any) -> None:
    """Leaves inputs in the format of autocast: peft casts them to the format of the adapter's
    weights, and autocast back, in every layer and pass. The same bits where nothing lies between
    the casts: no dropout (which some devices compute in the format of its input) and no DoRA."""
    for layer in transformer.modules():
        if NAME in getattr(layer, "lora_A", {}):
            layer.cast_input_dtype_enabled = False


def share_casts(adapter: LoraAdapter) -> LoraAdapter:
    """The adapter, whose weights in the format of autocast are cast once a step."""
    return replace(adapter, sharing=sharing(adapter.model, NAME))


def scale_of(config: Any) -> float:
    """The scale of B A: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    root: float = config.r**0.5 if config.use_rslora else config.r
    return float(config.lora_alpha / root)


def tensors(transformer: Any, *, keep: bool = True) -> dict[str, Tensor]:
    """The adapter's values on the CPU, under peft's names."""
    named = transformer.named_parameters(remove_duplicate=False)  # no layer is there twice
    return copies({_stored(n): p.detach() for n, p in named if _is_adapter(n)}, keep=keep)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name and f".{NAME}" in name


def _stored(name: str) -> str:
    """The name of an adapter's parameter in the file: as peft's get_peft_model_state_dict has it,
    which walks through the whole model several times."""
    return name.replace(f".{NAME}", "").replace(f".{MAGNITUDE}.weight", f".{MAGNITUDE}")


def parts(state: Mapping[str, Tensor], config: Any) -> dict[str, LoraWeights]:
    """LoRA modules by name, from peft's state. The scale of rsLoRA is expressed as an alpha."""
    alpha = scale_of(config) * config.r
    found = {}
    for key in state:
        name, _, kind = key.partition(".lora_A.")
        if kind:
            magnitude = state.get(f"{name}.{MAGNITUDE}")
            found[name] = LoraWeights(state[key], state[f"{name}.lora_B.weight"], alpha, magnitude)
    return found


def less(
    now: Mapping[str, LoraWeights], begun: Mapping[str, LoraWeights]
) -> dict[str, LoraWeights]:
    """B A - B0 A0 as one adapter of twice the rank: the difference from the weights as released,
    of which SHIFTING had taken B0 A0 away."""
    return {
        name: LoraWeights(
            torch.cat([one.down, begun[name].down]),
            torch.cat([one.up, -begun[name].up], dim=1),
            2 * one.alpha,
        )
        for name, one in now.items()
    }


def shapes(module: LoraWeights) -> tuple[int, int]:
    """(in, out) of the layer that the module adapts."""
    return int(module.down.shape[1]), int(module.up.shape[0])


def _fits(name: str, module: object, own: Mapping[str, LoraWeights], where: str) -> None:
    """Raises ConfigError for a layer of another adapter that this one cannot take over."""
    if not isinstance(module, LoraWeights):
        words, hint = f"`{name}` is not a LoRA", "set lora_type=lycoris"
    elif name not in own:
        words = f"`{name}` is not among peft_lora_target_modules"
        hint = f"add `{name.split('.', 2)[-1]}` to them"
    elif module.rank > own[name].rank:
        words = f"`{name}` has rank {module.rank}, this run lora_rank={own[name].rank}"
        hint = f"set lora_rank={module.rank} or more"
    elif (module.magnitude is None) != (own[name].magnitude is None):
        words, hint = f"`{name}` differs in use_dora", "set use_dora as the file has it"
    elif (got := shapes(module)) != (wanted := shapes(own[name])):
        words = f"`{name}` fits a layer of {got[0]} to {got[1]} features, and this model's has "
        words, hint = f"{words}{wanted[0]} to {wanted[1]}", "use an adapter of this model"
    else:
        return
    raise ConfigError(f"`init_lora={where}`: {words}", hint=hint)
