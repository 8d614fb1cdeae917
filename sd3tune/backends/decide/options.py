"""The axes of choice, and for every option the rules under which it works.

Order within an axis is preference; decisions.py reads the table. A level says how an option works:
fp8 may be good for storage and not for arithmetic, a kernel may run forward only. Where the facts
behind the rules come from: docs/reference/hardware.md.
"""

from collections.abc import Mapping
from typing import Any

from sd3tune.backends.decide import attention_options as attention
from sd3tune.backends.decide import limits
from sd3tune.backends.decide.option import Axes, Level, Option, Options
from sd3tune.backends.decide.probes import fp8_products
from sd3tune.backends.decide.rules import (
    Request,
    alone,
    decided,
    gfx_in,
    native_bf16,
    never_on,
    not_full,
    sm_at_least,
    smoke,
    tool,
    vendors,
)
from sd3tune.backends.decide.tabled_options import TRAINABLE, optimizers, schemes, trains_bf16
from sd3tune.backends.observe.facts import Facts
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES
from sd3tune.tables.table import Table

NO_AUTOCAST_ON_APPLE = (
    "mixed_precision is `no` on Apple: autocast on MPS is not proven to train SD3"
)


def bf16_level(f: Facts) -> Level:
    return "native" if native_bf16(f, Request()) is None else "emulated"


def flavour_level(f: Facts) -> Level:
    """Chips without fp8 products keep weights in it and multiply in another dtype."""
    if f.vendor == "mps":
        return "none"
    return "native" if fp8_products(f) else "storage"


def bf16_base(f: Facts, r: Request) -> str | None:
    """Weights in bf16 go with autocast, except on Apple, where they are used without it."""
    if r.model_type == "full" and r.optimizer is not None and not trains_bf16(r):
        return f"{r.optimizer} trains float32 weights; adamw_bf16 trains bf16 ones"
    if r.mixed_precision == "bf16" or f.vendor == "mps":
        return None
    return f"needs mixed_precision=bf16, and this run has mixed_precision={r.mixed_precision}"


def reference_stays_exact(f: Facts, r: Request) -> str | None:
    """A CPU computes in float32, because it is the reference; bf16 (fast with AMX) only on
    request."""
    if f.vendor != "cpu" or r.mixed_precision is not None:
        return None
    return "the CPU is the reference: float32 unless asked"


def compiled_is_faster(f: Facts, r: Request) -> str | None:
    """Where it is not, blocks are compiled only on request."""
    reason = limits.COMPILED_NO_FASTER.get(f.vendor)
    if reason is None or r.dynamo_backend is not None:
        return None
    return f"{reason}; dynamo_backend=inductor compiles anyway"


