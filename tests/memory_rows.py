"""Peaks of memory that were counted and measured at full size."""

from typing import Any

from tests.plans import LARGE, MEDIUM

NF4 = {"lora_rank": 1, "base_model_precision": "nf4-bnb", "optimizer": "bnb-lion8bit-paged"}
KEEP = {"gradient_checkpointing": False, "gradient_checkpointing_keep": None}
# Model, side, settings -> GiB of tensors counted by counted/training_step.py (torch 2.13, diffusers
# 0.42, peft 0.21), and torch's peak of allocated memory measured on an H200. What was measured with
# nf4, 10.23 GiB, was with bitsandbytes' own layer, whose answers are float32: 10.13 were counted.
ROWS: list[tuple[str, int, dict[str, Any], float, float | None]] = [
    (MEDIUM, 1024, {"train_batch_size": 3, "lora_rank": 128, **KEEP}, 34.57, 34.67),
    (MEDIUM, 1024, {"train_batch_size": 3, "lora_rank": 128}, 7.77, 7.84),
    (MEDIUM, 1024, {"train_batch_size": 4}, 7.91, 7.99),
    (LARGE, 1024, {"train_batch_size": 4, "base_model_precision": "no_change"}, 20.92, 21.07),
    (LARGE, 1024, {"train_batch_size": 1, "base_model_precision": "int8-quanto"}, 11.89, 11.97),
    (LARGE, 1024, {"train_batch_size": 1, "base_model_precision": "int2-quanto"}, 8.33, 8.42),
    (LARGE, 1024, {"train_batch_size": 1, **NF4}, 9.27, None),
    (LARGE, 512, {"train_batch_size": 1, **NF4}, 8.26, None),
]
EVERY: dict[str, Any] = {
    "lora_rank": 16,
    "gradient_checkpointing": True,
    "gradient_checkpointing_keep": "inputs",
    "modulations": "device",
}
