"""What doctor sees, tries and chooses on a card."""

import json
from typing import Any

import pytest

from tests.device.conftest import Demo


@pytest.fixture(scope="module")
def report(demo: Demo) -> dict[str, Any]:
    """`sd3tune doctor --deep --json`, with every probe that this device could need."""
    code, out, err = demo.command("doctor", "--deep", "--json")
    assert out, err
    document: dict[str, Any] = json.loads(out)
    assert document["can_train"] and code == 0, document["findings"]
    return document


def test_the_device_that_trains_is_the_card(report: dict[str, Any], demo: Demo) -> None:
    assert report["facts"]["vendor"] == demo.vendor
    assert report["facts"]["devices"][0]["name"]


def test_every_choice_was_computed_on_the_device_and_is_right(report: dict[str, Any]) -> None:
    """A probe compares with float64 on the CPU. One that fails may not be what is chosen."""
    results = report["facts"]["smoke"]
    assert results, "no probe ran"
    for axis, decision in report["decisions"].items():
        for kind in ("attention", "matmul", "linear", "optimizer"):
            result = results.get(f"{kind}_{decision['value']}", "ok")
            assert result == "ok" or not result, (axis, decision["value"], result)


@pytest.mark.needs("cuda", "rocm")
def test_what_the_chip_has_in_hardware_is_what_is_chosen(report: dict[str, Any]) -> None:
    """bf16 from compute capability 8.0 on, and on every AMD card that PyTorch supports."""
    arch = report["facts"]["devices"][0]["arch"]
    old = arch["family"] == "sm" and int(arch["name"].removeprefix("sm_")) < 80
    assert report["decisions"]["mixed_precision"]["value"] == ("fp16" if old else "bf16")


def test_plan_and_doctor_choose_the_same(report: dict[str, Any], demo: Demo) -> None:
    plan = demo.plan()["decisions"]
    for axis in ("mixed_precision", "attention_no_grad", "distributed_backend", "pin_memory"):
        if axis in plan and axis in report["decisions"]:
            assert plan[axis]["value"] == report["decisions"][axis]["value"], axis
