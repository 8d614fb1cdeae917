"""The presets of `sd3tune configure`: settings that go together, one row each.

A preset by memory says what fits on a card of that size; one by purpose how a subject, a style or a
concept is trained; a recipe is what the quickstart recommends. Each is planned for its chips in
tests/pure/test_presets.py: a preset that does not fit there is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sd3tune.tables import architectures
from sd3tune.tables.needs import Vendor
from sd3tune.tables.table import Table

Kind = Literal["memory", "purpose", "recipe"]
Settings = Mapping[str, Any]
GPUS: tuple[Vendor, ...] = ("cuda", "rocm")
EVERYWHERE: tuple[Vendor, ...] = ("cuda", "rocm", "mps", "cpu")
MEDIUM, LARGE = architectures.SD35_MEDIUM.name, architectures.SD35_LARGE.name


@dataclass(frozen=True)
class Preset:
    """One preset.

    settings: of config.json. of_model: more settings, for one released model. chips: of the
    catalogue, on which a test plans it. models: for which it is planned there. on: vendors whose
    machines are offered it. steps_per_image, fewest, most: the length of a run that nobody sets.
    caption: of images without a caption of their own; `{word}` is the trigger word. gib: memory of
    the smallest machine that it is for, as marketed. masks: whether masks are used where there are
    some.
    """

    name: str
    kind: Kind
    about: str
    settings: Settings
    chips: tuple[str, ...]
    models: tuple[str, ...] = (MEDIUM,)
    of_model: Mapping[str, Settings] = field(default_factory=dict)
    on: tuple[Vendor, ...] = EVERYWHERE
    aliases: tuple[str, ...] = ()
    steps_per_image: int = 0
    fewest: int = 0
    most: int = 0
    caption: str = ""
    gib: int = 0
    masks: bool = True

    def settings_for(self, model: str) -> dict[str, Any]:
        """The settings for a model, by its name."""
        return {**self.settings, **self.of_model.get(model, {})}

    def steps(self, images: int) -> int:
        """Optimizer steps for so many images; only of a preset by purpose."""
        return min(self.most, max(self.fewest, self.steps_per_image * images))


ONE_BY_FOUR = {"train_batch_size": 1, "gradient_accumulation_steps": 4}
FOUR = {"train_batch_size": 4}
BOTH = (MEDIUM, LARGE)

# The smallest first: what a machine is offered ends with the largest that fits.
MEMORY = (
    Preset(
        "8gb", "memory", "NVIDIA and AMD cards with 8 GB",
        {"resolution": 1024, **ONE_BY_FOUR}, ("rtx4060", "rtx3070", "rtx2080"), BOTH,
        {LARGE: {"base_model_precision": "nf4-bnb"}},
        GPUS, ("8g",), gib=8,
    ),
    Preset(
        "10gb", "memory", "cards with 10 or 11 GB",
        {"resolution": 1024, **ONE_BY_FOUR}, ("rtx3080", "rtx2080ti"), BOTH,
        {LARGE: {"base_model_precision": "int8-quanto"}},
        GPUS, ("10g", "11gb"), gib=10,
    ),
    Preset(
        "12gb", "memory", "cards with 12 GB",
        {"resolution": 1024, **FOUR}, ("rtx3060", "rtx4070", "rx7700xt"), BOTH,
        {LARGE: {"base_model_precision": "int8-quanto", **ONE_BY_FOUR}},
        GPUS, ("12g",), gib=12,
    ),
    Preset(
        "16gb", "memory", "cards with 16 or 20 GB",
        {"resolution": 1024, **FOUR}, ("rtx4060ti", "rtx5080", "t4", "rx7800xt"), BOTH,
        {LARGE: ONE_BY_FOUR},
        GPUS, ("16g", "20gb"), gib=16,
    ),
    Preset(
        "24gb", "memory", "cards with 24 or 32 GB",
        {"resolution": 1024, **FOUR}, ("rtx4090", "rtx3090", "l4", "rx7900xtx"), BOTH,
        {LARGE: ONE_BY_FOUR}, GPUS, ("24g", "32gb"), gib=24,
    ),
    Preset(
        "48gb", "memory", "cards with 40 to 64 GB",
        {"resolution": 1024, **FOUR}, ("rtxa6000", "l40s", "a100-40gb", "w7900"), BOTH,
        {}, GPUS, ("48g", "40gb"), gib=40,
    ),
    Preset(
        "80gb", "memory", "cards with 80 GB or more",
        {"resolution": 1024, **FOUR}, ("a100", "h100", "h200", "b200"), BOTH,
        {}, GPUS, ("80g", "80gb+"), gib=80,
    ),
    Preset(
        "mi300x", "memory", "AMD Instinct MI300X, and its successors",
        {"resolution": 1024, **FOUR}, ("mi300x", "mi325x", "mi355x"), BOTH,
        {MEDIUM: {"train_batch_size": 8}},
        ("rocm",), ("192gb",), gib=192,
    ),
    Preset(
        "mac-16gb", "memory", "Macs with 16 or 24 GB",
        {"resolution": 512, **ONE_BY_FOUR}, ("m1", "m2-16gb", "m3-16gb", "m4-16gb"),
        on=("mps",), aliases=("mac16", "mac-16"), gib=16,
    ),
    Preset(
        "mac-32gb", "memory", "Macs with 32 to 48 GB",
        {"resolution": 768, **ONE_BY_FOUR}, ("m1-pro", "m2-pro", "m4", "m4-pro-48gb"), BOTH,
        on=("mps",), aliases=("mac32", "mac-32"), gib=32,
    ),
    Preset(
        "mac-64gb", "memory", "Macs with 64 to 96 GB",
        {"resolution": 1024, **ONE_BY_FOUR}, ("m1-max", "m2-max-64gb", "m4-max-64gb"), BOTH,
        on=("mps",), aliases=("mac64", "mac-64"), gib=64,
    ),
    Preset(
        "mac-128gb", "memory", "Macs with 128 GB or more",
        {"resolution": 1024, "train_batch_size": 2, "gradient_accumulation_steps": 2},
        ("m1-ultra", "m3-max", "m4-max", "m3-ultra"), BOTH,
        on=("mps",), aliases=("mac128", "mac-128"), gib=128,
    ),
)  # fmt: skip
RECIPES = (
    Preset(
        "stable", "recipe", "keeps SD3.5 stable (quickstart): 12 images a step, no masks",
        {
            "optimizer": "adamw_bf16",
            "flow_schedule_shift": 1.0,
            "learning_rate": 1e-4,
            "lr_warmup_steps": 100,
            "train_batch_size": 4,
            "gradient_accumulation_steps": 3,
            "max_grad_norm": 0.1,
            "base_model_precision": "int8-quanto",
            "lora_rank": 16,
            "resolution": 1024,
        },
        ("rtx4090", "rtx3090", "l40s", "h100", "mi300x", "m3-max"), BOTH,
        {MEDIUM: {"validation_guidance_skip_layers": [7, 8, 9], "validation_guidance": 4.0}},
        masks=False,
    ),
    Preset(
        "lowest-vram", "recipe", "least memory (quickstart): nf4 weights, 512 px",
        {
            "base_model_precision": "nf4-bnb",
            "optimizer": "bnb-lion8bit-paged",
            "learning_rate": 1e-5,  # Lion's steps are 3 to 10 times those of AdamW
            "resolution": 512,
            "train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "lora_rank": 4,
        },
        ("rtx3080", "rtx3060", "rtx4070"), BOTH,
        {}, GPUS,
    ),
)  # fmt: skip
PURPOSES = (
    Preset(
        "subject", "purpose", "one person, animal or thing, from 5 to 50 images",
        {"model_type": "lora", "lora_rank": 16, "learning_rate": 1e-4},
        ("rtx3060", "mi300x", "m2-16gb"), steps_per_image=100, fewest=500, most=2000,
        caption="a photo of {word}",
    ),
    Preset(
        "style", "purpose", "a way of drawing, from 20 to 500 images",
        {"model_type": "lora", "lora_rank": 32, "learning_rate": 1e-4},
        ("rtx3060", "mi300x", "m2-16gb"), steps_per_image=40, fewest=1000, most=4000,
        caption="a picture in the style of {word}",
    ),
    Preset(
        "concept", "purpose", "things of a kind, poses or scenes, from 50 images on",
        {"model_type": "lora", "lora_rank": 64, "learning_rate": 1e-4},
        ("rtx4060ti", "mi300x", "m1-pro"), steps_per_image=30, fewest=1500, most=10_000,
        caption="{word}",
    ),
    Preset(
        "full", "purpose", "all weights, from 1000 images on; needs a large card",
        {"model_type": "full", "learning_rate": 1e-5, "lr_warmup_steps": 200},
        ("a100", "h100", "mi300x"), steps_per_image=10, fewest=2000, most=50_000,
        caption="{word}",
    ),
)  # fmt: skip
PRESETS = Table("a preset", (*MEMORY, *RECIPES, *PURPOSES))
