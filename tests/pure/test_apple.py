"""Macs from recorded answers: what doctor finds, what a plan chooses and refuses there."""

import platform
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.decide import chips, limits
from sd3tune.backends.decide.decisions import capabilities
from sd3tune.backends.observe import mps_settings, this_machine
from sd3tune.backends.observe.facts import Facts
from sd3tune.backends.observe.torch_report import from_answer
from sd3tune.config.config import Config
from sd3tune.doctor import hardware, software
from sd3tune.doctor.finding import Finding
from sd3tune.errors import PlanError
from sd3tune.plan import products
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import GIB
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from tests.plans import LARGE, MEDIUM, plan, samples
from tests.recordings import facts_of, load, machine_of

Find = Callable[[str], dict[str, Finding]]


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Facts]:
    return lambda name: facts_of(name, tmp_path, monkeypatch)


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """What doctor says there before any program runs on the device."""

    def look(name: str) -> dict[str, Finding]:
        recorded = load(name)
        seen = machine_of(name, tmp_path, monkeypatch)
        torch = from_answer(recorded["torch"])
        known = this_machine.join(
            seen, torch, recorded["packages"], recorded.get("tools", {}), recorded["environ"]
        )
        found = [*software.host(seen.host), *hardware.torch(torch, known, device=True)]
        return {f.id: f for f in [*found, *hardware.accelerators(seen, known)]}

    return look


MACS = [
    "m1", "m3-max", "m1-old-macos", "rosetta", "m3-max-watermark", "m4-no-limit", "m2-wired-limit",
    "m4-no-metal", "m1-macos-13", "rosetta-conda", "intel-mac",
]  # fmt: skip


@pytest.mark.parametrize("name", MACS)
def test_every_complaint_about_a_mac_has_a_fix(name: str, findings: Find) -> None:
    for finding in findings(name).values():
        assert (finding.status in ("warn", "FAIL")) == bool(finding.fix), finding


@pytest.mark.parametrize(
    "name, id, status, words, fix",
    [
        ("m1-old-macos", "mps.macos-too-old", "FAIL", "before macOS 15, this is 14.5", "<2.15"),
        ("m1-macos-13", "mps.macos-too-old", "FAIL", "before macOS 14, this is 13.7.8", "update"),
        ("rosetta", "host.rosetta", "FAIL", "under Rosetta", "brew install python"),
        ("rosetta", "mps.rosetta", "FAIL", "under Rosetta", "uv python install 3.12"),
        ("rosetta-conda", "mps.rosetta", "FAIL", "under Rosetta", "CONDA_SUBDIR=osx-arm64"),
        ("intel-mac", "host.intel-mac", "FAIL", "no wheels for Intel Macs since 2.3", "Apple chip"),
        ("m4-no-metal", "mps.unavailable", "FAIL", "no Metal device", "Terminal"),
        ("m4-no-limit", "mps.watermark", "warn", "lifts the memory limit", "unset PYTORCH_MPS_HI"),
        ("m4-no-limit", "mps.fallback", "ok", "runs on the CPU, slowly", ""),
        ("m3-max-watermark", "mps.watermark-low", "FAIL", "1.4 by default", "=0.7"),
        ("m3-max-watermark", "mps.setting", "ok", "HIGH_WATERMARK_RATIO=0.7", ""),
        ("m2-wired-limit", "mps.wired-limit", "warn", "leaves macOS 2.0 GiB", "wired_limit_mb=0"),
        ("m2-wired-limit", "mps.command-line-tools", "ok", "xcode-select --install", ""),
        ("m3-max", "device.usable", "ok", "96.0 of 128.0 GiB", ""),
        ("m3-max", "mps.device", "ok", "Apple M3 Max, m3-max, 128.0 GiB, 40 GPU cores", ""),
        ("m3-max", "host.os", "ok", "Darwin 15.3 on arm64", ""),
        ("m3-max", "device.untested", "warn", "untested", "doctor --report"),
    ],
)
def test_doctor_on_a_mac(
    name: str, id: str, status: str, words: str, fix: str, findings: Find
) -> None:
    found = findings(name)[id]
    assert found.status == status and words in found.fact and fix in found.fix, found


def test_a_healthy_mac_is_told_nothing_but_that_nobody_has_tried_it(findings: Find) -> None:
    told = [f.id for f in findings("m3-max").values() if f.status in ("warn", "FAIL")]
    assert told == ["device.untested"]


