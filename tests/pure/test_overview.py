"""What a plan amounts to: images, epochs, pictures, disk, downloads and host memory."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune.cli import overview_lines, words
from sd3tune.cli import plan as plan_command
from sd3tune.plan.memory import GIB
from sd3tune.plan.overview import Overview
from sd3tune.prepare import Prepared, prepare_run
from sd3tune.run_overview import overview_of
from tests.projects import IMAGES, TEXT, Project

Planned = Callable[..., Prepared]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Project(tmp_path)


@pytest.fixture
def planned(project: Project) -> Planned:
    def make(*overrides: str, chip: str = "rtx4090") -> Prepared:
        return prepare_run(Path("config/config.json"), overrides, chip)

    return make


def add_images(project: Project, folder: str, count: int, size: tuple[int, int]) -> None:
    for number in range(count):
        path = project.root / folder / f"{folder}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(path)


@pytest.mark.parametrize(
    "squares, words, again",
    [(1, ("train_batch_size=4",), 6), (8, ("train_batch_size=4",), 0),
     (3, ("train_batch_size=2", "gradient_accumulation_steps=2"), 1)],
    ids=["one image", "enough images", "accumulated"],
)  # fmt: skip
def test_images_that_come_again_in_a_step_are_counted(
    squares: int, words: tuple[str, ...], again: int, project: Project, planned: Planned
) -> None:
    add_images(project, "squares", squares, (512, 512))
    project.datasets(IMAGES | {"instance_data_dir": "squares", "repeats": 8 // squares - 1}, TEXT)
    seen = overview_of(planned(*words, "max_train_steps=20"))
    assert seen.repeated == again
    shown = "\n".join(map(str, overview_lines.data(seen, 20)))
    assert ("again in the same step" in shown) == bool(again)


def test_images_captions_buckets_and_epochs_are_counted(project: Project, planned: Planned) -> None:
    """11 wide images and 3 square ones, each drawn twice: 22 in 6 batches of 4, 6 in 2."""
    add_images(project, "photos", 10, (640, 480))
    add_images(project, "squares", 3, (512, 512))
    add_images(project, "control", 2, (512, 512))
    project.datasets(
        IMAGES | {"repeats": 1},
        IMAGES | {"id": "squares", "instance_data_dir": "squares", "repeats": 1,
                  "caption_strategy": "instanceprompt", "instance_prompt": "sks",
                  "is_regularisation_data": True},
        IMAGES | {"id": "control", "instance_data_dir": "control", "dataset_type": "eval"},
        TEXT,
    )  # fmt: skip
    seen = overview_of(planned("train_batch_size=4", "max_train_steps=20"))
    photos, squares, control = seen.datasets
    assert (photos.images, photos.drawn, photos.captions, photos.batches) == (11, 22, 11, 6)
    assert (squares.images, squares.drawn, squares.captions, squares.batches) == (3, 6, 1, 2)
    assert squares.kind == "regularisation" and control.kind == "eval" and control.batches == 0
    assert seen.images == 14 and seen.steps_per_epoch == 8 and seen.epochs == 2.5
    seen = overview_of(
        planned("train_batch_size=2", "max_train_steps=21", "gradient_accumulation_steps=2")
    )
    assert seen.steps_per_epoch == 7 and seen.epochs == 3


def test_pictures_are_counted_with_the_times_at_which_they_are_drawn(
    project: Project, planned: Planned
) -> None:
    project.write("prompts.json", json.dumps({"a": "a wall", "b": "a red wall"}))
    seen = overview_of(planned(
        "user_prompt_library=prompts.json", "validation_resolution=512x512,768x512",
        "num_validation_images=3", "max_train_steps=1000", "validation_step_interval=250",
    ))  # fmt: skip
    assert (seen.pictures.prompts, seen.pictures.at_once) == (3, 18)  # with the empty prompt
    assert seen.pictures.base_model
    assert seen.pictures.during == 3, "at 250, 500 and 750; step 1000 is the end"
    assert overview_of(planned("max_train_steps=1000")).pictures.at_once == 0


def test_disk_download_and_host_memory_of_sd35_medium(project: Project, planned: Planned) -> None:
    """A square of 1024 has 128 x 128 latent pixels of 32 values in 16 bits. A caption has 78
    vectors of 2048 values and 154 of 4096. The published files have 15.8 GB, T5's 9.5."""
    add_images(project, "photos", 1, (1024, 1024))
    project.empty_photos()
    seen = overview_of(planned("resolution=1024", "resolution_type=pixel", "max_train_steps=1200"))
    assert seen.disk.latents == pytest.approx(128 * 128 * 32 * 2, rel=0.01)
    # 70 % of 16 bits is what coding leaves of values that look random.
    assert seen.disk.captions == pytest.approx(2 * (78 * 2048 + 154 * 4096) * 2 * 0.7, rel=0.01)
    assert seen.disk.kept == 3, "at 500, 1000 and 1200"
    one = 7_274_496 * 4  # rank 16, in float32
    assert seen.disk.result == one and seen.disk.checkpoints == 3 * 4 * one
    assert seen.download_bytes == pytest.approx(15.8e9, rel=0.03)
    assert seen.host_bytes == pytest.approx(11.4 * GIB, rel=0.03), "text encoders in bf16, and 1"
    limited = overview_of(planned("checkpoints_total_limit=2", "max_train_steps=5000"))
    assert limited.disk.kept == 2


