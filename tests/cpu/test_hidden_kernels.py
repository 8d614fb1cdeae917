"""Flash kernels that PyTorch hides behind TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL on some RDNA
chips. Nobody has tried them with sd3tune on hardware; the CPU runs the same program."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from sd3tune.backends import rocm
from sd3tune.backends.decide import chips, limits
from sd3tune.backends.decide.admission import resting
from sd3tune.backends.decide.decisions import decide_all
from sd3tune.backends.decide.probes import probes
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.kernels import hidden
from sd3tune.backends.observe import child
from sd3tune.backends.observe.facts import Arch, Facts
from sd3tune.config.config import Config
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from tests import plans

SLOW = {"attention_hidden": "Wrong: dq is off by 3e-01 of its largest value"}


def chosen(facts: Facts) -> dict[str, str]:
    return {axis: d.value for axis, d in decide_all(facts, Request())[0].items()}


def rdna(gfx: str, **smoke: str) -> Facts:
    facts = chips.facts(chips.chip("rx9060xt"))
    device = replace(facts.weakest, arch=Arch("gfx", gfx))
    return replace(facts, devices=(device,), smoke=smoke)


@pytest.mark.parametrize("gfx", ["gfx1101", "gfx1102", "gfx1103", "gfx1151", "gfx1200", "gfx1030"])
def test_a_chip_whose_kernels_are_hidden_is_probed_before_they_are_used(gfx: str) -> None:
    decided = chosen(rdna(gfx))
    assert decided["hidden_kernels"] == "on" and "attention_hidden" in resting(decided)
    assert chosen(rdna(gfx, **SLOW))["hidden_kernels"] == "off"


@pytest.mark.parametrize("key", ["rx7900xtx", "rx9070xt", "mi300x", "rtx4090", "m3-max"])
def test_nothing_is_hidden_on_other_chips_and_nothing_probed(key: str) -> None:
    decided = chosen(chips.facts(chips.chip(key)))
    assert decided["hidden_kernels"] == "off" and "attention_hidden" not in resting(decided)


def test_without_the_kernels_the_plan_counts_every_score() -> None:
    def planned(facts: Facts) -> Plan:
        values: Any = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10,
                       "train_batch_size": 1, "attention_mechanism": "diffusers",
                       "gradient_checkpointing": True,
                       "gradient_checkpointing_keep": "inputs"}  # fmt: skip
        model = find(plans.MEDIUM)
        return resolve(RunInputs(Config(**values), facts, model, plans.samples()))

    flash, definition = planned(rdna("gfx1200")), planned(rdna("gfx1200", **SLOW))
    gained = definition.memory.estimate.activations - flash.memory.estimate.activations
    assert gained > 4 * 2**30, "449 million scores an image and layer, three times, in float32"
    assert not limits.writes_scores(rdna("gfx1100", **SLOW), "diffusers")


def test_prepare_sets_the_variable_only_where_the_plan_says_so_and_the_user_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # prepare sets it too
    monkeypatch.delenv(hidden.VARIABLE, raising=False)
    rocm.prepare(deterministic=False, hidden_kernels=False, tf32=True)
    assert hidden.VARIABLE not in os.environ
    rocm.prepare(deterministic=False, hidden_kernels=True, tf32=True)
    assert os.environ[hidden.VARIABLE] == "1"
    monkeypatch.setenv(hidden.VARIABLE, "0")
    rocm.prepare(deterministic=False, hidden_kernels=True, tf32=True)
    assert os.environ[hidden.VARIABLE] == "0"


def test_the_probe_compares_flash_with_the_definition_and_says_what_it_gains() -> None:
    words = hidden.flash(torch.device("cpu"), tokens=128)
    assert "=1 flash attention equals the definition; 128 tokens " in words
    assert words.endswith("times as fast"), "a CPU counts no peak of memory"


def test_the_probe_has_a_child_of_its_own_and_respects_what_the_user_has_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch reads the variable once in a process, at its first attention."""
    observer = probes()["attention_hidden"].observer
    assert [p.name for p in probes().values() if p.observer == observer] == ["attention_hidden"]
    monkeypatch.setenv(hidden.VARIABLE, "0")
    answer = child.ask(observer, ["cpu", "attention_hidden"], timeout_seconds=60)
    assert answer.data is not None and answer.data["attention_hidden"]["ok"] is False
    assert f"{hidden.VARIABLE}=0" in answer.data["attention_hidden"]["words"]
