"""What the machine computes in: the options that were chosen for it, as typed values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from sd3tune.backends.decide.decisions import SETTING
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Device, Facts
from sd3tune.config.config import Config
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.decision import AUTO, Decision, Provenance, following
from sd3tune.plan.inputs import RunInputs

Dtype = Literal["bf16", "fp16", "fp32"]
Chosen = Mapping[str, Decision[str]]  # axis -> option, as backends/decide made them
T = TypeVar("T")

ASKED = (  # settings of the same name as their axis
    "mixed_precision",
    "base_model_default_dtype",
    "base_model_precision",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
    "quantize_via",
    "gradient_checkpointing_backend",
    "optimizer",
    "dynamo_backend",
)
SWITCH = {"on": True, "off": False}
DTYPES: dict[str, Dtype] = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
AUTOCAST: dict[str, Dtype | None] = {**DTYPES, "no": None}
PLACES: dict[str, Literal["accelerator", "cpu"]] = {"accelerator": "accelerator", "cpu": "cpu"}


@dataclass(frozen=True)
class CompileOptions:
    """How torch.compile treats the transformer's blocks."""

    mode: str = "default"
    fullgraph: bool = False  # a break in the graph is an error
    dynamic: bool | None = None  # compile for all sizes at once; None: torch decides


@dataclass(frozen=True)
class HardwarePlan:
    """The device of this process, and how it is used."""

    device: Device
    torch_device: Decision[str]  # as torch names it: `cuda:0`
    pin_memory: Decision[bool]
    compiler: Decision[str | None]  # backend of torch.compile; None: nothing is compiled
    deterministic: Decision[bool]
    compile_options: CompileOptions = CompileOptions()
    tf32: bool = True  # float32 products may be computed with ten bits, on NVIDIA


@dataclass(frozen=True)
class PrecisionPlan:
    """The number formats of a run, and how its frozen weights are stored."""

    autocast: Decision[Dtype | None]  # of the forward pass; None: none
    base: Decision[Dtype]  # frozen weights that are not quantised
    trainable: Decision[Dtype]
    grad_scaler: Decision[bool]
    transformer: Decision[str]  # quantisation scheme; `no_change`: none
    text_encoders: tuple[Decision[str], Decision[str], Decision[str]]  # CLIP-L, CLIP-G, T5-XXL
    text: Decision[Dtype]
    vae: Decision[Dtype]
    quantize_via: Decision[Literal["accelerator", "cpu"]]  # where layers are quantised
    fp8_dtype: Decision[str | None]
    check_interval: int = 0  # steps between checks of a layer that multiplies in 8 bits; 0: none


@dataclass(frozen=True)
class AttentionPlan:
    """Kernels of attention, by their names in the settings."""

    training: Decision[str]
    sampling: Decision[str]  # of passes without gradients; `as-training`: the same
    inputs: Decision[str]  # `views`, or `contiguous` copies
    hidden_kernels: Decision[bool]  # those that PyTorch uses only with a variable set


def hardware_plan(inputs: RunInputs, chosen: Chosen) -> HardwarePlan:
    """The device of this process. chosen: the option of each axis."""
    c = inputs.config
    options = CompileOptions(c.dynamo_mode, c.dynamo_fullgraph, c.dynamo_dynamic)
    plan = device_plan(inputs.facts, inputs.processes.local_rank, chosen)
    return replace(plan, compile_options=options, tf32=not c.disable_tf32)


def process_switches(hardware: HardwarePlan, attention: "AttentionPlan") -> dict[str, bool]:
    """The arguments of a vendor's `prepare`."""
    return {
        "deterministic": hardware.deterministic.value,
        "hidden_kernels": attention.hidden_kernels.value,
        "tf32": hardware.tf32,
    }


def device_plan(facts: Facts, local_rank: int, chosen: Chosen) -> HardwarePlan:
    """The device of the process with that number on its machine."""
    device = facts.devices[min(local_rank, len(facts.devices) - 1)]
    which = f"{device.name} ({device.card})" if device.card else device.name
    return HardwarePlan(
        device=device,
        torch_device=Decision(device.torch_device, AUTO, f"{which}: {_origin(facts)}"),
        pin_memory=typed(chosen["pin_memory"], SWITCH),
        compiler=or_none(chosen["dynamo_backend"], "no"),
        deterministic=typed(chosen["deterministic"], SWITCH),
    )


