"""The plan of `sd3tune sample`: what drawing pictures will use of a machine. Pure, like the plan of
a run, with the same rules, and smaller needs: no gradient is kept, and one block's activations at
a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sd3tune.backends.decide.decisions import decide_all
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import AUTO, Decision, Provenance
from sd3tune.errors import PlanError
from sd3tune.plan import products
from sd3tune.plan.arithmetic import (
    AttentionPlan,
    Chosen,
    HardwarePlan,
    PrecisionPlan,
    attention_plan,
    device_plan,
    precision_plan,
)
from sd3tune.plan.drawing_sizes import DrawingSizes
from sd3tune.plan.encoding import CaptionPlan
from sd3tune.plan.memory import MemoryEstimate, gib
from sd3tune.plan.modulation_plan import ModulationPlace
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.plan.plan import ModelFiles, Plan
from sd3tune.sd3.variants import Model

BY_USER = Provenance("user")


@dataclass(frozen=True)
class DrawingAsked:
    """What the user, a run or a picture asks to draw. precision: axis of choice -> the value that
    somebody set. merged: adapters change the weights before they are quantised. adapter_values:
    numbers of adapters that stay beside the weights."""

    model: Model
    files: ModelFiles
    captions: CaptionPlan
    sizes: tuple[tuple[int, int], ...]  # width, height in pixels
    steps: int
    guidance: float
    shift: float | None  # None: by the number of tokens
    sampler: str
    skip: SkipLayers | None
    negative_prompt: str
    precision: Mapping[str, str] = field(default_factory=dict)
    set_by: Provenance = BY_USER
    merged: bool = False
    adapter_values: int = 0
    adapted_modulations: bool = False  # an adapter beside the weights changes AdaLN layers
    quantised_cache: Path | None = None  # of the run, where it has one

    @property
    def together(self) -> int:
        """Images in a forward pass: guidance puts the negative prompt beside the prompt."""
        return 2 if self.guidance > 1 else 1


@dataclass(frozen=True)
class DrawingMemory:
    """Where weights are while pictures are drawn."""

    estimate: MemoryEstimate
    decoding: int  # bytes of the VAE while it decodes one picture: an estimate
    blocks_to_swap: Decision[int]  # the first n blocks live in host memory
    modulations: Decision[ModulationPlace]  # where they are computed
    offload: Decision[Literal["none", "text_encoders"]]  # what runs on the CPU instead
    vae: Decision[Literal["beside", "afterwards"]]  # beside the transformer, or when it is gone
    quantised_cache: Decision[Path | None]  # folder of quantised transformers; None: none is kept


@dataclass(frozen=True)
class DrawingPlan:
    """Everything that loading, encoding, drawing and decoding read."""

    asked: DrawingAsked
    facts: Facts
    model: Model
    files: ModelFiles
    hardware: HardwarePlan
    precision: PrecisionPlan
    attention: AttentionPlan
    memory: DrawingMemory
    captions: CaptionPlan


AnyPlan: TypeAlias = Plan | DrawingPlan  # what weights are loaded for


def resolve_drawing(asked: DrawingAsked, facts: Facts) -> DrawingPlan:
    """Raises PlanError when what is asked cannot be drawn here."""
    sizes = DrawingSizes(asked, facts)
    _refuse_decoding(asked, facts)
    request = Request(sources=dict.fromkeys(asked.precision, asked.set_by))
    for axis, value in asked.precision.items():
        request = request.with_value(axis, value)
    chosen, decided = decide_all(facts, request, sizes.too_big)
    attention = attention_plan(chosen)
    _refuse_attention(asked, facts, attention.training.value)
    return DrawingPlan(
        asked=asked,
        facts=facts,
        model=asked.model,
        files=asked.files,
        hardware=device_plan(facts, 0, chosen),
        precision=precision_plan(chosen),
        attention=attention,
        memory=_memory(asked, sizes, decided, chosen),
        captions=asked.captions,
    )


def drawing_decisions(plan: DrawingPlan) -> dict[str, Decision[Any]]:
    """Every choice that matters here by the name of its setting."""
    precision, attention, memory = plan.precision, plan.attention, plan.memory
    clip_l, clip_g, t5 = precision.text_encoders
    return {
        "device": plan.hardware.torch_device,
        "model": plan.files.name,
        "mixed_precision": precision.autocast,
        "base_model_default_dtype": precision.base,
        "base_model_precision": precision.transformer,
        "text_encoder_dtype": precision.text,
        "text_encoder_1_precision": clip_l,
        "text_encoder_2_precision": clip_g,
        "text_encoder_3_precision": t5,
        "vae_dtype": precision.vae,
        "hidden_kernels": attention.hidden_kernels,
        "attention_mechanism": attention.training,
        "attention_no_grad": attention.sampling,
        "attention_inputs": attention.inputs,
        "blocks_to_swap": memory.blocks_to_swap,
        "modulations": memory.modulations,
        "offload": memory.offload,
        "vae": memory.vae,
    }


def _memory(
    asked: DrawingAsked, sizes: DrawingSizes, decided: Request, chosen: Chosen
) -> DrawingMemory:
    scheme = chosen["base_model_precision"].value
    swapped, modulations = sizes.swapped(decided, scheme), sizes.modulations(decided, chosen)
    away = modulations.value != "device"
    return DrawingMemory(
        estimate=sizes.estimate(decided, scheme, swapped.value, away=away),
        decoding=sizes.decoding(decided),
        blocks_to_swap=swapped,
        modulations=modulations,
        offload=sizes.offload(decided),
        vae=sizes.vae(decided, scheme, swapped.value),
        quantised_cache=_quantised_cache(asked, scheme),
    )


def _quantised_cache(asked: DrawingAsked, scheme: str) -> Decision[Path | None]:
    if scheme == "no_change":
        return Decision(None, AUTO, "nothing is quantised")
    if asked.merged:
        return Decision(None, AUTO, "the weights with these adapters are nobody else's")
    if asked.quantised_cache is None:
        return Decision(None, AUTO, "no run keeps quantised weights for this model")
    return Decision(asked.quantised_cache, AUTO, "where the run keeps them")


def _refuse_decoding(asked: DrawingAsked, facts: Facts) -> None:
    for width, height in asked.sizes:
        decode = products.encoding(facts, width, height)
        if decode.most < 1:
            words = f"`--size {width}x{height}` on {facts.weakest.name}: {decode.why}"
            raise PlanError(words, hint="draw a smaller picture, or on the CPU: --on-cpu")


def _refuse_attention(asked: DrawingAsked, facts: Facts, attention: str) -> None:
    sizes = DrawingSizes(asked, facts)
    if (why := sizes.computed_wrongly(attention)) is not None:
        hint = "draw a smaller picture, or on the CPU: --on-cpu"
        raise PlanError(f"`--size` on {facts.weakest.name}: {why}", hint=hint)


def memory_words(plan: DrawingPlan) -> str:
    """The estimate beside what there is."""
    need, device = plan.memory.estimate, plan.facts.weakest
    room = "an unknown amount" if device.room_bytes is None else gib(device.room_bytes)
    decoding = gib(plan.memory.decoding)
    return f"about {gib(need.training)} of {room} while drawing, {decoding} while decoding"