def test_parts_in_the_hub_s_cache_are_not_downloaded_again(
    project: Project, planned: Planned
) -> None:
    """T5 is there: 9.5 of 15.8 GB."""
    snapshot = "models--stabilityai--stable-diffusion-3.5-medium/snapshots/0123"
    project.write(f"hub/{snapshot}/text_encoder_3/model-1.safetensors", b"")
    assert overview_of(planned()).download_bytes == pytest.approx(6.3e9, rel=0.03)


def test_a_run_that_writes_more_than_is_free_or_needs_more_than_the_host_has_is_warned(
    planned: Planned,
) -> None:
    seen = overview_of(planned())
    assert seen.warnings == ()
    tight = changed(seen, free_bytes=10 * 2**20, host_available_bytes=8 * GIB)
    assert [w.split(",")[0] for w in tight.warnings] == [
        "this run may write 142 MiB",
        "this run may need 11.4 GiB of host memory",
    ]


def changed(seen: Overview, **values: Any) -> Overview:
    from dataclasses import replace

    return replace(seen, **values)


def test_json_has_what_the_terminal_shows(planned: Planned) -> None:
    ready = planned()
    document = json.loads(plan_command.document(ready))
    assert document["schema"] == 2
    assert document["data"]["datasets"][0]["images"] == 1 and document["data"]["epochs"] == 10
    assert document["disk"]["total_bytes"] == overview_of(ready).disk.total
    assert document["host_memory"]["available_bytes"] is None, "of a chip nobody knows the host"
    assert document["decisions"]["loss_type"]["value"] == "l2"
    assert {"flow_schedule_shift", "lr_scheduler", "validation_guidance", "t5_padding",
            "tokenizer_max_length", "max_grad_norm"} <= set(document["decisions"])  # fmt: skip


def test_the_reference_names_every_field_and_every_axis_of_the_document(planned: Planned) -> None:
    shown = json.loads(plan_command.document(planned(chip="h100"), 2.5))
    pages = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text()
    section = pages.split("## `sd3tune plan --json`")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)(?:\.<axis>|\[\])?`", section))
    for part in ("memory", "data", "pictures", "evaluation", "time", "cost", "disk", "host_memory"):
        assert shown[part].keys() <= named, part
    assert shown.keys() <= named
    (axes,) = re.findall(r"^Axes: `(.*?)`", pages, re.M | re.S)
    assert shown["decisions"].keys() <= set(axes.split())
    facts = {row for row in pages.splitlines() if row.startswith("| `facts` |")}
    assert all(f"`{name}`" in "".join(facts) for name in ("rates", "attention_seconds", "smoke"))


@pytest.mark.parametrize(
    "settings, said",
    [
        ([], "noise levels are logit-normal with scale 1, shifted by 3"),
        (["flow_schedule_auto_shift=true"], "shifted by the size of the image"),
        (["flow_use_uniform_schedule=true", "flow_schedule_shift=1"], "are uniform, not shifted"),
        (["flow_use_beta_schedule=true"], "follow Beta(2, 2), shifted by 3"),
        (["flow_cubic_schedule_weights=[1, 3, 2]"], "follow the weights 1, 3, 2"),
        (["flow_custom_timesteps=[250, 500]"], "the only noise levels are 0.25, 0.5, drawn evenly"),
        (["loss_type=huber", "huber_c=0.2"], "huber_c=0.2 (snr)"),
        (["lr_scheduler=cosine", "lr_warmup_steps=3"], "after 3 steps of warm-up, lr_end="),
        (["validation_guidance_skip_layers=[7, 8]"], "without blocks 7, 8, from 1% to 20%"),
        (["t5_padding=zero"], "embeddings of padding are zeros"),
    ],
)
def test_settings_of_loss_noise_schedule_and_guidance_are_said(
    settings: list[str], said: str, planned: Planned
) -> None:
    lines = [" ".join(x) if isinstance(x, tuple) else x
             for x in plan_command.lines(planned(*settings))]  # fmt: skip
    assert any(said in line for line in lines), lines


def test_no_line_of_a_plan_is_wider_than_80_columns(
    planned: Planned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long values too: a list of modules is broken after a comma."""
    targets = "to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out,net.0.proj,net.2"
    monkeypatch.setenv("COLUMNS", "80")
    words.show(plan_command.lines(planned(f"peft_lora_target_modules={targets}")))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert targets in "".join(line.strip() for line in lines)
