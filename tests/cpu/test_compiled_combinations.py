"""Compiled blocks beside what changes their weights, their attention or what they keep: gradients
are eager's, and blocks of a kind stay one graph."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sd3tune.adapters import lycoris
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan.arithmetic import CompileOptions
from sd3tune.sd3 import attention
from sd3tune.train.checkpointing import checkpoint_blocks, keep_in_blocks
from sd3tune.train.compiling import compile_blocks
from sd3tune.train.inputs_on_host import InputsOnHost
from tests.cpu.adapted import gradients, model_of, quantised
from tests.cpu.conftest import Train

pytestmark = [
    pytest.mark.slow,
    # PyTorch looks at the gradient of what it traces, and warns of it where it is not a leaf.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
CPU = torch.device("cpu")
KINDS = 2  # of the three blocks: with a second attention, and the last


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled(model: Any, keep: tuple[Any, ...] = ()) -> Any:
    compile_blocks(model, "aot_eager", CompileOptions(), keep)
    return model


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 0.0) -> None:
    """rtol: of the largest value of a tensor."""
    assert ours.keys() == theirs.keys() and len(ours) > 5
    for name, want in theirs.items():
        assert float((ours[name] - want).abs().max()) <= rtol * float(want.abs().max()), name


def graphs() -> int:
    assert not torch._dynamo.utils.counters["graph_break"]
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("scheme", ["int4-quanto", "int2-quanto", "fp8-quanto", "fp8-w8a8"])
def test_blocks_of_quantised_weights_are_compiled(scheme: str) -> None:
    agree(gradients(compiled(model_of(scheme))), gradients(model_of(scheme)), 1e-5)
    assert graphs() == KINDS


def test_blocks_with_lokr_are_compiled() -> None:
    def adapted() -> Any:
        model = quantised("no_change")
        lycoris.attach(model, Lycoris(algo="lokr", linear_dim=4, linear_alpha=4),
                       dtype=torch.float32, seed=1)  # fmt: skip
        return model.train()

    agree(gradients(compiled(adapted())), gradients(adapted()), 1e-5)
    assert graphs() == KINDS


def test_contiguous_inputs_of_attention() -> None:
    def attending() -> Any:
        model = model_of()
        model.set_attn_processor(attention.ContiguousJointAttention())
        return model

    agree(gradients(compiled(attending(), ("attention",) * 3)), gradients(attending()), 1e-5)
    assert graphs() == KINDS


def test_an_interval_and_inputs_on_the_host() -> None:
    """Checkpointing stays outside of blocks that keep their inputs."""
    ours, waiting = compiled(model_of()), compiled(model_of())
    checkpoint_blocks(ours, 2)
    keep_in_blocks(waiting, ["inputs"] * 3, InputsOnHost(CPU, pin=False))
    theirs = gradients(model_of())
    agree(gradients(ours), theirs)
    agree(gradients(waiting), theirs)


def test_blocks_that_keep_different_things() -> None:
    """The two kinds of those that keep attention are compiled by themselves."""
    keep = ("inputs", "attention", "everything")
    ours = compiled(model_of(), keep)
    keep_in_blocks(ours, ("inputs", "everything", "everything"))
    agree(gradients(ours), gradients(model_of()))
    assert graphs() == 3


def test_a_whole_run_with_an_average_pictures_and_rollouts_is_compiled(
    run: Train, tmp_path: Path
) -> None:
    """In bf16 autocast, where compiled code rounds in other places."""
    words = ("max_train_steps=4", "lr_warmup_steps=0", "use_ema=true", "ema_decay=0.5",
             "mixed_precision=bf16", "scheduled_sampling_max_step_offset=2",
             "scheduled_sampling_probability=0.5", "validation_disable=false",
             "validation_step_interval=2", "validation_num_inference_steps=2")  # fmt: skip
    names = ("no", "inductor")
    for name in names:
        run(*words, f"dynamo_backend={name}", f"output_dir={tmp_path / name}")
    eager, ours = (rows_of(tmp_path / name) for name in names)
    assert len(eager) == len(ours) == 4
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in eager], rel=5e-3)
    pictures = sorted((tmp_path / "no" / "validation_images").glob("step_*.png"))
    assert pictures
    for path in pictures:
        theirs = tmp_path / "inductor" / "validation_images" / path.name
        assert np.abs(pixels(path) - pixels(theirs)).mean() < 3  # of 255


def rows_of(output: Path) -> list[dict[str, Any]]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path)).astype(float)
