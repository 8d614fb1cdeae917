"""LyCORIS through lycoris-lora: LoHa, LoKr, rotations and others beside frozen weights.

The library keeps what it adapts in class attributes, which would leak from one network to the
next, and takes presets by name only; both are set right around the one call that reads them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune.adapters.trained import Trained, copies
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.errors import ConfigError
from sd3tune.filesystem import drafts
from sd3tune.formats import adapter_files, file_metadata
from sd3tune.report.quiet import quiet_logger
from sd3tune.sd3 import finite

CONFIG = "lycoris_config.json"
PART = "lycoris"  # the network's name inside the transformer, and the prefix of its keys
# A tensor of each module that the update is linear in: the multiplier goes there.
LINEAR_IN = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a")


@dataclass(frozen=True)
class LycorisAdapter(Trained):
    """lycoris-lora's network, registered inside the transformer it adapts."""

    config: Lycoris
    file: str = file_metadata.FILE  # the name of what it writes

    @property
    def network(self) -> Any:
        return getattr(self.model, PART)

    @contextmanager
    def off(self) -> Iterator[None]:
        # A multiplier of 0 would not do: DoRA's magnitudes would stay.
        for module in reversed(self.network.loras):
            module.restore()
        try:
            yield
        finally:
            for module in self.network.loras:
                module.apply_to()

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        before = [module.multiplier for module in self.network.loras]
        for module, multiplier in zip(self.network.loras, before, strict=True):
            module.multiplier = multiplier * strength
        try:
            yield
        finally:
            for module, multiplier in zip(self.network.loras, before, strict=True):
                module.multiplier = multiplier

    def values(self, *, keep: bool = True) -> dict[str, Tensor]:
        return copies(tensors(self.network), keep=keep)

    def write(self, folder: Path, values: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
        """The library's own keys, which ComfyUI reads, with the multiplier folded in; and the
        configuration beside it."""
        state = dict(values)
        if self.config.multiplier != 1:
            for name in state:
                if name.partition(".")[2] in LINEAR_IN:
                    state[name] = state[name] * self.config.multiplier
        written = self.config.model_copy(update={"multiplier": 1.0})
        text = written.model_dump_json(indent=2, exclude_none=True) + "\n"
        drafts.write(folder / CONFIG, text.encode(), synced=False)
        about = {**about, "lycoris_config": written.model_dump_json(exclude_none=True)}
        adapter_files.save(folder / self.file, state, about, synced=False)
        return folder / self.file

    def begin_with(self, path: Path) -> int:
        """Begins with a file of the same configuration; returns the number of its layers. Raises
        ConfigError where the configurations differ."""
        from safetensors.torch import load_file

        finite.check(path)
        own, state = tensors(self.network), load_file(path)
        odd = sorted(own.keys() ^ state.keys())
        odd += [n for n in own if n in state and own[n].shape != state[n].shape]
        if odd:
            raise ConfigError(
                f"`init_lora={path}` differs from what lycoris_config makes, at `{odd[0]}` and "
                f"{len(odd) - 1} more tensors",
                hint=f"use the {CONFIG} that the file was trained with",
            )
        self.network.load_state_dict({n: v.to(own[n]) for n, v in state.items()})
        return len(self.network.loras)


def attach(transformer: Any, config: Lycoris, *, dtype: torch.dtype, seed: int) -> LycorisAdapter:
    """Adds a trainable network; the model starts unchanged. Everything else must be frozen before.
    Raises ConfigError when nothing matches, or the library is missing."""
    try:
        import lycoris
    except ImportError:
        raise ConfigError(
            "lora_type=lycoris needs lycoris-lora, which is not installed",
            hint="pip install lycoris-lora",
        ) from None
    quiet_logger("LyCORIS")
    torch.manual_seed(seed)
    options = config.model_dump(exclude={"multiplier", "apply_preset"})
    if config.bypass_mode is None:  # the library knows quanto's layers, and not bitsandbytes' own
        plain = all(type(m) is nn.Linear for m in transformer.modules() if isinstance(m, nn.Linear))
        options["bypass_mode"] = not plain
    with _targets(lycoris, config) as preset:
        network = lycoris.create_lycoris(
            transformer,
            multiplier=config.multiplier,
            warn_on_unmatched=False,
            preset=preset,
            **options,
        )
    if not network.loras:
        raise ConfigError(
            "`lycoris_config`: apply_preset matches no module of the transformer",
            hint="target_module takes class names: Attention, FeedForward, JointTransformerBlock",
        )
    network.apply_to()
    network.to(dtype).requires_grad_(True)
    transformer.add_module(PART, network)  # moves, trains and is counted with it
    return LycorisAdapter(transformer, config)


def tensors(network: Any) -> dict[str, Tensor]:
    """Parameters and alphas by the library's own names."""
    found: dict[str, Tensor] = network.state_dict()
    return found


@contextmanager
def _targets(lycoris: Any, config: Lycoris) -> Iterator[str]:
    """The preset under a name, for as long as the network is made."""
    targets = config.apply_preset
    parts = {
        name: {
            key: part.model_dump(exclude_none=True) for key, part in getattr(targets, name).items()
        }
        for name in ("module_algo_map", "name_algo_map")
    }
    preset = parts | {
        "enable_conv": False,
        "target_module": list(targets.target_module),
        "target_name": list(targets.target_name),
        "exclude_name": list(targets.exclude_name),
        "use_fnmatch": targets.use_fnmatch,
        "lora_prefix": PART,
    }
    kind, table = lycoris.LycorisNetwork, lycoris.config.PRESET
    before = {name: value for name, value in vars(kind).items() if name.isupper()}
    table[PART] = preset
    try:
        yield PART
    finally:
        del table[PART]
        for name, value in before.items():
            setattr(kind, name, value)
