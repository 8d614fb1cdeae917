"""Which runs may train on one loaded base model, one after the other.

Only where the result is bit for bit that of separate runs: the same weights in the same precision
on the same device, all of them frozen and in one piece, with the same process-wide switches.
"""

from dataclasses import dataclass

from sd3tune.plan.plan import Plan

OWN_BASE = ("pissa", "olora")  # initialisations that change the weights of the base


@dataclass(frozen=True)
class BaseKey:
    """Runs with equal keys load equal base models."""

    transformer: str
    subfolder: str
    revision: str | None
    variant: str | None
    dtype: str
    scheme: str
    fp8_dtype: str | None
    quantised_on: str
    device: str
    deterministic: bool
    hidden_kernels: bool


def base_key(plan: Plan) -> BaseKey | None:
    """None: this run needs a base model of its own."""
    if not _shareable(plan):
        return None
    precision, hardware = plan.precision, plan.hardware
    return BaseKey(
        transformer=plan.model.source.transformer,
        subfolder=plan.model.source.subfolder,
        revision=plan.files.revision,
        variant=plan.files.variant,
        dtype=precision.base.value,
        scheme=precision.transformer.value,
        fp8_dtype=precision.fp8_dtype.value,
        quantised_on=precision.quantize_via.value,
        device=hardware.device.torch_device,
        deterministic=hardware.deterministic.value,
        hidden_kernels=plan.attention.hidden_kernels.value,
    )


def _shareable(plan: Plan) -> bool:
    """A LoRA of one process whose frozen base is on its device as it was loaded."""
    lora = plan.trained.lora
    return (
        lora is not None
        and lora.init not in OWN_BASE
        and plan.processes.size == 1
        and not plan.parallel.sharded
        and plan.memory.blocks_to_swap.value == 0
        and plan.memory.modulations.value == "device"
        and plan.hardware.compiler.value is None
    )
