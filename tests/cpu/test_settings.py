"""Settings whose effect is seen in files: pictures, averages, formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sd3tune.encode.caches import Caches
from sd3tune.errors import PlanError
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.train import determinism
from sd3tune.train.begin import begin
from tests.cpu.conftest import Project, Train
from tests.image_folders import shown

DRAWN = ("max_train_steps=1", "lr_warmup_steps=0", "train_batch_size=2", "validation_disable=false",
         "validation_resolution=64x64", "validation_num_inference_steps=2",
         "validation_prompt=a red cup", "learning_rate=1e-2")  # fmt: skip


def pictures(run: Train, *words: str) -> dict[str, np.ndarray]:
    outcome = run(*DRAWN, "resume_from_checkpoint=never", *words)
    return {f"{p.parent.name}/{p.name}": np.asarray(shown(p)) for p in outcome.pictures}


@pytest.mark.slow
def test_pictures_follow_their_seed_their_negative_prompt_and_their_number(run: Train) -> None:
    name = "validation_images/step_1_validation_0_64x64.png"
    plain, again = pictures(run), pictures(run)
    assert np.array_equal(plain[name], again[name])
    other = pictures(run, "validation_seed=7", "num_validation_images=2")
    assert len(other) == 2 * len(plain) and not np.array_equal(other[name], plain[name])
    second = other[name.replace("_0_", "_1_")]
    assert not np.array_equal(second, other[name])
    assert not np.array_equal(pictures(run, "validation_negative_prompt=blue")[name], plain[name])


@pytest.mark.parametrize(
    ("asked", "folders"),
    [
        pytest.param("none", {"validation_images"}, marks=pytest.mark.slow),
        pytest.param("ema_only", {"ema"}, marks=pytest.mark.slow),
        pytest.param("comparison", {"validation_images", "ema"}, marks=pytest.mark.slow),
    ],
)
def test_ema_validation_says_whose_pictures_are_drawn(
    asked: str, folders: set[str], run: Train
) -> None:
    found = pictures(run, "use_ema=true", f"ema_validation={asked}")
    assert {name.split("/")[0] for name in found} == folders


def test_the_average_is_made_as_its_settings_say(prepared: Any) -> None:
    words = ("use_ema=true", "ema_decay=0.5", "ema_warmup_steps=3", "ema_update_interval=2")
    state = begin(prepared("max_train_steps=4", "lr_warmup_steps=0", *words).plan, ALONE_ON_CPU)
    assert state.ema is not None and state.ema.interval == 2
    average = state.ema.average
    assert (average.decay, average.update_after_step) == (0.5, 3)


@pytest.mark.slow
def test_determinism_is_switched_on_for_the_process(run: Train) -> None:
    run("max_train_steps=1", "lr_warmup_steps=0", "train_batch_size=2", "deterministic=true")
    try:
        assert torch.are_deterministic_algorithms_enabled()
        # Where torch only warns, attention keeps kernels whose gradients differ from run to run.
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        refused = pytest.raises(PlanError, match=r"deterministic=true.*put_")
        with refused as error, determinism.explained():
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        assert "leave deterministic out" in error.value.hint
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_vaes_format_names_other_latents(prepared: Any) -> None:
    words = ("max_train_steps=1", "lr_warmup_steps=0")
    full = Caches.of(prepared(*words, "vae_dtype=fp32")).vae_identity
    assert Caches.of(prepared(*words, "vae_dtype=default")).vae_identity == full
    with pytest.raises(Exception, match="bf16"):  # this processor, or the plan's own rule
        prepared(*words, "vae_dtype=bf16")


def test_how_many_are_read_and_decoded_at_a_time_changes_no_latent(
    project: Project, tmp_path: Path
) -> None:
    for number in range(6):
        project.picture(f"{number}.png", number)
    project.build()
    first = sorted(p.name for p in (project.root / "cache" / "vae" / "shards").iterdir())
    project.dataset |= {"cache_dir_vae": "cache/other", "image_processing_batch_size": 1,
                        "read_batch_size": 1, "metadata_update_interval": 60}  # fmt: skip
    project.build()
    other = project.root / "cache" / "other" / "shards"
    assert sorted(p.name for p in other.iterdir()) == first
    for name in first:
        ours, theirs = other / name, project.root / "cache" / "vae" / "shards" / name
        assert ours.read_bytes() == theirs.read_bytes()
