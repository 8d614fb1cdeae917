"""Checks from headers whether a run can begin with earlier weights: a checkpoint that it continues,
or the layers of the adapter that init_lora names. `plan` refuses what training would refuse after
everything was encoded and loaded. Reads no tensor and no torch; whether files have their checksums
is checked when they are loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sd3tune.errors import CheckpointError, ConfigError, ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import key_names, manifest

AS_BEFORE = ("set the model, model_type, lora_type, lora_rank and the targets as they were, or "
             "resume_from_checkpoint=never")  # fmt: skip
LYCORIS = "lycoris_"  # how the names of its tensors begin


@dataclass(frozen=True)
class TrainedLayers:
    """What a run trains."""

    kind: Literal["lora", "lycoris", "full"]
    count: int  # trained values
    layers: Mapping[str, tuple[int, int]]  # of a LoRA: layer -> its inputs and outputs
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of the model, likewise
    rank: int = 0
    dora: bool = False
    average: bool = False  # the run keeps a moving average (use_ema)
    optimizer: str = ""  # library and class, as checkpoints name it: "torch.AdamW"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor -> shape of a LoRA, by the names of checkpoints."""
        found: dict[str, tuple[int, ...]] = {}
        for name, (inputs, outputs) in self.layers.items():
            found[f"{name}.lora_A.default.weight"] = (self.rank, inputs)
            found[f"{name}.lora_B.default.weight"] = (outputs, self.rank)
            if self.dora:
                found[f"{name}.lora_magnitude_vector.default.weight"] = (outputs,)
        return found


def refuse_other_checkpoint(folder: Path, run: TrainedLayers, steps: int) -> None:
    """Refuses a checkpoint of another kind, rank or model, or of a later step than `steps`, where
    the run ends. Raises CheckpointError."""
    try:
        facts = manifest.facts(folder)
        held = safetensors_header.read(folder / manifest.TRAINED).tensors
    except (OSError, ValueError, ModelError) as e:
        raise CheckpointError(
            f"`{folder}` cannot be resumed: {e}",
            hint="resume_from_checkpoint=latest takes the newest whole one, `never` starts afresh",
        ) from None
    if facts.step > steps:
        raise CheckpointError(
            f"`{folder}` is at step {facts.step}, max_train_steps is {steps}",
            hint="raise max_train_steps, or set resume_from_checkpoint",
        )
    if run.optimizer and facts.optimizer_class != run.optimizer:
        raise CheckpointError(
            f"`{folder}` was written by {facts.optimizer_class}, this run uses {run.optimizer}",
            hint="set optimizer as it was, or resume_from_checkpoint=never",
        )
    if run.average and manifest.AVERAGE not in manifest.listing(folder):
        raise CheckpointError(
            f"`{folder}` was written without a moving average, this run has use_ema=true",
            hint="set use_ema=false, or resume_from_checkpoint=never",
        )
    if (kind := _kind(held)) != run.kind:
        words = f"`{folder}` holds a run of the kind {kind}, this run is of the kind {run.kind}"
        raise CheckpointError(words, hint=AS_BEFORE)
    if run.kind == "lora":
        _refuse_other_shapes(folder, {name: e.shape for name, e in held.items()}, run)
    count = sum(entry.elements for entry in held.values())
    if count != run.count:
        words = f"`{folder}` holds {count:,} trained values, this run trains {run.count:,}"
        raise CheckpointError(words, hint=AS_BEFORE)


def _kind(names: Mapping[str, object]) -> str:
    if any(".lora_A." in name for name in names):
        return "lora"
    return "lycoris" if any(LYCORIS in name for name in names) else "full"


def _refuse_other_shapes(
    folder: Path, held: Mapping[str, tuple[int, ...]], run: TrainedLayers
) -> None:
    """The rank first: it is what people change."""
    own = run.shapes
    ranks = {shape[0] for name, shape in held.items() if ".lora_A." in name and shape}
    if len(ranks) == 1 and ranks != {run.rank}:
        words = f"`{folder}` was trained with lora_rank={ranks.pop()}, this run has lora_rank="
        raise CheckpointError(f"{words}{run.rank}", hint=AS_BEFORE)
    if odd := sorted(own.keys() ^ held.keys()):
        more = f" and {len(odd) - 1} more tensors" if len(odd) > 1 else ""
        whose = "this configuration does not train" if odd[0] in held else "it does not hold"
        raise CheckpointError(
            f"`{folder}` differs from what this configuration trains: {whose} `{odd[0]}`{more}",
            hint=AS_BEFORE,
        )
    if other := next((name for name in own if held[name] != own[name]), None):
        raise CheckpointError(
            f"`{folder}`: `{other}` has the shape {list(held[other])}, and this run trains "
            f"{list(own[other])}",
            hint=AS_BEFORE,
        )


def refuse_other_layers(path: Path, run: TrainedLayers) -> None:
    """Refuses an adapter whose layers this run does not have, or has in another size. Layers in
    fused layouts are compared when they are read. Raises ConfigError."""
    held = safetensors_header.read(path).tensors
    if run.kind == "lycoris":
        if strange := next((name for name in held if not name.startswith(LYCORIS)), None):
            raise ConfigError(
                f"`init_lora={path}`: `{strange[:200]}` is not a tensor of a LyCORIS network that "
                "sd3tune wrote",
                hint="set lora_type=standard for a LoRA, or leave init_lora out",
            )
        return
    modules = [
        module
        for module in key_names.group(held).modules.values()
        if module.layout == "diffusers" and {"down", "up"} <= module.parts.keys()
    ]
    _refuse_untrained(path, [module.module for module in modules], run)
    for module in modules:
        name = module.module
        shape = held[module.parts["down"]].shape, held[module.parts["up"]].shape
        if any(len(size) != 2 for size in shape):
            continue  # refused by the reader
        size, wanted = (shape[0][1], shape[1][0]), run.layers[name]
        if size != wanted:
            raise ConfigError(
                f"`init_lora={path}`: `{name}` fits a layer of {size[0]} to {size[1]} features, "
                f"and this model's has {wanted[0]} to {wanted[1]}",
                hint="use an adapter of this model",
            )
        if module.dora != run.dora:
            raise ConfigError(f"`init_lora={path}`: `{name}` differs in use_dora",
                              hint="set use_dora as the file has it")  # fmt: skip


def _refuse_untrained(path: Path, names: Sequence[str], run: TrainedLayers) -> None:
    """Layers that the model lacks are another cause than those that the run does not train."""
    untrained = [name for name in names if name not in run.layers]
    if strange := next((name for name in untrained if name not in run.linears), None):
        raise ConfigError(
            f"`init_lora={path}`: this model has no layer `{strange}`",
            hint="use an adapter of this model, or the model that the adapter was trained on",
        )
    if untrained:
        targets = sorted({name.split(".", 2)[-1] for name in untrained})
        raise ConfigError(
            f"`init_lora={path}`: `{untrained[0]}` is not among peft_lora_target_modules",
            hint=f"add {', '.join(targets)} to them",
        )
