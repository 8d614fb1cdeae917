"""Decisions in a terminal: value, who chose it, why, and what was not possible instead. The same
lines in doctor, plan and train."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sd3tune.backends.decide.options import AXES

if TYPE_CHECKING:
    from sd3tune.cli.words import Line
    from sd3tune.decision import Decision

SHOWN = (  # what decides a run, in the order people ask
    "device",
    "model",
    "mixed_precision",
    "base_model_default_dtype",
    "base_model_precision",
    "trainable_dtype",
    "grad_scaler",
    "text_encoder_dtype",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
    "quantize_via",
    "vae_dtype",
    "vae",
    "hidden_kernels",
    "attention_mechanism",
    "attention_no_grad",
    "attention_inputs",
    "optimizer",
    "gradient_checkpointing",
    "gradient_checkpointing_interval",
    "gradient_checkpointing_backend",
    "gradient_checkpointing_keep",
    "blocks_to_swap",
    "modulations",
    "dynamo_backend",
    "pin_memory",
    "fp8_dtype",
    "offload",
    "distributed_backend",
    "deterministic",
    "train_batch_size",
    "batch_split",
    "gradient_accumulation_steps",
    "num_processes",
    "learning_rate",
    "lr_scheduler",
    "max_grad_norm",
    "max_train_steps",
    "loss_type",
    "flow_schedule_shift",
    "flow_schedule_auto_shift",
    "tokenizer_max_length",
    "t5_padding",
    "validation_guidance",
    "validation_preview",
    "report_to",
    "wandb_mode",
    "webhook_config",
    "push_to_hub",
    "validation_step_interval",
    "model_type",
    "lora_type",
    "peft_lora_target_modules",
)
SHOWN_WHEN_ON = ("hidden_kernels",)  # for other devices it is no choice
SHOWN_WHEN_SET = ("validation_preview", "webhook_config")  # only then they have a reason
NAMES = 32  # characters of the first column


def decision_lines(
    decisions: "Mapping[str, Decision[Any]]", capabilities: Mapping[str, Any] | None = None
) -> "list[Line]":
    """A line per choice; below it what would have been preferred, and what else works."""
    lines: list[Line] = []
    for axis in SHOWN:
        if axis not in decisions:
            continue
        d = decisions[axis]
        if axis in SHOWN_WHEN_ON and d.value == "off":
            continue
        if axis in SHOWN_WHEN_SET and not d.reason:
            continue
        lines.append((f"  {axis:<{NAMES}}{d.value:<16} {d.source.by:<7}", d.reason))
        names = [option.name for option in AXES.get(axis, ())]
        preferred = names[: names.index(d.value)] if d.value in names else []
        lines += [
            (" " * (NAMES + 1), f"not {r.name}: {r.reasons[0]}")
            for r in d.rejected
            if d.source.by != "user" and r.name in preferred
        ]
        usable = [n for n, (_, why) in (capabilities or {}).get(axis, {}).items() if not why]
        if len(usable) > 1:
            others = ", ".join(name for name in usable if name != d.value)
            lines.append((" " * (NAMES + 1), f"also usable: {others}"))
    return lines