def test_what_a_run_may_fill_is_said_by_torch_then_by_sysctl_then_guessed(
    facts: Callable[[str], Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usable(name: str, torch: bool) -> tuple[float, str | None]:
        recorded = load(name)
        seen = machine_of(name, tmp_path, monkeypatch)
        report = from_answer(recorded["torch"])
        if not torch:
            report = replace(report, imported=False, mps_recommended_bytes=None)
        device = this_machine.join(seen, report, {}, {}, recorded["environ"]).weakest
        return round((device.usable_bytes or 0) / GIB, 1), device.usable_source

    assert usable("m3-max", True) == (96.0, "torch.mps.recommended_max_memory")
    assert usable("m2-wired-limit", False) == (22.0, "sysctl iogpu.wired_limit_mb")
    amount, source = usable("m3-max", False)
    assert amount == 96.0 and source is not None and source.startswith("a guess")
    amount, source = usable("m3-max-watermark", True)
    assert amount == round(96 * 0.7, 1) and source is not None and "HIGH_WATERMARK" in source


@pytest.mark.parametrize(
    "high, low, problems",
    [
        (None, None, {}),
        ("1.5", None, {}),
        ("0.9", "0.8", {}),
        ("0.9", None, {"mps.watermark-low": "fail"}),
        ("1.0", "1.2", {"mps.watermark-low": "fail"}),
        (None, "1.9", {"mps.watermark-low": "fail"}),
        (None, "-1", {"mps.watermark-low": "fail"}),
        ("2.5", None, {"mps.watermark": "fail"}),
        ("-0.1", None, {"mps.watermark": "fail"}),
        ("nan", None, {"mps.watermark": "fail"}),
        ("0.0", None, {"mps.watermark": "warn"}),
        ("0", "1.9", {"mps.watermark": "warn"}),
        ("most", None, {"mps.watermark-no-number": "warn", "mps.watermark": "warn"}),
        ("1.5x", None, {"mps.watermark-no-number": "warn"}),
    ],
)
def test_watermarks_are_judged_as_the_allocator_does(
    high: str | None, low: str | None, problems: dict[str, str]
) -> None:
    environ = {k: v for k, v in ((mps_settings.HIGH, high), (mps_settings.LOW, low)) if v}
    found = list(mps_settings.problems(environ))
    assert {p.id: p.severity for p in found} == problems
    for p in found:
        name, _, value = p.fix.removeprefix("export ").partition("=")
        fixed = environ | {name: value} if value else dict(environ)
        if p.fix.startswith("unset "):
            fixed.pop(p.fix.removeprefix("unset "), None)
        left = {q.id for q in mps_settings.problems(fixed)}
        assert p.id not in left, "the fix that can be pasted helps"


@pytest.mark.parametrize("answer, there", [("echo /Library/Developer/CommandLineTools", True),
                                           ("exit 2", False)])  # fmt: skip
def test_a_compiler_that_only_offers_to_be_installed_is_none(
    answer: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, body in (("xcode-select", answer), ("c++", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    assert this_machine.tools()["c++"] is there


def test_levels_that_are_compiled_need_xcode_s_tools_and_int8_does_not(
    facts: Callable[[str], Facts],
) -> None:
    table = capabilities(facts("m2-wired-limit"))["base_model_precision"]
    for name in ("int4-quanto", "int2-quanto"):
        level, why = table[name]
        assert level == "needs_build" and "xcode-select --install" in why[0]
    assert not table["int8-quanto"][1]


def on_mac(name: str, facts: Callable[[str], Facts], model: str, **settings: Any) -> Plan:
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    return resolve(RunInputs(Config(**values), facts(name), find(model), samples()))


def test_a_batch_of_sixteen_at_1024_pixels_is_refused_with_the_batch_that_is_right(
    facts: Callable[[str], Facts],
) -> None:
    with pytest.raises(PlanError, match=r"`train_batch_size=16` on Apple M3 Max") as e:
        on_mac("m3-max", facts, MEDIUM, train_batch_size=16, attention_mechanism="diffusers")
    assert "449,350,296 attention scores" in str(e.value) and "#197636" in str(e.value)
    assert "set train_batch_size=4 or less, and gradient_accumulation_steps=4" in e.value.hint
    assert "leave attention_mechanism out" in e.value.hint
    assert 24 * (64 * 64 + 77 + 154) ** 2 == 449_350_296


def test_a_batch_left_open_is_the_largest_that_is_right_and_says_why(
    facts: Callable[[str], Facts],
) -> None:
    made = on_mac("m3-max", facts, LARGE)
    assert made.batch_size == 3 < 2**31 // (38 * 4327**2) + 1
    why = made.data.batch_size.reason
    assert "not 4: an image makes 711,471,302 attention scores" in why
    assert plan("h200", LARGE).batch_size == 4


def test_other_vendors_and_smaller_images_have_no_limit_of_products() -> None:
    assert plan("h200", train_batch_size=16).batch_size == 16
    assert plan("m3-max", side=512, train_batch_size=16).batch_size == 16


@pytest.mark.parametrize("chip, most", [("m2-ultra", 31), ("m4-max", 56)])
def test_gradients_that_sum_too_many_tokens_are_refused_on_the_chips_that_sum_them_wrongly(
    chip: str, most: int
) -> None:
    model, facts = find(MEDIUM), chips.facts(chips.chip(chip))
    found = products.training(facts, model, 1024, 154, "diffusers")
    assert found.most == most
    slices = products.training(facts, model, 1024, 154, "sliced").most
    assert slices == (most if chip.startswith("m2") else products.UNLIMITED)
    assert ("M1 and M2" in found.why) == chip.startswith("m2")
    assert found.most == (32766 // 1024 if chip.startswith("m2") else (2**31 - 1) // (24 * 1255**2))


def test_the_vae_s_attention_is_limited_too() -> None:
    with pytest.raises(PlanError, match=r"`vae_batch_size=8` on Apple M3 Max") as e:
        plan("m3-max", vae_batch_size=8)
    assert e.value.hint == "set vae_batch_size=7 or less"
    with pytest.raises(PlanError, match=r"the VAE sums 36,864 terms") as e:
        plan("m1-ultra", side=1536, train_batch_size=1)
    assert e.value.hint == "lower the resolution: 1408x1408 is right"
    assert plan("m3-ultra", side=1536, vae_batch_size=1, train_batch_size=1).batch_size == 1


def test_pictures_that_would_be_wrong_are_refused_before_training() -> None:
    whole: dict[str, Any] = {"attention_mechanism": "diffusers"}
    with pytest.raises(PlanError, match=r"1280x1280, two at a time .* on Apple M3 Max") as e:
        plan("m3-max", LARGE, validation_resolution="1280x1280", validation_guidance=4.0, **whole)
    assert "leave attention_mechanism out" in e.value.hint
    plan("m3-max", LARGE, validation_resolution="1280x1280", validation_guidance=1.0)
    plan("h200", LARGE, validation_resolution="1280x1280", validation_guidance=4.0)


def test_memory_counts_the_scores_that_attention_writes_out() -> None:
    """SD3.5 medium, whose first blocks have a second attention over the image tokens. In the
    backward pass of the second one, the joint scores wait and three matrices of its own exist; or
    the joint attention has three, and the second one's are freed."""
    every: dict[str, Any] = {"train_batch_size": 1, "gradient_checkpointing": True,
                             "gradient_checkpointing_keep": "inputs"}  # fmt: skip

    def tensors(chip: str, **settings: Any) -> int:
        return plan(chip, **(every | settings)).memory.estimate.tensors

    joint, images = 4 * 24 * 4327**2, 4 * 24 * 4096**2
    fused = tensors("h200")
    written = tensors("h200", attention_mechanism="native-math") - fused
    assert joint + 3 * images > 3 * joint, "the second attention is the peak"
    # Without scores the peak is in the feed-forward layer, which is not alive in the attention:
    # 12 bytes a value are kept (norm, GELU) and 20 pass (sides of GELU, the stream, the norm).
    later = (12 + 20) * 4096 * 1536
    assert written == pytest.approx(joint + 3 * images - later, rel=0.005)
    assert tensors("m3-max", side=512) - tensors("h200", side=512) < written / 8
    # GiB, counted by counted/training_step.py (torch 2.13): the step of the model on fake tensors.
    assert fused / 2**30 == pytest.approx(5.522, rel=0.01)
    assert (fused + written) / 2**30 == pytest.approx(11.514, rel=0.01)
    assert tensors("m3-max") / 2**30 == pytest.approx(11.694, rel=0.01)
    slices = tensors("h200", attention_mechanism="sliced")
    assert slices / 2**30 == pytest.approx(5.685, rel=0.03) and slices > 5.685 * 2**30


@pytest.mark.parametrize(
    "chip, model, settings, attention, precision, why",
    [
        ("m3-max", MEDIUM, {}, "diffusers", "no_change", ""),
        ("m2", MEDIUM, {}, "diffusers", "no_change", ""),
        ("m2-16gb", MEDIUM, {}, "sliced", "no_change", "about 12.2 GiB at batch size 1, Apple M2"),
        # Float32 weights alone are 9.2 GiB, and the step was counted with 11.1 of 10.7 GiB.
        ("m1", MEDIUM, {}, "sliced", "int8-quanto", "with int8-quanto weights, Apple M1 has 10.7"),
        ("m4", LARGE, {}, "sliced", "no_change", "about 25.1 GiB at batch size 1"),
        ("m2", LARGE, {}, "sliced", "int8-quanto", "with int8-quanto weights, Apple M2"),
        ("m4", LARGE, {"base_model_precision": "int4-quanto"}, "diffusers", "int4-quanto", ""),
        ("m4", LARGE, {"attention_mechanism": "diffusers"}, "diffusers", "int8-quanto", ""),
        ("m3-max", MEDIUM, {"train_batch_size": 16}, "sliced", "no_change", "#197636"),
        ("m3-max", LARGE, {"validation_resolution": "1280x1280", "validation_guidance": 4.0},
         "sliced", "no_change", "1280x1280, two at a time"),
        ("h200", LARGE, {"train_batch_size": 16}, "diffusers", "no_change", ""),
    ],
)  # fmt: skip
def test_sliced_attention_is_chosen_where_all_scores_do_not_fit_or_are_too_many(
    chip: str, model: str, settings: dict[str, Any], attention: str, precision: str, why: str
) -> None:
    """Before weights are quantised for the scores' sake, and with the reason."""
    facts = chips.facts(chips.chip(chip))
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    made = resolve(RunInputs(Config(**values), facts, find(model), samples()))
    decision = made.attention.training
    assert (decision.value, made.precision.transformer.value) == (attention, precision)
    room = made.hardware.device.usable_bytes
    assert room and made.memory.estimate.training <= room
    rejected = {r.name: r.reasons[0] for r in decision.rejected}
    if attention == "sliced":
        assert why in rejected["diffusers"] and "untested on hardware" in decision.reason
    else:
        assert "diffusers" not in rejected


def test_where_whole_scores_are_asked_for_and_fit_nowhere_the_hint_names_slices() -> None:
    with pytest.raises(PlanError, match=r"needs about .* Apple M1 has") as e:
        plan("m1", attention_mechanism="diffusers")
    assert "attention_mechanism=sliced keeps no scores" in e.value.hint
    assert plan("m1", attention_mechanism="sliced").attention.training.value == "sliced"


def test_slices_that_failed_their_probe_here_are_not_chosen() -> None:
    facts = chips.facts(chips.chip("m4"))
    facts = replace(facts, smoke={"attention_sliced": "Wrong: dk is off by 3e-1"})
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10}
    made = resolve(RunInputs(Config(**values), facts, find(LARGE), samples()))
    assert made.attention.training.value == "diffusers"
    assert made.precision.transformer.value == "int8-quanto"
    ultra = replace(chips.facts(chips.chip("m3-ultra")), smoke=facts.smoke)
    with pytest.raises(PlanError, match=r"`train_batch_size=16` on Apple M3 Ultra"):
        too_many = Config(train_batch_size=16, **values)
        resolve(RunInputs(too_many, ultra, find(MEDIUM), samples()))


def test_scores_are_written_where_no_kernel_has_a_backward() -> None:
    for chip in chips.CHIPS:
        facts = chips.facts(chip)
        assert limits.writes_scores(facts, None) == (chip.vendor == "mps"), chip.key
        assert limits.writes_scores(facts, "native-math")
        assert not limits.writes_scores(facts, "sliced")


def test_a_mac_copies_query_key_and_value_and_says_which_faults_it_fears() -> None:
    decision = plan("m3-max").attention.inputs
    assert decision.value == "contiguous" and "#181133" in decision.rejected[0].reasons[0]
    assert plan("h200").attention.inputs.value == "views"


def test_every_limit_and_fault_names_an_issue_and_when_to_look_again() -> None:
    root = Path(limits.__file__).parent
    for name in ("limits.py", "attention_options.py"):
        text = (root / name).read_text()
        assert re.search(r"Look again (at torch \d\.\d+|when \S+#\d+)", text), name
    for limit in (limits.MPS_VALUES, limits.MPS_TERMS):
        assert re.search(r"pytorch/pytorch#\d{6}", limit.why)
