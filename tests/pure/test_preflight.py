"""What `plan` refuses before anything is encoded, from names, sizes and headers: folders in which
nothing can be written, and weights with which the run cannot begin."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune import preflight
from sd3tune.config.config import Config
from sd3tune.errors import CheckpointError, ConfigError, DataError, Sd3tuneError, answers
from sd3tune.filesystem import disk
from sd3tune.formats import earlier_weights, manifest
from sd3tune.formats.earlier_weights import TrainedLayers
from sd3tune.tables.optimizers import OPTIMIZERS
from tests import checkpoints, safetensors_files
from tests.nobody import as_nobody
from tests.plans import plan

LAYERS = {f"transformer_blocks.{i}.attn.{n}": (64, 64) for i in range(2) for n in ("to_q", "to_k")}
RUN = TrainedLayers("lora", 4 * 2 * 4 * 64, LAYERS, rank=4, optimizer="torch.AdamW")


def checkpoint(output: Path, run: TrainedLayers = RUN, step: int = 3, **state: Any) -> Path:
    """A checkpoint that this run wrote."""
    folder = checkpoints.folder(output, step, **state)
    safetensors_files.write(folder / manifest.TRAINED, run.shapes)
    checkpoints.seal(folder)
    return folder


OTHER: dict[str, tuple[TrainedLayers, str]] = {
    "another rank": (replace(RUN, rank=8), "lora_rank=4, this run has lora_rank=8"),
    "fewer layers": (replace(RUN, layers=dict(list(LAYERS.items())[:2])), "does not train"),
    "more layers": (replace(RUN, layers=LAYERS | {"proj_out": (64, 64)}), "does not hold"),
    "another model": (replace(RUN, layers=dict.fromkeys(LAYERS, (96, 64))), "shape [4, 64]"),
    "DoRA": (replace(RUN, dora=True), "lora_magnitude_vector"),
    "LyCORIS": (replace(RUN, kind="lycoris"), "kind lora, this run is of the kind lycoris"),
    "all weights": (replace(RUN, kind="full"), "kind lora, this run is of the kind full"),
    "another optimizer": (replace(RUN, optimizer="optimi.Lion"), "written by torch.AdamW"),
    "an average": (replace(RUN, average=True), "without a moving average"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(kind: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    earlier_weights.refuse_other_checkpoint(folder, RUN, steps=3)
    run, words = OTHER[kind]
    with pytest.raises(CheckpointError) as e:
        earlier_weights.refuse_other_checkpoint(folder, run, steps=3)
    assert words in str(e.value) and str(folder) in str(e.value)
    assert "resume_from_checkpoint=never" in e.value.hint


def test_a_checkpoint_beyond_the_end_of_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="at step 3, max_train_steps is 2"):
        earlier_weights.refuse_other_checkpoint(checkpoint(tmp_path), RUN, steps=2)


@pytest.mark.parametrize("name", [manifest.TRAINED, manifest.STATE])
def test_a_torn_checkpoint_that_is_named_is_refused_by_its_file(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / name).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=f"cannot be resumed.*{name}"):
        earlier_weights.refuse_other_checkpoint(folder, RUN, steps=3)


def test_plan_looks_at_the_checkpoint_that_the_run_continues(tmp_path: Path) -> None:
    made = plan("h100", output_dir=tmp_path, lora_rank=4, max_train_steps=10)
    run = preflight.trained_layers(made)
    preflight.refuse_other_weights(made)  # there is none
    for step, rank in ((3, 8), (5, 4)):
        checkpoint(tmp_path, replace(run, rank=rank), step, optimizer_class=run.optimizer)
    preflight.refuse_other_weights(made)  # the newest is of this run
    (tmp_path / "checkpoint-5" / manifest.TRAINED).unlink()
    with pytest.raises(CheckpointError, match="checkpoint-3` was trained with lora_rank=8"):
        preflight.refuse_other_weights(made)  # training passes over the newest
    again = plan("h100", output_dir=tmp_path, lora_rank=4, resume_from_checkpoint="never")
    preflight.refuse_other_weights(again)
    named = plan("h100", output_dir=tmp_path / "other", lora_rank=4,
                 resume_from_checkpoint=str(tmp_path / "checkpoint-3"))  # fmt: skip
    with pytest.raises(CheckpointError, match="lora_rank=8"):
        preflight.refuse_other_weights(named)


def test_an_adapter_of_other_layers_is_refused_from_its_header(tmp_path: Path) -> None:
    shapes = {f"transformer.{layer}.lora_{part}.weight": size for layer in LAYERS
              for part, size in (("A", (4, 64)), ("B", (64, 4)))}  # fmt: skip
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes)
    earlier_weights.refuse_other_layers(path, RUN)
    for run, words in (
        (
            replace(RUN, layers={"proj_out": (64, 64)}, linears=LAYERS),
            "is not among peft_lora_target_modules",
        ),
        (replace(RUN, layers={"proj_out": (64, 64)}), "this model has no layer"),
        (replace(RUN, layers=dict.fromkeys(LAYERS, (96, 64))), "64 to 64 features"),
        (replace(RUN, dora=True), "differs in use_dora"),
        (replace(RUN, kind="lycoris"), "is not a tensor of a LyCORIS network"),
    ):
        with pytest.raises(ConfigError, match=words):
            earlier_weights.refuse_other_layers(path, run)


def test_every_target_that_an_adapter_needs_is_named_at_once(tmp_path: Path) -> None:
    shapes = {f"transformer.{layer}.lora_{part}.weight": size for layer in LAYERS
              for part, size in (("A", (4, 64)), ("B", (64, 4)))}  # fmt: skip
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes)
    with pytest.raises(ConfigError) as e:
        earlier_weights.refuse_other_layers(path, replace(RUN, layers={}, linears=LAYERS))
    assert e.value.hint == "add attn.to_k, attn.to_q to them"


def test_a_whole_model_is_no_adapter_and_is_not_read(tmp_path: Path) -> None:
    """NaN is found in the weights of an adapter only: to read a model takes minutes."""
    path = safetensors_files.write(
        tmp_path / "model.safetensors", {"transformer_blocks.0.attn.to_q.weight": (8, 8)},
        {"proj_out.bias": float("nan")},
    )  # fmt: skip
    config = settings(tmp_path, init_lora=path)
    with pytest.raises(Sd3tuneError, match="is not an adapter of SD3's transformer"):
        preflight.refuse_missing_files(config)


def settings(folder: Path, **values: Any) -> Config:
    defaults = {"output_dir": folder / "out", "data_backend_config": "d", "max_train_steps": 1}
    return Config(**defaults | values)


def test_a_folder_that_cannot_be_written_is_known_without_writing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name, words in (("file", "is a file"), ("file/a/b", "a part of the path is a file"),
                        ("link", "is a file"), ("/proc/a", "the kernel keeps it")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"output_dir={tmp_path / name}` .*{words}"):
            preflight.refuse_closed_folders(settings(tmp_path, output_dir=tmp_path / name))
    preflight.refuse_closed_folders(settings(tmp_path, output_dir=tmp_path / "new" / "folder"))
    assert sorted(tmp_path.rglob("*")) == before


def test_permission_is_asked_of_the_folder_that_is_there(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)
    closed, open_to_all = tmp_path / "closed", tmp_path / "open"
    closed.mkdir()
    open_to_all.mkdir()
    closed.chmod(0o555)
    open_to_all.chmod(0o777)
    for folder, said in ((closed, "permission is denied"), (open_to_all, None)):
        why = as_nobody(lambda folder=folder: disk.unwritable(folder))  # type: ignore[misc]
        assert (why and why[0]) == said
        inside = as_nobody(lambda folder=folder: disk.unwritable(folder / "a" / "b"))  # type: ignore[misc]
        assert (inside and inside[0]) == (said and f"{said} in `{folder}`")


def test_all_that_is_wrong_is_said_at_once() -> None:
    def refuse(error: type[Sd3tuneError], *words: str) -> None:
        raise error.of([*map(problem, words)])

    def problem(words: str) -> Any:
        return DataError(words, hint="h").problems[0]

    with pytest.raises(DataError, match="alone"):
        answers(lambda: 1, lambda: refuse(DataError, "alone"))
    with pytest.raises(ConfigError) as e:
        answers(lambda: refuse(DataError, "a", "b"), lambda: refuse(ConfigError, "b", "c"))
    assert [p.message for p in e.value.problems] == ["a", "b", "c"]
    assert answers(lambda: 1, lambda: 2) == [1, 2]


def test_checkpoints_name_an_optimizer_as_the_table_does() -> None:
    assert OPTIMIZERS["adamw"].kind == "torch.AdamW"
    assert OPTIMIZERS["adamw_bf16"].kind == "sd3tune.AdamWBF16"
