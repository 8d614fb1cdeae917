"""A plan as plain data: `plan --json`, and what every checkpoint carries. docs/reference/json.md"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sd3tune import __version__
from sd3tune.backends.observe.facts import to_json
from sd3tune.decision import Decision
from sd3tune.plan.block_keeping import Keep, summary
from sd3tune.plan.objective_decisions import objective_decisions
from sd3tune.plan.overview import Overview
from sd3tune.plan.plan import Plan
from sd3tune.plan.reporting import ReportingPlan
from sd3tune.plan.run_time import RunTime
from sd3tune.plan.trainable import TrainedPlan

SCHEMA = 2
# Axis -> the word of the settings for "nothing of the kind"; `none` where it is not listed.
NOTHING = {"mixed_precision": "no", "dynamo_backend": "no"}


def decisions(plan: Plan) -> dict[str, Decision[Any]]:
    """Every choice by the name of its setting, with values as the user would write them."""
    typed = {
        **_of_machine(plan),
        **_of_run(plan),
        **objective_decisions(plan),
        **_of_trained(plan.trained),
    }
    return {axis: as_written(axis, d) for axis, d in typed.items()}


def decision(d: Decision[Any]) -> dict[str, Any]:
    """One decision as JSON. `file` and `key` are there when the user wrote the value, or wrote the
    setting that an automatic value follows from."""
    written = {"file": d.source.file, "key": d.source.key}
    return {
        "value": d.value,
        "source": d.source.by,
        **{name: value for name, value in written.items() if value is not None},
        "reason": d.reason,
        "rejected": [{"name": r.name, "reasons": list(r.reasons)} for r in d.rejected],
    }


def describe(plan: Plan) -> dict[str, Any]:
    """JSON-ready. Bytes are integers."""
    device, estimate = plan.facts.tightest, plan.memory.estimate
    amounts = {f"{name}_bytes": int(amount) for name, amount in asdict(estimate).items()}
    return {
        "schema": SCHEMA,
        "tool": "sd3tune plan",
        "version": __version__,
        "measured": plan.facts.origin == "measured",
        "decisions": {axis: decision(d) for axis, d in decisions(plan).items()},
        "memory": {
            **amounts,
            "training_bytes": estimate.training,
            "available_bytes": device.room_bytes,
            "estimated": ["activations_bytes", "workspace_bytes"],
        },
        "warnings": list(plan.warnings),
        "facts": to_json(plan.facts),
        "config": plan.config.to_json(),
    }


def describe_overview(seen: Overview) -> dict[str, Any]:
    """JSON-ready: what `plan --json` says beside `describe`."""
    disk, pictures = seen.disk, seen.pictures
    sizes = ("latents", "captions", "quantised", "checkpoints", "result", "total")
    return {
        "data": {
            "datasets": [asdict(d) for d in seen.datasets],
            "images": seen.images,
            "steps_per_epoch": seen.steps_per_epoch,
            "repeated_in_a_step": seen.repeated,
            "epochs": round(seen.epochs, 3),
        },
        "pictures": asdict(pictures),
        "evaluation": asdict(seen.evaluation),
        "time": None if seen.time is None else described_time(seen.time),
        "disk": {
            **{f"{name}_bytes": getattr(disk, name) for name in sizes},
            "checkpoints_kept": disk.kept,
            "free_bytes": seen.free_bytes,
        },
        "download_bytes": seen.download_bytes,
        "host_memory": {
            "needed_bytes": seen.host_bytes,
            "available_bytes": seen.host_available_bytes,
        },
    }


def described_time(time: RunTime) -> dict[str, Any]:
    """Seconds, with the relative error that must be expected."""
    return {
        "seconds_per_step": round(time.step.seconds, 4),
        "seconds": round(time.total.seconds, 1),
        "error": time.step.error,
        "stages": {name: round(seconds, 1) for name, seconds in time.stages.items()},
        "source": time.source,
    }


def _of_machine(plan: Plan) -> Mapping[str, Decision[Any]]:
    hardware, precision, attention = plan.hardware, plan.precision, plan.attention
    clip_l, clip_g, t5 = precision.text_encoders
    return {
        "device": hardware.torch_device,
        "model": plan.files.name,
        "mixed_precision": precision.autocast,
        "base_model_default_dtype": precision.base,
        "text_encoder_dtype": precision.text,
        "vae_dtype": precision.vae,
        "optimizer": plan.optimizer.name,
        "trainable_dtype": precision.trainable,
        "grad_scaler": precision.grad_scaler,
        "hidden_kernels": attention.hidden_kernels,
        "attention_mechanism": attention.training,
        "base_model_precision": precision.transformer,
        "text_encoder_1_precision": clip_l,
        "text_encoder_2_precision": clip_g,
        "text_encoder_3_precision": t5,
        "quantize_via": precision.quantize_via,
        "gradient_checkpointing_backend": plan.memory.checkpoint_backend,
        "attention_no_grad": attention.sampling,
        "attention_inputs": attention.inputs,
        "dynamo_backend": hardware.compiler,
        "pin_memory": hardware.pin_memory,
        "fp8_dtype": precision.fp8_dtype,
        "distributed_backend": plan.parallel.backend,
        "deterministic": hardware.deterministic,
    }


def _of_run(plan: Plan) -> Mapping[str, Decision[Any]]:
    return {
        "offload": plan.memory.offload,
        "gradient_checkpointing": plan.memory.checkpointing,
        "gradient_checkpointing_interval": plan.memory.interval,
        "gradient_checkpointing_keep": kept_in_words(plan.memory.keep),
        "batch_split": plan.memory.split,
        "blocks_to_swap": plan.memory.blocks_to_swap,
        "modulations": plan.memory.modulations,
        "cache_dir_quantised": plan.memory.quantised_cache,
        "train_batch_size": plan.data.batch_size,
        "gradient_accumulation_steps": plan.data.accumulation,
        "num_processes": plan.parallel.count,
        "learning_rate": plan.optimizer.peak_rate,
        "max_train_steps": plan.data.steps,
        "validation_preview": plan.previews.drawn,
        "webhook_config": plan.webhooks.receivers,
        **_of_reporting(plan.reporting),
        "push_to_hub": plan.publishing.push,
    }


def kept_in_words(keep: Decision[tuple[Keep, ...]]) -> Decision[str]:
    """The same decision with the blocks counted."""
    return Decision(summary(keep.value), keep.source, keep.reason, keep.rejected)


def _of_reporting(reporting: ReportingPlan) -> Mapping[str, Decision[Any]]:
    trackers: dict[str, Decision[Any]] = {"report_to": reporting.trackers}
    if reporting.wandb_mode is not None:
        trackers["wandb_mode"] = reporting.wandb_mode
    return trackers


def _of_trained(trained: TrainedPlan) -> Mapping[str, Decision[Any]]:
    if trained.lora is not None:
        return {"peft_lora_target_modules": trained.lora.targets}
    if trained.lycoris is not None:
        name = f"lycoris {trained.lycoris.algo}"
        return {"lora_type": Decision(name, trained.kind.source, trained.kind.reason)}
    return {"model_type": trained.kind}


def as_written(axis: str, d: Decision[Any]) -> Decision[Any]:
    """The same decision with the value as the user would write it."""
    value = d.value
    if value is None:
        value = NOTHING.get(axis, "none")
    elif isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, tuple):
        value = ",".join(value) or "none"
    elif isinstance(value, Path):
        value = str(value)
    return Decision(value, d.source, d.reason, d.rejected)