_AXES: dict[str, Options] = {
    "mixed_precision": (
        Option(
            "bf16",
            (
                never_on("mps", NO_AUTOCAST_ON_APPLE),
                native_bf16,
                reference_stays_exact,
                smoke("matmul_bf16"),
                smoke("autocast_bf16"),
            ),
            "native bf16: float32's range, so no loss scaling",
            level=bf16_level,
        ),
        Option(
            "fp16",
            (
                never_on("mps", NO_AUTOCAST_ON_APPLE),
                vendors("cuda", "rocm"),
                smoke("matmul_fp16"),
                smoke("autocast_fp16"),
            ),
            "no native bf16 here: fp16 with float32 adapter weights and loss scaling; SD3 in fp16 "
            "may overflow after thousands of steps (huggingface/diffusers#8599)",
        ),
        Option("no", (), "no autocast: arithmetic in the weights' own format"),
    ),
    "base_model_default_dtype": (
        Option(
            "bf16",
            (native_bf16, bf16_base, smoke("matmul_bf16")),
            "the frozen weights need no more than bf16",
            level=bf16_level,
        ),
        Option(
            "fp16",
            (
                vendors("cuda", "rocm"),
                decided("mixed_precision", "fp16"),
                not_full("trained weights need float32 under fp16 autocast"),
            ),
            "half of float32, and the multiplications run in fp16 anyway",
        ),
        Option("fp32", (), "arithmetic outside autocast stays exact"),
    ),
    "text_encoder_dtype": (
        Option("bf16", (decided("base_model_default_dtype", "bf16"),), "as the base weights"),
        Option(
            "fp16",
            (decided("base_model_default_dtype", "fp16"),),
            "as the base weights; T5 keeps "
            "its output layers in float32, without which fp16 overflows",
        ),
        Option("fp32", (), "as the base weights"),
    ),
    "vae_dtype": (
        Option(
            "bf16",
            (decided("mixed_precision", "bf16"), native_bf16),
            "the VAE is stable in bf16",
            level=bf16_level,
        ),
        Option(
            "fp16",
            (
                never_on(
                    "mps", "an fp16 VAE on MPS wrote NaN latents (huggingface/diffusers#7563)"
                ),
                vendors("cuda", "rocm"),
            ),
            "asked for",
            auto=False,
        ),
        Option("fp32", (), "the VAE overflows in fp16, and is small"),
    ),
    "optimizer": optimizers,
    "trainable_dtype": TRAINABLE,
    "grad_scaler": (
        Option("on", (decided("mixed_precision", "fp16"),), "fp16 gradients underflow unscaled"),
        Option("off", (), "float32 and bf16 have the range"),
    ),
    "hidden_kernels": attention.HIDDEN_KERNELS,
    "attention_mechanism": attention.TRAINING,
    "base_model_precision": lambda: schemes(sized=True, transformer=True),
    "text_encoder_1_precision": lambda: schemes(sized=False),
    "text_encoder_2_precision": lambda: schemes(sized=False),
    "text_encoder_3_precision": lambda: schemes(sized=True),
    "quantize_via": (
        Option(
            "accelerator",
            (
                never_on("mps", "one memory with the CPU, and quanto is unproven on MPS"),
                never_on("cpu", "there is no accelerator"),
            ),
            "each layer is quantised on the device and makes room for the next",
        ),
        Option("cpu", (), "each layer is quantised on the CPU"),
    ),
    "gradient_checkpointing_backend": (
        Option("torch", (), "inputs of checkpointed blocks wait on the device"),
        Option(
            "unsloth",
            (never_on("mps", "host memory is the device's memory"),),
            "inputs of checkpointed blocks wait in host memory; untested on hardware",
            auto=False,
        ),
    ),
    "attention_no_grad": attention.SAMPLING,
    "attention_inputs": attention.INPUTS,
    "dynamo_backend": (
        Option(
            "no",
            (),
            "compiled only where the device gains by it and the run is long enough to pay it back",
        ),
        Option(
            "inductor",
            (
                never_on("mps", "torch.compile on MPS is unfinished (pytorch/pytorch#150121)"),
                sm_at_least(70, "Triton has no code generator"),
                compiled_is_faster,
                tool("c++", "inductor needs a C++ compiler"),
                smoke("compile_inductor"),
            ),
            "kernels compiled for this chip",
            auto=False,
            level=lambda f: "needs_build",
        ),
        Option("aot_eager", (), "traces without compiling: for finding faults", auto=False),
    ),
    "pin_memory": (
        Option(
            "on",
            (
                never_on("mps", "unified memory: there is no copy to speed up"),
                never_on("cpu", "there is no device to copy to"),
            ),
            "pinned host memory copies to the device in the background",
        ),
        Option("off", (), "nothing to pin for"),
    ),
    "fp8_dtype": (
        Option(
            "float8_e4m3fnuz",
            (
                vendors("rocm"),
                gfx_in("gfx942"),
            ),
            "CDNA3's own flavour of fp8, for weights that fp8-quanto keeps",
        ),
        Option(
            "float8_e4m3fn",
            (never_on("mps", "MPS has no fp8 arithmetic"),),
            "the OCP flavour of fp8, for weights that fp8-quanto keeps",
            level=flavour_level,
        ),
        Option("none", (), "no fp8 on this device"),
    ),
    "distributed_backend": (
        Option("none", (alone,), "one process trains"),
        Option("nccl", (vendors("cuda", "rocm"),), "NCCL, or RCCL under the same name"),
        Option("gloo", (never_on("mps", "a Mac has one GPU"),), "the CPU's collective library"),
    ),
    "deterministic": (
        Option("off", (), "faster kernels may add in another order on each run"),
        Option(
            "on",
            (),
            "the same bits on each run; an operation without a deterministic kernel ends the run "
            "(on a Mac it warns)",
            auto=False,
        ),
    ),
}
AXES = Axes(_AXES)

TABLES: Mapping[str, Table[Any]] = {
    "optimizer": OPTIMIZERS,
    "base_model_precision": SCHEMES,
    "text_encoder_1_precision": SCHEMES,
    "text_encoder_2_precision": SCHEMES,
    "text_encoder_3_precision": SCHEMES,
}
ALIASES = {("attention_mechanism", "native"): "diffusers"}


def canonical(axis: str, asked: str | None) -> str | None:
    """The option's own name where the user wrote another name of it."""
    table = TABLES.get(axis)
    if table is not None and asked is not None and asked in table:
        return str(table[asked].name)
    return ALIASES.get((axis, asked or ""), asked)
