"""The table of options over the catalogue: the whole matrix, without any hardware."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.decisions import capabilities, decide, decide_all
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Facts
from sd3tune.doctor import hardware
from sd3tune.errors import ConfigError, PlanError

GOLDEN = Path(__file__).parents[1] / "golden" / "capabilities.json"
APPLE = [chip.key for chip in chips.CHIPS if chip.vendor == "mps"]


def on(key: str) -> Facts:
    return chips.facts(chips.chip(key))


def chosen(key: str, **asked: str) -> dict[str, str]:
    decisions, _ = decide_all(on(key), Request(**asked))  # type: ignore[arg-type]
    return {axis: d.value for axis, d in decisions.items()}


def refusal(key: str, **asked: str) -> PlanError:
    with pytest.raises(PlanError) as e:
        decide_all(on(key), Request(**asked))  # type: ignore[arg-type]
    return e.value


@pytest.mark.parametrize(
    "key, precision, base, scaler, fp8",
    [
        ("mi300x", "bf16", "bf16", "off", "float8_e4m3fnuz"),
        ("rx7900xtx", "bf16", "bf16", "off", "float8_e4m3fn"),
        ("h200", "bf16", "bf16", "off", "float8_e4m3fn"),
        ("rtx4090", "bf16", "bf16", "off", "float8_e4m3fn"),
        ("rtx3060", "bf16", "bf16", "off", "float8_e4m3fn"),
        ("t4", "fp16", "fp16", "on", "float8_e4m3fn"),
        ("v100", "fp16", "fp16", "on", "float8_e4m3fn"),
        ("m1", "no", "fp32", "off", "none"),
        ("m3-max", "no", "bf16", "off", "none"),
    ],
)
def test_precision_follows_the_chip(key, precision, base, scaler, fp8) -> None:  # type: ignore[no-untyped-def]
    got = chosen(key)
    assert got["mixed_precision"] == precision
    assert got["base_model_default_dtype"] == base
    assert got["trainable_dtype"] == "fp32"
    assert got["grad_scaler"] == scaler
    assert got["fp8_dtype"] == fp8
    assert got["pin_memory"] == ("off" if key.startswith("m1") or key == "m3-max" else "on")


@pytest.mark.parametrize(
    "key, backend", [("h200", "nccl"), ("t4", "nccl"), ("mi300x", "nccl"), ("m3-max", None)]
)
def test_one_process_has_no_collective_library_and_several_have_the_card_s(
    key: str, backend: str | None
) -> None:
    assert chosen(key)["distributed_backend"] == "none"
    if backend is None:
        with pytest.raises(PlanError, match="a Mac has one GPU"):
            decide_all(on(key), Request(processes=2))
        return
    assert decide_all(on(key), Request(processes=2))[0]["distributed_backend"].value == backend


@pytest.mark.parametrize(
    "key, level",
    [("h200", "native"), ("rtx4090", "native"), ("t4", "storage"), ("rtx3060", "storage"),
     ("rx7900xtx", "storage")],
)  # fmt: skip
def test_fp8_is_arithmetic_only_where_the_chip_has_it(key: str, level: str) -> None:
    assert capabilities(on(key))["fp8_dtype"]["float8_e4m3fn"] == (level, ())


@pytest.mark.parametrize("key", APPLE)
def test_on_every_apple_chip_mixed_precision_is_no_and_quantisation_integer(key: str) -> None:
    table = capabilities(on(key))
    usable = {n for n, (_, why) in table["base_model_precision"].items() if not why}
    assert chosen(key)["mixed_precision"] == "no"
    assert usable == {"no_change", "int8-quanto", "int4-quanto", "int2-quanto"}
    for asked in ("bf16", "fp16"):
        assert "Apple" in str(refusal(key, mixed_precision=asked))
    for asked in ("fp8-quanto", "nf4-bnb"):
        for axis in ("base_model_precision", "text_encoder_3_precision"):
            error = refusal(key, **{axis: asked})
            assert "int8-quanto, int4-quanto, int2-quanto" in error.hint
    for asked in ("bnb-adamw8bit", "bnb-lion8bit-paged"):
        assert "MPS" in str(refusal(key, optimizer=asked))


def test_bf16_on_a_chip_without_it_is_refused_with_what_works() -> None:
    error = refusal("t4", mixed_precision="bf16")
    assert "Tesla T4 is sm_75" in str(error) and "fp16" in error.hint
    assert "emulated on Apple M1" in str(refusal("m1", base_model_default_dtype="bf16"))


def test_adamw_bf16_needs_bf16_weights() -> None:
    assert chosen("rtx4090", optimizer="adamw_bf16")["trainable_dtype"] == "bf16"
    asked = {"optimizer": "adamw_bf16", "base_model_default_dtype": "fp32"}
    assert "base_model_default_dtype=bf16" in str(refusal("rtx4090", **asked))


def test_paged_state_is_unknown_on_rocm_and_unknown_is_off() -> None:
    assert "unverified" in str(refusal("mi300x", optimizer="bnb-lion8bit-paged"))
    assert chosen("mi300x", optimizer="bnb-lion8bit")["optimizer"] == "bnb-lion8bit"


@pytest.mark.parametrize(
    "key, version, works",
    [
        ("rtx4090", "2.2.0", True),
        ("rtx3090", "2.2.0", True),
        ("h200", "2.2.0", True),
        ("rtx5090", "2.2.0", True),
        ("rtx4090", "1.0.6", False),  # what the package index has
        ("rtx4090", None, False),
        ("b200", "2.2.0", False),  # sm_100 raises in its dispatch
        ("t4", "2.2.0", False),
        ("mi300x", "2.2.0", False),
        ("m3-max", "2.2.0", False),
    ],
)
def test_sageattention_only_where_it_runs_and_never_in_training(key, version, works) -> None:  # type: ignore[no-untyped-def]
    facts = on(key)
    if version:
        facts = replace(facts, packages={**facts.packages, "sageattention": version})
    decisions, _ = decide_all(facts, Request())
    assert (decisions["attention_no_grad"].value == "sageattention") is works
    assert decisions["attention_mechanism"].value == "diffusers"
    assert "sageattention" not in {o.name for o in AXES["attention_mechanism"]}


def test_sageattention_is_not_for_float32_runs() -> None:
    facts = on("rtx4090")
    facts = replace(facts, packages={**facts.packages, "sageattention": "2.2.0"})
    asked = Request(mixed_precision="no", attention_no_grad="sageattention")
    with pytest.raises(PlanError, match="fp16 and bf16 only"):
        decide_all(facts, asked)


def test_a_failed_probe_removes_its_option_and_says_so() -> None:
    facts = replace(on("h200"), smoke={"matmul_bf16": "Wrong: the product is off by 1e-1"})
    decisions, _ = decide_all(facts, Request())
    assert decisions["mixed_precision"].value == "fp16"
    (rejected,) = (r for r in decisions["mixed_precision"].rejected if r.name == "bf16")
    assert "off by 1e-1" in rejected.reasons[-1]


def test_an_attention_kernel_whose_gradients_differ_does_not_train() -> None:
    facts = replace(on("m3-max"), smoke={"attention_diffusers": "Wrong: dk is off by 3e-1"})
    assert decide("attention_mechanism", facts, Request()).value == "native-math"


def test_a_missing_package_is_a_reason_not_an_import_error() -> None:
    facts = replace(on("rtx4090"), packages={})
    with pytest.raises(PlanError, match="optimum-quanto is not installed"):
        decide_all(facts, Request(base_model_precision="int8-quanto"))


def test_what_is_too_big_moves_on_to_the_next_scheme() -> None:
    too_big = {"no_change": "needs 20 GiB", "int8-quanto": "needs 13 GiB"}
    decisions, _ = decide_all(
        on("rtx3060"), Request(), lambda axis, r: too_big if axis == "base_model_precision" else {}
    )
    assert decisions["base_model_precision"].value == "nf4-bnb"
    decisions, _ = decide_all(
        on("m1"), Request(), lambda axis, r: too_big if axis == "base_model_precision" else {}
    )
    assert decisions["base_model_precision"].value == "int4-quanto"


def test_the_capability_table_is_the_recorded_one(request: pytest.FixtureRequest) -> None:
    table = {
        key: {
            axis: {
                name: level if not why else f"{level}: {why[0]}" for name, (level, why) in o.items()
            }
            for axis, o in capabilities(on(key)).items()
        }
        for key in ("h200", "rtx4090", "rtx3060", "t4", "mi300x", "rx7900xtx", "m1", "m3-max")
    }
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(table, indent=1) + "\n")
    assert table == json.loads(GOLDEN.read_text())


@given(
    st.sampled_from(chips.keys()),
    st.fixed_dictionaries(
        {},
        optional={
            axis: st.sampled_from([o.name for o in AXES[axis]])
            for axis in ("mixed_precision", "base_model_default_dtype", "base_model_precision",
                         "optimizer", "attention_mechanism", "dynamo_backend")
        },
    ),
)  # fmt: skip
def test_what_is_asked_is_kept_or_refused_never_replaced(key: str, asked: dict[str, str]) -> None:
    try:
        decisions, _ = decide_all(on(key), Request(**asked))  # type: ignore[arg-type]
    except PlanError as e:
        assert e.hint and any(f"{axis}={value}" in str(e) for axis, value in asked.items())
        return
    for axis, value in asked.items():
        assert decisions[axis].value == value and decisions[axis].source.by == "user"
    for d in decisions.values():
        assert d.reason and all(r.reasons for r in d.rejected)


def test_names_are_forgiven_their_spelling_and_near_misses_are_named() -> None:
    for name in ("RTX 4090", "rtx-4090", "4090", "NVIDIA GeForce RTX 4090"):
        assert chips.chip(name).key == "rtx4090"
    assert chips.chip("M3 Max").key == "m3-max" and chips.chip("7900xtx").key == "rx7900xtx"
    with pytest.raises(ConfigError) as e:
        chips.chip("rtx4900")
    assert "rtx4090" in e.value.hint


MADE_UP = "x9|Made Up 9 RTX|sm_110|48|46068|1000|100|{}|madeup9 nine"


def test_a_chip_is_one_row() -> None:
    (chip,) = chips.read(MADE_UP.format("-"))
    assert (chip.key, chip.vendor, chip.memory_bytes) == ("x9", "cuda", 48 * 2**30)
    assert chip.also_called == ("madeup9", "nine") and chip.half_flops == 100e12
    assert capabilities(chips.facts(chip))["mixed_precision"]["bf16"] == ("native", ())
    assert chips.chip("H100 SXM").key == "h100" and chips.chip("a6000").key == "rtxa6000"


def test_a_mac_with_less_memory_is_written_behind_its_chip() -> None:
    chip = chips.chip("M4 Max 64GB")
    assert (chip.key, chip.memory_bytes) == ("m4-max-64gb", 64 * 2**30)
    for name in ("m4-max-256gb", "m9-max-64gb", "m4-max-1gb"):
        with pytest.raises(ConfigError):
            chips.chip(name)


def test_a_figure_is_ok_only_where_it_was_compared_with_a_page() -> None:
    def figures(seen: str) -> dict[str, str]:
        (chip,) = chips.read(MADE_UP.format(seen))
        found = {f.name: f for f in hardware.catalogued(chip) if f.name != "chip"}
        assert all((f.status == "skip") == ("unverified" in f.source) for f in found.values())
        return {name: f.status for name, f in found.items()}

    assert figures("rocm:mbr") == {"memory": "ok", "bandwidth": "ok", "rate": "ok"}
    assert figures("rocm:m") == {"memory": "ok", "bandwidth": "skip", "rate": "skip"}
    assert set(figures("-").values()) == {"skip"}


@pytest.mark.parametrize(
    "key, asked, why",
    [("rtx3060", "fp8-w8a8", "no tensor cores multiply fp8: needs sm_89 or newer"),
     ("mi250x", "fp8-w8a8", "known to work on gfx942, gfx950, gfx1200, gfx1201, not on gfx90a"),
     ("v100", "int8-w8a8", "no tensor cores multiply int8: needs sm_75 or newer"),
     ("m3-max", "int8-w8a8", "8-bit products are not tried on MPS")],
)  # fmt: skip
def test_products_in_8_bits_are_refused_where_no_unit_computes_them(
    key: str, asked: str, why: str
) -> None:
    with pytest.raises(PlanError, match=re.escape(why)):
        decide("base_model_precision", on(key), Request(base_model_precision=asked))


@pytest.mark.parametrize("asked", ["int8-w8a8", "fp8-w8a8"])
def test_products_in_8_bits_are_never_chosen_and_are_for_a_frozen_whole_transformer(
    asked: str,
) -> None:
    for machine in (on("h200"), on("mi300x"), on("rtx4090")):
        open_ = decide("base_model_precision", machine, Request(too_big={"no_change": "too big"}))
        assert open_.value == "int8-quanto"
        given = decide("base_model_precision", machine, Request(base_model_precision=asked))
        assert given.value == asked and "untested on hardware" in given.reason
    request = Request(base_model_precision=asked, sharded=True, processes=2)
    with pytest.raises(PlanError, match="cannot be split over processes"):
        decide("base_model_precision", on("h200"), request)
    with pytest.raises(PlanError, match=r"for the transformer: use (int8|fp8)-quanto"):
        decide("text_encoder_3_precision", on("h200"), Request(text_encoder_3_precision=asked))
