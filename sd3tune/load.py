"""Models as the plan wants them: loaded, quantised, and the quantised transformer kept on disk."""

import time
from pathlib import Path
from typing import Any

import torch

from sd3tune import backends, quant
from sd3tune.plan.memory import gib
from sd3tune.plan.resolve import Plan
from sd3tune.quant import store
from sd3tune.quant.parts import stored_bytes
from sd3tune.report.progress import say, warn
from sd3tune.sd3 import weights

NONE = "none"


def transformer(plan: Plan, device: torch.device) -> Any:
    """The denoiser on the CPU, frozen, with the planned precision: read where it was kept,
    otherwise loaded, quantised and kept. Raises ModelError."""
    say(f"loading  transformer of {plan.model.name}")
    scheme, path = plan.value("base_model_precision"), kept_at(plan, device)
    if path is not None and (found := read(plan, path)) is not None:
        return found
    model = weights.transformer(
        plan.model.source, plan.value("base_model_default_dtype"), **variant(plan)
    )
    shrink(model, scheme, quant.TRANSFORMER, plan, device)
    if path is not None and (why := store.save(model, path)) is not None:
        warn(f"the quantised transformer was not kept at {path}: {why}")
    return model


def read(plan: Plan, path: Path) -> Any:
    """The kept transformer, or None where there is none or it is damaged."""
    if not path.exists():
        return None
    started, scheme = time.perf_counter(), plan.value("base_model_precision")
    model = weights.blank_transformer(plan.model.source)
    if not store.load(model, path, scheme, quant.TRANSFORMER, plan.value("fp8_dtype")):
        warn(f"{path} is damaged; the transformer is quantised again")
        return None
    size, seconds = gib(stored_bytes(model)), time.perf_counter() - started
    say(f"quantised {scheme}: {size} of weights, read from {path} in {seconds:.1f} s")
    return model


def kept_at(plan: Plan, device: torch.device) -> Path | None:
    folder, scheme = plan.value("cache_dir_quantised"), plan.value("base_model_precision")
    if folder == NONE:
        return None
    return store.place(
        Path(folder),
        weights.identity(plan.model.source, "transformer"),
        scheme,
        quant.TRANSFORMER,
        dtype=plan.value("base_model_default_dtype"),
        fp8=plan.value("fp8_dtype"),
        device=arithmetic(plan, device).type,
        torch=torch.__version__,
        **variant(plan),
    )


def shrink(
    module: Any, scheme: str, which: quant.Patterns, plan: Plan, device: torch.device
) -> None:
    """Quantises in place, and says what it saved."""
    if scheme == "no_change":
        return
    place = arithmetic(plan, device)
    made = quant.apply(module, scheme, which=which, fp8=plan.value("fp8_dtype"), device=place)
    used = backends.module(plan.facts.vendor).used_bytes(plan.device.index)
    on_device = "" if used is None else f"; {gib(used)} of {plan.device.name} in use"
    say(
        f"quantised {scheme}: {gib(made.before)} -> {gib(made.after)} of weights "
        f"in {made.seconds:.1f} s{on_device}"
    )


def arithmetic(plan: Plan, device: torch.device) -> torch.device:
    """Where the layers are quantised, one at a time."""
    return device if plan.value("quantize_via") == "accelerator" else torch.device("cpu")


def variant(plan: Plan) -> dict[str, str]:
    """Which of a folder's files are meant, as from_pretrained takes it."""
    return {"variant": plan.config.variant} if plan.config.variant else {}
