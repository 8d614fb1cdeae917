"""Runs over datasets of every kind, and what `dataset` and `cache` say of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune.data.order import Share
from sd3tune.dataset_inspection import draw_sheet, inspect
from sd3tune.errors import DataError
from sd3tune.train.run import train
from tests.commands import sd3tune
from tests.cpu.conftest import Project
from tests.image_folders import shown


@pytest.fixture
def everything(project: Project) -> Project:
    """Images with masks, regularisation images that come later, an evaluation set, and one that is
    never drawn."""
    for i in range(6):
        project.picture(f"{i}.png", i)
        project.picture(f"../masks/{i}.png", i).with_suffix(".txt").unlink()
        project.picture(f"../prior/{i}.png", 20 + i, (64, 64))
        project.picture(f"../eval/{i}.png", 40 + i)
        project.picture(f"../never/{i}.png", 60 + i)
    project.dataset |= {"conditioning_data": ["m"], "crop": True, "repeats": 1,
                        "crop_aspect": "closest", "crop_aspect_buckets": [1.0, 2.0]}  # fmt: skip
    base = {k: project.dataset[k] for k in ("resolution", "caption_strategy")}
    project.others += [
        {"id": "m", "dataset_type": "conditioning", "conditioning_type": "segmentation",
         "instance_data_dir": "masks"},
        {"id": "prior", "instance_data_dir": "prior", "is_regularization_data": True,
         "start_step": 2, "train_batch_size": 3, "text_embeds": "other", **base},
        {"id": "eval", "instance_data_dir": "eval", "dataset_type": "eval", **base},
        {"id": "never", "instance_data_dir": "never", "probability": 0, **base},
        {"id": "other", "dataset_type": "text_embeds", "cache_dir": "cache/other"},
    ]  # fmt: skip
    project.config |= {"max_train_steps": 6, "data_backend_sampling": "uniform"}
    return project


def test_a_run_over_datasets_of_every_kind(everything: Project) -> None:
    prepared = everything.prepare()
    assert {s.dataset for s in prepared.samples} == {"d", "prior"}
    assert {s.dataset for s in prepared.evals} == {"eval"}
    outcome = train(prepared, [])
    assert outcome.step == 6 and outcome.loss_after is not None
    assert len(everything.entries("vae")) == 12 and len(everything.entries("other")) == 7
    order = [b[2] for _, b in zip(range(6), prepared.schedule.batches_from(), strict=False)]
    assert {b[0].dataset for b in order[:2]} == {"d"}
    assert {len(b) for b in order} == {2, 3}
    again = train(everything.prepare("max_train_steps=8"), [])
    assert again.step == 8 and again.loss_before == outcome.loss_before


def test_the_order_after_a_resume_is_that_of_the_undisturbed_run(everything: Project) -> None:
    schedule = everything.prepare().schedule
    whole = [chosen for _, (_, _, chosen) in zip(range(30), schedule.batches_from(), strict=False)]
    for start in (1, 7, 19):
        rest = [chosen for _, (_, _, chosen) in zip(range(30 - start), schedule.batches_from(start),
                                                     strict=False)]  # fmt: skip
        assert rest == whole[start:]
    assert all(isinstance(s, Share) for s in schedule.shares)


@pytest.mark.slow
def test_new_crops_each_epoch_are_trained_on_and_resumed(project: Project) -> None:
    for i in range(4):
        project.picture(f"{i}.png", i, (200, 64))
    project.dataset |= {"crop": True, "vae_cache_clear_each_epoch": True}
    project.config |= {"max_train_steps": 5, "checkpoint_step_interval": 3}
    whole = train(project.prepare(), [])  # two steps an epoch
    project.config["output_dir"] = "again"
    train(project.prepare("max_train_steps=3"), [])
    resumed = train(project.prepare(), [])
    assert resumed.loss_after == pytest.approx(whole.loss_after, rel=1e-6)


def test_json_says_what_becomes_of_each_image(everything: Project) -> None:
    (everything.images / "bad.png").write_bytes(b"")
    Image.new("RGB", (4000, 3000)).save(everything.images / "big.png")
    (everything.images / "big.txt").write_text("one\ntwo\n")
    Image.new("RGB", (4000, 3000)).save(everything.root / "masks" / "big.png")
    everything.write()
    words = ("crop", "crop_aspect", "crop_aspect_buckets")
    for key in words:
        del everything.dataset[key]
    everything.dataset["resolution"] = 1024
    everything.write()
    answer = sd3tune("dataset", "config/config.json", "--json", cwd=everything.root)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    images: dict[str, Any] = {Path(i["path"]).name: i for i in document["images"]
                              if i["dataset"] == "d"}  # fmt: skip
    assert images["big.png"] == {
        "dataset": "d",
        "path": str(everything.images / "big.png"),
        "original_size": [4000, 3000],
        "resized_size": [1194, 896],
        "crop": [21, 0, 1152, 896],
        "bucket_size": [1152, 896],
        "aspect": 1.29,
        "captions": ["one", "two"],
        "mask": "big.png",
    }
    assert images["bad.png"]["rejected"] == "the file is empty"
    datasets = {d["id"]: d for d in document["datasets"]}
    assert set(datasets) == {"d", "prior", "eval"}
    assert datasets["d"]["rejected"] == 1 and datasets["d"]["images"] == 7
    assert sum(b["images"] for b in datasets["d"]["buckets"]) == 7
    assert any("never" in note for note in document["notes"])
    assert not (everything.root / "output").exists()


def test_the_words_and_the_sheet(everything: Project) -> None:
    everything.write()
    answer = sd3tune(
        "dataset", "config/config.json", "--sheet", "sheets/one.png", cwd=everything.root
    )
    assert answer.returncode == 0, answer.stderr
    for words in ("d (image): 6 images, 12 with repeats", "eval (eval)", "picture number 0"):
        assert words in answer.stdout
    assert shown(everything.root / "sheets" / "one.png").size[0] > 900
    bad = sd3tune("dataset", "config/config.json", "--sheet", "one.nothing", cwd=everything.root)
    assert bad.returncode == 1 and bad.stderr.splitlines()[-2].startswith("error: the contact")


@pytest.mark.slow
def test_caches_are_built_told_of_checked_and_pruned_by_command(everything: Project) -> None:
    config = str(everything.write())
    told = json.loads(sd3tune("cache", "info", config, "--json", cwd=everything.root).stdout)
    assert all(c["entries"] == 0 and c["missing"] == c["wanted"] for c in told["caches"])
    assert not (everything.root / "cache").exists()
    built = sd3tune("cache", "build", config, cwd=everything.root)
    assert built.returncode == 0 and "0 missing" in built.stdout, built.stderr
    told = json.loads(sd3tune("cache", "info", config, "--json", cwd=everything.root).stdout)
    assert all(c["missing"] == c["unused"] == 0 for c in told["caches"])
    captions = next(c for c in told["caches"] if c["kind"] == "captions")
    # padded to 77 + 154 tokens of 96 numbers, and 80 pooled ones, in float32
    assert captions["bytes_per_entry"] < (231 * 96 + 80) * 4 / 2
    (everything.images / "0.txt").write_text("other words")
    sd3tune("cache", "build", config, cwd=everything.root)
    counted = sd3tune("cache", "prune", config, "--dry-run", cwd=everything.root).stdout
    assert [line.split()[0] for line in counted.splitlines()].count("1") == 1
    assert " removed" in sd3tune("cache", "prune", config, cwd=everything.root).stdout
    checked = sd3tune("cache", "verify", "cache", "output", cwd=everything.root)
    assert checked.returncode == 0 and "0 files damaged" in checked.stdout
    shard = next((everything.root / "cache").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    checked = sd3tune("cache", "verify", "cache", cwd=everything.root)
    assert checked.returncode == 1 and str(shard) in checked.stdout.replace(
        "cache/", f"{everything.root}/cache/", 1)  # fmt: skip
    assert sd3tune("cache", "verify", "config", cwd=everything.root).returncode == 1


@pytest.mark.parametrize(
    "words, dataset, message, hint",
    [(("train_batch_size=4", "gradient_accumulation_steps=4"), {},
      "has 2 images x (repeats=0 + 1) = 2, one optimizer step takes train_batch_size=4 x "
      "gradient_accumulation_steps=4 = 16",
      "repeats=7 in the dataset, or train_batch_size=1 and gradient_accumulation_steps=2, or "),
     (("train_batch_size=1", "gradient_accumulation_steps=3"), {}, "steps=3 = 3",
      "repeats=1 in the dataset, or gradient_accumulation_steps=2, or "),
     (("train_batch_size=3",), {}, "train_batch_size=3 x", "or train_batch_size=2, or "),
     ((), {"train_batch_size": 3}, "takes train_batch_size=3 x gradient_accumulation_steps=1 = 3",
      "repeats=1"),
     (("vae_batch_size=3",), {}, "has 2 images, vae_batch_size=3 encodes more at a time",
      "vae_batch_size to 2 or less"),
     ((), {"vae_batch_size": 3}, "has 2 images, vae_batch_size=3", "2 or less")],
)  # fmt: skip
def test_a_dataset_that_is_too_small_is_refused_with_the_numbers(
    project: Project, words: tuple[str, ...], dataset: dict[str, int], message: str, hint: str
) -> None:
    for i in range(2):
        project.picture(f"{i}.png", i)
    project.dataset |= dataset
    with pytest.raises(DataError) as e:
        project.prepare(*words)
    assert message in str(e.value) and hint in e.value.hint


def test_oversubscription_repeats_what_is_too_small(project: Project) -> None:
    for i in range(2):
        project.picture(f"{i}.png", i)
    made = project.prepare("gradient_accumulation_steps=4", "allow_dataset_oversubscription=true")
    assert {s.repeats for s in made.samples} == {3} and made.schedule.length(0) == 4


def test_evaluation_sets_are_not_held_to_the_minimum(project: Project) -> None:
    for i in range(8):
        project.picture(f"{i}.png", i)
    project.picture("../eval/0.png", 9)
    project.others.append({"id": "e", "dataset_type": "eval", "instance_data_dir": "eval",
                           "resolution": 64})  # fmt: skip
    assert len(project.prepare("gradient_accumulation_steps=4").evals) == 1


def test_a_vae_batch_that_would_stop_a_run_is_told_of(project: Project) -> None:
    for i in range(3):
        project.picture(f"{i}.png", i)
    project.dataset["vae_batch_size"] = 4
    (seen,) = inspect(project.write(), [], decode=False).datasets
    assert any("has 3 images, vae_batch_size=4" in words for words in seen.problems)


def test_a_sheet_of_many_is_about_as_wide_as_high(project: Project) -> None:
    for i in range(100):
        project.picture(f"{i}.png", i, (64, 64))
    sheet = project.root / "sheet.png"
    draw_sheet(inspect(project.write(), [], decode=False), sheet, 100)
    width, height = shown(sheet).size
    assert 0.5 < width / height < 2
