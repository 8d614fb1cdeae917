"""What the owner of a Mac is told who copies the settings of somebody with another card."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune import devices
from sd3tune.backends.decide import chips
from sd3tune.backends.observe.facts import Facts, to_json
from sd3tune.config.config import Config
from sd3tune.errors import HardwareError, PlanError
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import GIB
from sd3tune.plan.resolve import resolve
from sd3tune.processes.environment import Processes
from sd3tune.sd3.models import find
from tests.plans import LARGE, MEDIUM, plan, samples
from tests.recordings import facts_of


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Facts]:
    return lambda name: facts_of(name, tmp_path, monkeypatch)


def mac(chip: str, gigabytes: int) -> Facts:
    """With less memory than the largest that is sold, of which Metal recommends two thirds."""
    facts, total = chips.facts(chips.chip(chip)), gigabytes * GIB
    device = replace(facts.weakest, total_bytes=total, usable_bytes=total * 2 // 3)
    return replace(facts, devices=(device,), ram_bytes=total)


def on(facts: Facts, model: str = MEDIUM, side: int = 512, **settings: Any):  # type: ignore[no-untyped-def]
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    return resolve(RunInputs(Config(**values), facts, find(model), samples(20, (side, side))))


@pytest.mark.parametrize(
    "settings, message, hint",
    [
        ({"attention_mechanism": "sageattention"}, "`attention_mechanism=sageattention` cannot",
         "usable here: diffusers, native-math, sliced; leave `attention_mechanism` out"),
        ({"optimizer": "ao-adamw8bit"}, "unverified on MPS; use adamw", "usable here: adamw,"),
        ({"optimizer": "bnb-lion8bit-paged"}, "for MPS yet; use optimi-lion", "usable here: adamw"),
        ({"base_model_precision": "nf4-bnb"}, "only integer quanto levels are used on Apple",
         "usable here: no_change, int8-quanto, int4-quanto, int2-quanto"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_setting_and_nothing_to_install_that_would_not_help(
    settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(PlanError) as e:
        plan("m2", side=512, **settings)
    assert message in str(e.value) and hint in e.value.hint
    assert "installed" not in str(e.value) and "attention_no_grad" not in e.value.hint


def test_several_processes_are_told_to_be_one() -> None:
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10}
    facts, two = chips.facts(chips.chip("m2")), Processes(size=2, local_size=2)
    with pytest.raises(PlanError, match="a Mac has one GPU") as e:
        resolve(RunInputs(Config(**values), facts, find(MEDIUM), samples(), processes=two))
    assert "leave out num_processes and --nproc" in e.value.hint


def test_fsdp_with_one_process_refuses_nothing_and_is_said_to_do_nothing() -> None:
    made = plan("m4", LARGE, side=512, base_model_precision="int8-quanto", fsdp_enable=True)
    assert made.precision.transformer.value == "int8-quanto"
    assert any("fsdp_enable=true changes nothing" in w for w in made.warnings)


def test_where_nothing_is_usable_the_hint_says_what_would_be() -> None:
    with pytest.raises(PlanError) as e:
        plan("m2", model_type="full", base_model_precision="int8-quanto")
    assert e.value.hint.startswith("leave `base_model_precision` out; train a smaller model")


def test_reasons_are_true_of_bf16_and_of_float32_weights() -> None:
    for chip in ("m1", "m3-max"):
        made = plan(chip, side=512, base_model_precision="int8-quanto")
        assert "float32" not in made.precision.autocast.reason
        assert "a byte a weight" in made.precision.transformer.reason


def test_captions_are_encoded_beside_macos_or_not_at_all() -> None:
    """The CPU has no other memory on a Mac, only more of the same."""
    small = on(mac("m2", 16))
    assert small.memory.offload.value == "text_encoders", (
        "10.9 of 16 GiB, of which the GPU may have 10.7"
    )
    assert small.memory.estimate.text_encoders + small.memory.estimate.workspace < 12 * GIB
    with pytest.raises(PlanError, match=r"the text encoders need about .* Apple M2 has 5") as e:
        on(mac("m2", 8))
    assert "text_encoder_1_precision" in e.value.hint
    assert "batch" not in e.value.hint and "resolution" not in e.value.hint
    assert "text_encoder_3_precision=int2-quanto fits when asked for" in e.value.hint
    made = on(mac("m2", 8), text_encoder_3_precision="int2-quanto")
    room = made.hardware.device.usable_bytes
    assert room and made.memory.estimate.text_encoders + made.memory.estimate.workspace < room


@pytest.mark.parametrize("name", ["rosetta", "m4-no-metal", "m1-old-macos", "m3-max-watermark"])
def test_a_plan_for_a_reported_mac_that_cannot_train_is_refused_as_there(
    name: str, facts: Callable[[str], Facts], tmp_path: Path
) -> None:
    there = facts(name)
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps({"facts": to_json(there)}))
    with pytest.raises(HardwareError) as e:
        devices.facts_of(str(sent))
    assert str(e.value) == next(p.message for p in there.problems if p.severity == "fail")


@pytest.mark.parametrize("name", ["rosetta", "rosetta-conda"])
def test_under_rosetta_one_problem_is_said_once_and_no_mps_is_promised(
    name: str, facts: Callable[[str], Facts]
) -> None:
    found = facts(name)
    assert [p.id for p in found.problems] == ["mps.rosetta"] and found.vendor == "cpu"


@pytest.mark.parametrize(
    "chip, model, side, settings, words",
    [
        ("m3", MEDIUM, 512, {"validation_resolution": "1536x1536", "validation_guidance": 4.0},
         "1536x1536, two at a time with validation_guidance=4, on"),
        ("m2", LARGE, 512, {"validation_resolution": "1472x1472", "validation_guidance": 4.0},
         "the VAE sums 33,856 terms"),
        ("m1-ultra", MEDIUM, 1536, {}, "images of 1536x1536"),
        ("m3-ultra", LARGE, 1536, {}, "images of 1536x1536"),
    ],
)  # fmt: skip
def test_a_size_that_is_too_large_is_refused_with_the_one_that_is_right(
    chip: str, model: str, side: int, settings: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {
        "train_batch_size": 1,
        "vae_batch_size": 1,
        "attention_mechanism": "diffusers",
    }
    with pytest.raises(PlanError) as e:
        plan(chip, model, side=side, **(given | settings))
    assert words in str(e.value)
    right = e.value.hint.removeprefix("lower the resolution: ").removesuffix(" is right")
    right = right.removesuffix("; or leave attention_mechanism out").removesuffix(" is right")
    less = int(right.split("x")[0])
    if settings:
        plan(chip, model, side=side, **(given | settings | {"validation_resolution": right}))
        worse = settings | {"validation_resolution": f"{less + 64}x{less + 64}"}
        with pytest.raises(PlanError):
            plan(chip, model, side=side, **(given | worse))
        return
    with pytest.raises(PlanError, match=r"computed|scores|sums|batch"):
        plan(chip, model, side=less + 64, **given)
    plan(chip, model, side=less, **given)