def precision_plan(chosen: Chosen) -> PrecisionPlan:
    """Number formats and quantisation. chosen: the option of each axis."""
    return PrecisionPlan(
        autocast=typed(chosen["mixed_precision"], AUTOCAST),
        base=typed(chosen["base_model_default_dtype"], DTYPES),
        trainable=typed(chosen["trainable_dtype"], DTYPES),
        grad_scaler=typed(chosen["grad_scaler"], SWITCH),
        transformer=chosen["base_model_precision"],
        text_encoders=(
            chosen["text_encoder_1_precision"],
            chosen["text_encoder_2_precision"],
            chosen["text_encoder_3_precision"],
        ),
        text=typed(chosen["text_encoder_dtype"], DTYPES),
        vae=typed(chosen["vae_dtype"], DTYPES),
        quantize_via=typed(chosen["quantize_via"], PLACES),
        fp8_dtype=or_none(chosen["fp8_dtype"], "none"),
    )


def attention_plan(chosen: Chosen) -> AttentionPlan:
    """Attention kernels. chosen: the option of each axis."""
    return AttentionPlan(
        training=chosen["attention_mechanism"],
        sampling=chosen["attention_no_grad"],
        inputs=chosen["attention_inputs"],
        hidden_kernels=typed(chosen["hidden_kernels"], SWITCH),
    )


def attention_asked(config: Config) -> str | None:
    """The attention mechanism that the user set for training. SageAttention only samples, so
    training keeps kernels with a backward pass."""
    asked = config.attention_mechanism
    return None if asked == "sageattention" else asked


def request_of(inputs: RunInputs) -> Request:
    """What the settings ask of the machine, in the vocabulary of the rules."""
    config = inputs.config
    asked = {name: getattr(config, name) for name in ASKED}
    if config.attention_mechanism == "sageattention":
        asked |= {"attention_no_grad": "sageattention"}
    elif (attention := attention_asked(config)) is not None:
        asked |= {"attention_mechanism": attention, "attention_no_grad": "as-training"}
    vae = None if config.vae_dtype == "default" else config.vae_dtype
    written = config.source("deterministic").by == "user"
    deterministic = ("on" if config.deterministic else "off") if written else None
    asked |= {"vae_dtype": vae, "deterministic": deterministic}
    return Request(
        **asked,
        sources={axis: _source(config, axis, value) for axis, value in asked.items()},
        model_type=config.model_type,
        processes=inputs.processes.size,
        sharded=config.fsdp_enable and inputs.processes.size > 1,
        whole_weights=_whole_weights(config, inputs.lycoris),
    )


def _source(config: Config, axis: str, value: str | None) -> Provenance:
    """Who chose the value of an axis. A setting of another name is the user's word only where it
    has that value."""
    setting = SETTING.get(axis, axis)
    source = config.source(setting)
    return source if setting == axis or value == getattr(config, setting) else following(source)


def _whole_weights(config: Config, lycoris: Lycoris | None) -> str | None:
    """Why the frozen weights may not be quantised."""
    if config.lora_init_type in ("pissa", "olora"):
        return (
            f"`lora_init_type={config.lora_init_type}` takes part of the weights into the adapter"
        )
    if lycoris is not None and lycoris.dora_wd:
        return "`lycoris_config`: dora_wd needs the weights, not packed ones"
    return None


def _origin(facts: Facts) -> str:
    return {
        "measured": "observed on this machine",
        "recorded": "from recorded answers",
        "catalog": "from the catalogue, not measured",
    }[facts.origin]


def typed(decision: Decision[str], values: Mapping[str, T]) -> Decision[T]:
    """The same decision with the value that an option's name stands for."""
    value = values[decision.value]
    return Decision(value, decision.source, decision.reason, decision.rejected)


def or_none(decision: Decision[str], nothing: str) -> Decision[str | None]:
    """The same decision with None for the option named `nothing`."""
    return typed(decision, {decision.value: decision.value} | {nothing: None})
