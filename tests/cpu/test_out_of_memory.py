"""Memory that runs out: named with the plan's numbers, and nothing is lost."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sd3tune import out_of_memory
from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.errors import HardwareError
from sd3tune.plan.plan import Plan
from sd3tune.prepare import prepare_run
from sd3tune.train import checkpoint
from tests.this_machine import prepared_here

# The third step asks the real allocator for more than this process may have.
CHILD = """
import resource, sys, torch
from pathlib import Path
from sd3tune import cli
from sd3tune.train import step

real = step.losses

def losses(trained, batch, recipe, number, *others):
    if number == 2:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**27
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.zeros(2**30)
    return real(trained, batch, recipe, number, *others)

step.losses = losses
cli.main()
"""


@pytest.mark.slow
def test_a_run_out_of_memory_says_what_it_needed_and_keeps_its_checkpoint(
    demo: Path, tmp_path: Path
) -> None:
    words = ["train", str(demo / "config" / "config.json"), f"output_dir={tmp_path}",
             "max_train_steps=4", "lr_warmup_steps=0", "validation_disable=true",
             "checkpoint_step_interval=2", "train_batch_size=2"]  # fmt: skip
    failed = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    error, hint = failed.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: out of memory in a step on 2 images of ")
    assert "the plan estimated" in error and "at batch size 2 with no_change weights" in error
    assert "batch_split=2 saves" in hint and "gradient_checkpointing=true saves" in hint
    assert "the same command continues" in hint
    found, passed = checkpoint.latest(tmp_path)
    assert found == tmp_path / "checkpoint-2" and not passed


@pytest.fixture(scope="module")
def plan(demo: Path) -> Plan:
    words = ("train_batch_size=2", "validation_disable=true")
    return prepared_here(demo / "config" / "config.json", *words).plan


ERRORS = (
    torch.OutOfMemoryError("x"),
    MemoryError(),
    RuntimeError("MPS backend out of memory (…)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
)


def test_every_allocator_is_understood_and_nothing_else(plan: Plan) -> None:
    for error in ERRORS:
        assert is_out_of_memory(error)
        with (
            pytest.raises(HardwareError, match="while encoding images"),
            out_of_memory.explained(plan),
            out_of_memory.during("a step on 2 images of 64x64"),
            out_of_memory.during("encoding images"),
        ):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory.explained(plan):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    "settings, advised",
    [
        (("train_batch_size=4", "gradient_checkpointing=false"),
         {"batch_split", "gradient_checkpointing", "modulations"}),
        (("train_batch_size=1", "gradient_checkpointing=true", "gradient_checkpointing_keep=inputs",
          "modulations=streamed"),
         {"base_model_precision", "gradient_checkpointing_backend"}),
    ],
)  # fmt: skip
def test_each_piece_of_advice_saves_what_it_says(
    demo: Path, settings: tuple[str, ...], advised: set[str]
) -> None:
    """Followed, the plan comes out smaller by just that; the largest saving is named first. 8-bit
    weights are advised where they save more than the copies of inputs that their layers keep."""
    config, words = demo / "config" / "config.json", (*settings, "lora_rank=4")
    plan = prepare_run(config, words, "rtx4090").plan
    advice = out_of_memory.savings(plan)
    assert [n for n, _ in advice] == sorted((n for n, _ in advice), reverse=True)
    named = [(n, what) for n, what in advice if "=" in what]
    assert {what.split("=")[0] for _, what in named} == advised
    for saved, what in named:
        others = (w for w in words if w.split("=")[0] != what.split("=")[0])
        changed = prepare_run(config, (*others, what), "rtx4090").plan
        assert plan.memory.estimate.training - changed.memory.estimate.training == saved, what


def test_the_parts_of_a_batch_that_should_fit_are_named(demo: Path) -> None:
    """A tenth less than what ran out of memory, where the plan had thought that it fits."""
    config = demo / "config" / "config.json"
    plan = prepare_run(config, ("train_batch_size=40", "allow_dataset_oversubscription=true"),
                       "rtx4090").plan  # fmt: skip
    told = out_of_memory.explain_out_of_memory(plan, "a step on 40 images of 128x128")
    batch = out_of_memory.smaller_batch(plan)
    parts = -(-40 // batch)
    assert told.hint.startswith(f"batch_split={parts} is the least that should fit; ")
    need = [prepare_run(config, (f"train_batch_size={size}", "allow_dataset_oversubscription=true"),
                        "rtx4090").plan.memory.estimate.training
            for size in (batch, batch + 1)]  # fmt: skip
    assert need[0] <= 0.9 * plan.memory.estimate.training < need[1]


def test_what_was_done_already_is_not_advised(demo: Path) -> None:
    words = ("base_model_precision=int2-quanto", "train_batch_size=1", "blocks_to_swap=3",
             "gradient_checkpointing=true")  # fmt: skip
    plan = prepare_run(demo / "config" / "config.json", words, "rtx4090").plan
    told = out_of_memory.explain_out_of_memory(plan, "a step on 1 image of 1024x1024")
    assert "with int2-quanto weights, NVIDIA GeForce RTX 4090 has 2" in str(told)
    advice = told.hint.split(". ")[0]
    assert "gradient_checkpointing_backend=unsloth" in advice
    assert not any(w in advice for w in ("precision", "batch", "swap", "checkpointing=true"))
