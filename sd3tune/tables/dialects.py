"""The dialects of adapter files: one row each, with how its keys are named, how it says alpha, who
reads it, what it cannot hold, and the function that makes its tensors.

A key is prefix + module + part: `transformer.` `transformer_blocks.0.attn.to_q` `.lora_A.weight`.
Which program reads which prefix was seen by running the programs (ADR 8).
"""

from dataclasses import dataclass
from typing import Literal

from sd3tune.tables.table import Table

Layout = Literal["diffusers", "original"]
Part = Literal["down", "up", "mid", "up_bias", "magnitude", "alpha"]


@dataclass(frozen=True)
class Keys:
    """How the keys of some modules begin, and whose names the modules have: diffusers', or the
    original ones, in which query, key and value are one matrix. flat: module names have underscores
    instead of dots. read_by: the programs that load such a key; the others load nothing of it,
    without an error."""

    prefix: str
    layout: Layout
    flat: bool = False
    read_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dialect:
    """One dialect.

    keys: those of its LoRA modules. lycoris, difference: keys of LyCORIS tensors and of full
    differences of weights, where it has them. parts: endings of LoRA keys and the part that each
    holds; the first ending of a part is the one that is written. alpha: in a tensor; or folded into
    `up`, so that alpha = rank. dora: as a magnitude, or as the full difference. fused: query, key
    and value in one module. writer: "module:function" that makes the tensors; "" for a dialect that
    is only read. implementation: the value of modelspec.implementation, the program whose names
    these are. programs, remarks, cannot_hold: for the docs.
    """

    name: str
    about: str
    keys: Keys
    parts: tuple[tuple[str, Part], ...]
    lycoris: Keys | None = None
    difference: Keys | None = None
    alpha: Literal["folded", "tensor"] = "tensor"
    dora: Literal["magnitude", "difference"] = "difference"
    fused: bool = False
    writer: str = ""
    implementation: str = "diffusers"
    programs: str = ""
    remarks: str = ""
    cannot_hold: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def every_keys(self) -> tuple[Keys, ...]:
        """The keys of all its kinds of modules."""
        return tuple(k for k in (self.keys, self.lycoris, self.difference) if k is not None)

    def ending(self, part: Part) -> str:
        """The ending of a written key for a part, with its dot. Raises StopIteration for a part it
        lacks."""
        return next(ending for ending, held in self.parts if held == part)


PEFT_PARTS: tuple[tuple[str, Part], ...] = (
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_A.default.weight", "down"),  # when the adapter's name is still in the key
    (".lora_B.default.weight", "up"),
    (".lora_B.bias", "up_bias"),
    (".lora_magnitude_vector", "magnitude"),
    (".lora_magnitude_vector.weight", "magnitude"),
    (".lora_magnitude_vector.default.weight", "magnitude"),
)
KOHYA_PARTS: tuple[tuple[str, Part], ...] = (
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora_mid.weight", "mid"),
    (".alpha", "alpha"),
)
OLD_DIFFUSERS_PARTS: tuple[tuple[str, Part], ...] = (
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
)
WRAPPERS = (  # parts of a name that carry nothing: what wraps a module puts them before its names
    "_orig_mod",  # torch.compile
    "module",  # DistributedDataParallel, DeepSpeed
    "_forward_module",  # Lightning Fabric
    "_fsdp_wrapped_module",  # FullyShardedDataParallel
    "_fpw_module",  # the same before PyTorch 2
    "_checkpoint_wrapped_module",  # checkpointed blocks
)
ROOTS = (  # what a name may begin with, in any order and repeated: names of the model in a program
    "base_model.model", "transformer", "unet", "diffusion_model", "model", "denoiser", "mmdit",
)  # fmt: skip
PROGRAMS = ("diffusers", "ComfyUI")  # that Keys.read_by may name

DIALECTS = Table(
    "a dialect",
    (
        Dialect(
            "diffusers",
            "diffusers' own, alpha = rank",
            Keys("transformer.", "diffusers", read_by=("diffusers", "ComfyUI")),
            PEFT_PARTS + OLD_DIFFUSERS_PARTS,
            alpha="folded",  # diffusers refuses a key that lacks "lora", as `.alpha`
            dora="magnitude",
            writer="sd3tune.formats.writers:diffusers",
            programs="diffusers",
            remarks="`pipe.load_lora_weights(FILE)`; the default of a run",
            cannot_hold="LyCORIS: `--rank N` converts it to a LoRA and prints the error",
        ),
        Dialect(
            "comfyui",
            "ComfyUI's and SwarmUI's",
            Keys("transformer.", "diffusers", read_by=("diffusers", "ComfyUI")),
            (*PEFT_PARTS, (".alpha", "alpha")),
            lycoris=Keys("lycoris_", "diffusers", flat=True, read_by=("ComfyUI",)),
            difference=Keys("diffusion_model.", "original", read_by=("ComfyUI",)),
            writer="sd3tune.formats.writers:comfyui",
            programs="ComfyUI, SwarmUI",
            remarks="the diffusers file works too, because it has alpha = rank",
            cannot_hold="DoRA: the full difference is written, which needs `--model`",
            aliases=("swarmui",),
        ),
        Dialect(
            "kohya",
            "kohya's, with fused query, key and value",
            Keys("lora_unet_", "original", flat=True, read_by=("ComfyUI",)),
            KOHYA_PARTS,
            lycoris=Keys("lora_unet_", "original", flat=True, read_by=("ComfyUI",)),
            difference=Keys("lora_unet_", "original", flat=True, read_by=("ComfyUI",)),
            fused=True,
            writer="sd3tune.formats.writers:kohya",
            implementation="https://github.com/Stability-AI/sd3.5",  # whose names these are
            programs="programs that read only kohya's names",
            remarks="query, key and value are fused; tested with ComfyUI's rule, not with each "
            "such program",
            cannot_hold="DoRA: the full difference is written, which needs `--model`",
            aliases=("sd-scripts",),
        ),
    ),
)  # what `--to` and lora_format take

READ_ONLY = Table(
    "a dialect that is only read",
    (
        Dialect(
            "peft", "peft's own", Keys(
                "base_model.model.", "diffusers", read_by=("ComfyUI",)), PEFT_PARTS),
        Dialect(
            "onetrainer", "OneTrainer's",
            Keys("lora_transformer_", "diffusers", flat=True, read_by=("ComfyUI",)), KOHYA_PARTS),
        Dialect(
            "checkpoint", "a state dict without prefix, whose alpha only the run knows",
            Keys("", "diffusers"), PEFT_PARTS),
    ),
)  # fmt: skip


def rows() -> tuple[Dialect, ...]:
    """Every dialect that is read."""
    return (*DIALECTS.rows, *READ_ONLY.rows)


def read_by(program: str) -> frozenset[tuple[str, Layout]]:
    """(prefix, layout) of the keys that a program loads."""
    every = (keys for row in rows() for keys in row.every_keys)
    return frozenset((k.prefix, k.layout) for k in every if program in k.read_by)


def markdown() -> str:
    """The table of docs/guides/adapters.md."""
    return "".join(
        f"| {row.programs} | `--to {row.name}` | {row.remarks} | {row.cannot_hold} |\n"
        for row in DIALECTS.rows
    )
