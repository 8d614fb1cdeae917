"""Each preset fits the cards that it is for, as the planner reckons; and one that does not is
noticed."""

from typing import Any

import pytest

from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError, PlanError
from sd3tune.plan.plan import Plan
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.tables.presets import MEMORY, PRESETS, PURPOSES, RECIPES, Preset
from tests.plans import LARGE, plan

# No preset rests on weights and activations that travel in each pass: untested on hardware.
ON_DEVICE: dict[str, Any] = {"blocks_to_swap": 0, "gradient_checkpointing_backend": "torch"}


def planned(preset: Preset, model: str, chip: str, **more: Any) -> Plan:
    """Raises PlanError where it does not fit."""
    settings = {"max_train_steps": 1000} | preset.settings_for(model) | more
    side = settings.pop("resolution", 1024)
    return plan(chip, ARCHITECTURES[model].repository, side=side, resolution=side, **settings)


@pytest.mark.parametrize("preset", PRESETS.rows, ids=lambda p: p.name)
def test_a_preset_fits_its_cards(preset: Preset) -> None:
    """As it is, and with everything on the device; of what it sets, nothing is changed."""
    for model in preset.models:
        for chip in preset.chips:
            for more in ({}, ON_DEVICE):
                made = planned(preset, model, chip, **more)
                room = made.facts.tightest.room_bytes or 0
                assert made.memory.estimate.training <= room, (model, chip)
            images = preset.settings_for(model).get("train_batch_size")
            assert images is None or made.batch_size == images, (model, chip)


@pytest.mark.parametrize(
    "name, chip, lever", [("12gb", "rtx2060", "blocks_to_swap"), ("stable", "rtx3080", "split")]
)
def test_a_preset_on_a_card_that_is_too_small_for_it_says_what_makes_it_fit(
    name: str, chip: str, lever: str
) -> None:
    settings = {"max_train_steps": 1000} | PRESETS[name].settings_for("sd3.5-large")
    decision = getattr(plan(chip, LARGE, **settings).memory, lever)
    assert decision.value > 1 and decision.source.by == "auto" and " a step" in decision.reason
    off: dict[str, Any] = {**ON_DEVICE, "batch_split": 1}
    with pytest.raises((PlanError, ConfigError)):
        plan(chip, LARGE, **settings, **off)


def test_a_preset_is_refused_where_nothing_can_leave_the_device() -> None:
    with pytest.raises((PlanError, ConfigError)):
        planned(PRESETS["mac-32gb"], "sd3.5-large", "m1")


def test_the_presets_of_the_quickstart_have_its_values() -> None:
    """docs/guides/stability.md and the quickstart: what they print, typed again."""
    stable = PRESETS["stable"].settings_for("sd3.5-medium")
    assert stable["optimizer"] == "adamw_bf16" and stable["learning_rate"] == 1e-4
    assert stable["flow_schedule_shift"] == 1 and stable["max_grad_norm"] == 0.1
    assert stable["train_batch_size"] * stable["gradient_accumulation_steps"] == 12
    assert stable["base_model_precision"] == "int8-quanto"
    assert stable["validation_guidance_skip_layers"] == [7, 8, 9]
    lowest = PRESETS["lowest-vram"].settings_for("sd3.5-large")
    assert lowest["base_model_precision"] == "nf4-bnb"
    assert lowest["optimizer"] == "bnb-lion8bit-paged"
    assert (lowest["resolution"], lowest["train_batch_size"]) == (512, 1)


def test_a_card_of_8_gb_trains_the_large_model_at_1024_px() -> None:
    preset = PRESETS["8gb"].settings_for("sd3.5-large")
    assert preset["resolution"] == 1024 and "blocks_to_swap" not in preset
    made = planned(PRESETS["8gb"], "sd3.5-large", "rtx4060")
    has = made.facts.tightest.room_bytes or 0
    assert made.memory.estimate.training < 0.92 * has, "as much as fits, with room to spare"


def test_there_is_a_preset_for_every_size_of_memory_and_every_purpose() -> None:
    cards = [p.gib for p in MEMORY if "cuda" in p.on]
    assert cards == [8, 10, 12, 16, 24, 40, 80], "the smallest first"
    assert [p.gib for p in MEMORY if "mps" in p.on] == [16, 32, 64, 128]
    assert PRESETS["mi300x"].on == ("rocm",)
    assert [p.name for p in PURPOSES] == ["subject", "style", "concept", "full"]
    assert [p.name for p in RECIPES] == ["stable", "lowest-vram"]


def test_presets_set_settings_that_there_are_and_chips_that_there_are() -> None:
    for preset in PRESETS.rows:
        for settings in (preset.settings, *preset.of_model.values()):
            assert settings.keys() <= AllSettings.model_fields.keys(), preset.name
        assert preset.chips and set(preset.models) <= set(ARCHITECTURES), preset.name


def test_a_length_follows_from_the_images_within_the_limits_of_the_purpose() -> None:
    subject = PRESETS["subject"]
    assert [subject.steps(images) for images in (1, 8, 100)] == [500, 800, 2000]
