"""Whole runs with every lever of memory: the same numbers, files and pictures as without."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from sd3tune.train.outcome import Outcome
from tests.cpu.conftest import Train

pytestmark = pytest.mark.slow

RUN = (
    "max_train_steps=3", "lr_warmup_steps=0", "train_batch_size=2", "lora_dropout=0.1",
    "gradient_checkpointing=true", "checkpoint_step_interval=2", "eval_steps_interval=2",
    "num_eval_images=1", "validation_disable=false", "validation_num_inference_steps=2",
    "validation_resolution=64", "validation_step_interval=9",
    "validation_guidance_skip_layers_stop=0.9",
)  # fmt: skip
# Each promises the same bits.
LEVERS = {
    "modulations streamed": ("modulations=streamed",),
    "attention outputs kept": ("gradient_checkpointing_keep=attention",),
    "blocks swapped": ("blocks_to_swap=2",),
    "inputs on the host": ("gradient_checkpointing_backend=unsloth",),
    "every second block": ("gradient_checkpointing_interval=2",),
}
TOGETHER = tuple(word for name, words in LEVERS.items() for word in words if "every" not in name)
# What a run may have beside them.
RUNS = {
    "a plain run": (),
    "a moving average": ("use_ema=true", "ema_decay=0.5", "ema_validation=comparison"),
    "DoRA": ("use_dora=true",),
    "LyCORIS": ("lora_type=lycoris", "lycoris_config={lycoris}"),
    "two batches a step": ("gradient_accumulation_steps=2", "train_batch_size=1"),
    "regularisation images": ("data_backend_config={regularised}",),
    "rollouts": ("scheduled_sampling_max_step_offset=4", "scheduled_sampling_probability=0.7"),
    "rollouts without ReflexFlow": (
        "scheduled_sampling_max_step_offset=4", "scheduled_sampling_probability=0.7",
        "scheduled_sampling_reflexflow=false", "input_perturbation=0.1",
    ),
    "skipped layers": ("validation_guidance_skip_layers=[1]", "validation_guidance=1"),
    "skipped layers with guidance": ("validation_guidance_skip_layers=[1]",),
    "bf16": ("mixed_precision=bf16",),
    "a base in bf16": ("mixed_precision=bf16", "base_model_default_dtype=bf16"),
    "int8": ("base_model_precision=int8-quanto",),
    "int4 and bf16": ("base_model_precision=int4-quanto", "mixed_precision=bf16"),
    "nf4": ("base_model_precision=nf4-bnb",),
    "nf4 and bf16": ("base_model_precision=nf4-bnb", "mixed_precision=bf16"),
    "products in 8 bits": ("base_model_precision=int8-w8a8",),
    "products in fp8": ("base_model_precision=fp8-w8a8", "mixed_precision=bf16"),
    "sliced attention": ("attention_mechanism=sliced",),
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files that settings above name."""
    folder = tmp_path_factory.mktemp("settings")
    lycoris = folder / "lycoris.json"
    lycoris.write_text(json.dumps({"algo": "lokr", "linear_dim": 4, "linear_alpha": 4}))
    datasets = json.loads((demo / "config" / "multidatabackend.json").read_text())
    for dataset in datasets[:2]:
        for key in ("instance_data_dir", "cache_dir_vae"):
            dataset[key] = str(demo / dataset[key])
    datasets[2]["cache_dir"] = str(demo / datasets[2]["cache_dir"])
    datasets[1]["is_regularisation_data"] = True
    regularised = folder / "multidatabackend.json"
    regularised.write_text(json.dumps(datasets))
    return {"lycoris": lycoris, "regularised": regularised}


def files(output: Path) -> dict[str, Tensor]:
    """Every tensor of every file, and the pixels of every picture, by file and name."""
    found: dict[str, Tensor] = {}
    for path in sorted(output.rglob("*.safetensors")):
        found |= {f"{path.relative_to(output)} {k}": v for k, v in load_file(path).items()}
    for path in sorted(output.rglob("*.png")):
        with Image.open(path) as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        found[str(path.relative_to(output))] = pixels
    return found


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    """What metrics.jsonl says of each step, but for its time."""
    lines = (outcome.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def same_run(ours: Outcome, theirs: Outcome) -> None:
    assert rows(ours) == rows(theirs) and len(rows(ours)) == 3
    assert (ours.loss_before, ours.loss_after) == (theirs.loss_before, theirs.loss_after)
    mine, other = files(ours.output), files(theirs.output)
    assert mine.keys() == other.keys() and any(name.endswith(".png") for name in mine)
    assert not [name for name, value in other.items() if not torch.equal(mine[name], value)]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_every_lever_at_once_is_the_same_run(
    name: str, run: Train, tmp_path: Path, paths: Mapping[str, Path]
) -> None:
    words = (*RUN, *(word.format(**paths) for word in RUNS[name]))
    plain = run(*words, f"output_dir={tmp_path / 'plain'}", "modulations=device")
    small = run(*words, f"output_dir={tmp_path / 'small'}", *TOGETHER)
    same_run(small, plain)


@pytest.mark.parametrize("first, then", [((), TOGETHER), (TOGETHER, ())])
def test_a_run_may_be_resumed_with_other_levers(
    first: tuple[str, ...], then: tuple[str, ...], run: Train, tmp_path: Path
) -> None:
    """The same files as of the run that was never stopped."""
    words = (*RUN, "use_ema=true")
    whole = run(*words, f"output_dir={tmp_path / 'whole'}", *first)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", again / "checkpoint-2")
    shutil.copy(tmp_path / "whole" / "metrics.jsonl", again)
    resumed = run(*words, f"output_dir={again}", *then)
    assert rows(resumed) == rows(whole)
    assert (resumed.loss_before, resumed.loss_after) == (whole.loss_before, whole.loss_after)
    mine, other = files(again), files(tmp_path / "whole")
    assert len(mine) > 50 and mine.keys() <= other.keys()
    assert not [name for name, value in mine.items() if not torch.equal(other[name], value)]
