"""What `sample` decides for machines that nobody has here: the plan's rules, and what fits."""

from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import recorded
from sd3tune.decision import AUTO, Decision
from sd3tune.drawing.prepared_drawing import admit_drawing
from sd3tune.errors import PlanError
from sd3tune.plan.drawing import DrawingAsked, DrawingPlan
from sd3tune.plan.drawing_words import asked_words, skip_words
from sd3tune.plan.encoding import CaptionPlan
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.plan.plan import ModelFiles
from sd3tune.sd3.models import find


def asked(model: str = "medium", side: int = 1024, **more: Any) -> DrawingAsked:
    found = find(f"stabilityai/stable-diffusion-3.5-{model}")
    values: dict[str, Any] = {
        "model": found,
        "files": ModelFiles(Decision(found.name, AUTO, ""), None, None),
        "captions": CaptionPlan(256, "unmodified", "empty_string", "empty_string", 1),
        "sizes": ((side, side),),
        "steps": 28,
        "guidance": 4.0,
        "shift": 3.0,
        "sampler": "euler",
        "skip": None,
        "negative_prompt": "",
    }
    return DrawingAsked(**(values | more))


def on(chip: str, **what: Any) -> DrawingPlan:
    return admit_drawing(asked(**what), chips.facts(chips.chip(chip)), recorded({}))


@pytest.mark.parametrize(
    "chip, model, base, quantised, swapped",
    [
        ("rtx4090", "medium", "bf16", "no_change", 0),
        ("rtx4090", "large", "bf16", "no_change", 0),
        ("rtx3060", "medium", "bf16", "no_change", 0),
        ("rtx3060", "large", "bf16", "int8-quanto", 0),  # 12 GB, less what the driver keeps
        ("t4", "large", "fp16", "no_change", 0),  # AdaLN weights live in host memory
        ("rtx2060", "large", "fp16", "nf4-bnb", 0),  # 6 GB
        ("m3-max-36gb", "large", "bf16", "no_change", 0),
        ("m2-24gb", "large", "bf16", "int8-quanto", 0),
        ("m2-16gb", "large", "bf16", "int4-quanto", 0),
        ("rx7900xtx", "large", "bf16", "no_change", 0),
    ],
)
def test_each_machine_draws_with_the_least_quantised_weights_that_fit(
    chip: str, model: str, base: str, quantised: str, swapped: int
) -> None:
    plan = on(chip, model=model)
    assert plan.precision.base.value == base
    assert plan.precision.transformer.value == quantised
    assert plan.memory.blocks_to_swap.value == swapped
    room = plan.facts.weakest.room_bytes
    assert room is not None and plan.memory.estimate.training <= room


def test_whole_weights_that_were_asked_for_live_in_host_memory_where_they_do_not_fit() -> None:
    plan = on("rtx3060", model="large", precision={"base_model_precision": "no_change"})
    swapped = plan.memory.blocks_to_swap
    assert plan.precision.transformer.value == "no_change" and 0 < swapped.value < 38
    assert "blocks 0 to" in swapped.reason and "untested on hardware" in swapped.reason


def test_adaln_weights_leave_a_card_only_where_they_do_not_fit_and_no_adapter_is_on_them() -> None:
    whole: dict[str, Any] = {"model": "large", "precision": {"base_model_precision": "int8-quanto"}}
    away = on("rtx3060", **whole).memory
    assert away.modulations.value == "streamed" and away.blocks_to_swap.value == 0
    assert "5.0 GiB of AdaLN weights" in away.modulations.reason
    assert on("rtx4090", **whole).memory.modulations.value == "device"
    adapted = on("rtx3060", adapted_modulations=True, **whole).memory
    assert adapted.modulations.value == "device" and adapted.blocks_to_swap.value > 0


def test_a_mac_gains_nothing_from_host_memory_and_refuses_what_does_not_fit() -> None:
    with pytest.raises(PlanError, match="`--quantise no_change` cannot run on Apple M2") as refused:
        on("m2-16gb", model="large", precision={"base_model_precision": "no_change"})
    assert "--quantise" in refused.value.hint


def test_a_machine_on_which_nothing_fits_is_refused_with_what_to_do() -> None:
    with pytest.raises(PlanError, match=r"no usable base_model_precision on Apple M1") as refused:
        on("m1-8gb", model="large")
    assert "--on-cpu" in refused.value.hint and "--size" in refused.value.hint


def test_pictures_are_decoded_at_the_end_where_the_vae_does_not_fit_beside() -> None:
    assert on("rtx4090", model="large").memory.vae.value == "beside"
    afterwards = on("t4", model="large").memory.vae
    assert afterwards.value == "afterwards" and "decoded at the end" in afterwards.reason


def test_text_encoders_run_on_the_cpu_where_they_do_not_fit() -> None:
    assert on("rtx2060").memory.offload.value == "text_encoders"
    assert on("rtx4090").memory.offload.value == "none"


def test_larger_pictures_need_more() -> None:
    small, large = (on("h100-sxm", side=side).memory for side in (512, 1536))
    assert large.estimate.activations > 7 * small.estimate.activations
    assert large.decoding - 168_000_000 > 8 * (small.decoding - 168_000_000)


def test_guidance_doubles_what_is_computed_at_once() -> None:
    with_, without = (on("h100-sxm", guidance=g).memory.estimate.activations for g in (4.0, 1.0))
    assert with_ == 2 * without


def test_a_picture_that_a_mac_computes_wrongly_is_drawn_in_slices() -> None:
    assert on("m3-max-128gb", side=1024, model="large").attention.training.value == "diffusers"
    assert on("m3-max-128gb", side=1280, model="large").attention.training.value == "sliced"


@pytest.mark.parametrize(
    "steps, words",
    [(28, "in steps 2 to 6 of 28"), (20, "in steps 2 to 4 of 20"), (4, "in none of 4 steps")],
)
def test_the_steps_with_skipped_blocks_are_said(steps: int, words: str) -> None:
    skip = SkipLayers((7, 8, 9), 2.8, 0.01, 0.2)
    assert words in skip_words(asked(steps=steps, skip=skip))


def test_a_negative_prompt_without_guidance_is_said_to_have_no_effect() -> None:
    lines = list(asked_words(asked(guidance=1.0, negative_prompt="blurry")))
    assert any("no effect" in line for line in lines)
    assert not any("no effect" in line for line in asked_words(asked(negative_prompt="blurry")))


def test_quantised_weights_of_a_run_are_read_only_where_nothing_is_added_to_them() -> None:
    own: dict[str, Any] = {"model": "large", "quantised_cache": Path("kept")}
    assert on("rtx3060", **own).memory.quantised_cache.value == Path("kept")
    assert on("rtx3060", merged=True, **own).memory.quantised_cache.value is None
