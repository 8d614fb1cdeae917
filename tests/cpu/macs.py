"""Runs as a Mac would have them, on the CPU."""

from dataclasses import replace

from sd3tune.backends.decide import chips
from sd3tune.backends.observe.facts import Facts

SHORT = ("max_train_steps=6", "lr_warmup_steps=0", "lr_scheduler=constant",
         "base_model_precision=int8-quanto", "base_model_default_dtype=fp32")  # fmt: skip


def mac(chip: str) -> Facts:
    """A Mac in all that is decided, whose device is called `cpu`: the tensors must be somewhere."""
    facts = chips.facts(chips.chip(chip))
    return replace(facts, devices=(replace(facts.weakest, torch_device="cpu"),))
