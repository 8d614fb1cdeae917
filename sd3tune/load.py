"""Loads the transformer as planned, quantises it, and keeps the quantised weights on disk."""

import time
from pathlib import Path
from typing import Any

import torch

from sd3tune import backends, quant
from sd3tune.plan.drawing import AnyPlan
from sd3tune.plan.memory import gib
from sd3tune.quant import store
from sd3tune.quant.parts import stored_bytes
from sd3tune.report.progress import say, warn
from sd3tune.sd3 import weight_identity, weights


def transformer(plan: AnyPlan, device: torch.device) -> Any:
    """The denoiser on the CPU, frozen, with the planned precision: read where it was kept,
    otherwise loaded, quantised and kept. Raises ModelError."""
    say(f"loading  transformer of {plan.model.name}")
    path = kept_at(plan, device)
    if path is not None and (kept := read(plan, path)) is not None:
        return kept
    precision = plan.precision
    model = weights.transformer(plan.model.source, precision.base.value, **variant(plan))
    quantise(model, precision.transformer.value, quant.TRANSFORMER, plan, device)
    if path is not None and (why := store.save(model, path)) is not None:
        warn(f"the quantised transformer was not kept at {path}: {why}")
    return model


def read(plan: AnyPlan, path: Path) -> Any:
    """The kept transformer, or None where there is none or it is damaged."""
    if not path.exists():
        return None
    started, scheme = time.perf_counter(), plan.precision.transformer.value
    model = weights.blank_transformer(plan.model.source)
    if not store.load(model, path, scheme, quant.TRANSFORMER, fp8_format(plan)):
        warn(f"{path} is damaged; the transformer is quantised again")
        return None
    size, seconds = gib(stored_bytes(model)), time.perf_counter() - started
    say(f"quantised {scheme}: {size} of weights, read from {path} in {seconds:.1f} s")
    return model


def kept_at(plan: AnyPlan, device: torch.device) -> Path | None:
    """The file of this very quantised transformer; None where none is kept."""
    folder, precision = plan.memory.quantised_cache.value, plan.precision
    if folder is None:
        return None
    return store.place(
        folder,
        weight_identity.identity(plan.model.source, "transformer"),
        precision.transformer.value,
        quant.TRANSFORMER,
        dtype=precision.base.value,
        fp8=fp8_format(plan),
        device=quantising_device(plan, device).type,
        torch=torch.__version__,
        **variant(plan),
    )


def quantise(
    module: Any, scheme: str, which: quant.Patterns, plan: AnyPlan, device: torch.device
) -> None:
    """Quantises in place, and prints what it saved. which: the linear layers that are meant."""
    if scheme == "no_change":
        return
    where, chip = quantising_device(plan, device), plan.hardware.device
    done = quant.apply(module, scheme, which=which, fp8=fp8_format(plan), device=where)
    used = backends.module(plan.facts.vendor).used_bytes(chip.index)
    on_device = "" if used is None else f"; {gib(used)} of {chip.name} in use"
    say(
        f"quantised {scheme}: {gib(done.before)} -> {gib(done.after)} of weights "
        f"in {done.seconds:.1f} s{on_device}"
    )


def quantising_device(plan: AnyPlan, device: torch.device) -> torch.device:
    """Where layers are quantised, one at a time."""
    on_device = plan.precision.quantize_via.value == "accelerator"
    return device if on_device else torch.device("cpu")


def fp8_format(plan: AnyPlan) -> str:
    """torch's name of the fp8 dtype; `none` where the device has none."""
    return plan.precision.fp8_dtype.value or "none"


def variant(plan: AnyPlan) -> dict[str, str]:
    """Which of a folder's files are meant, as from_pretrained takes it."""
    return {"variant": plan.files.variant} if plan.files.variant else {}
