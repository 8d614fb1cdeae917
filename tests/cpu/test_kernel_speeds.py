"""Kernels by measurement: the probe on the CPU, and the choice that follows from its words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.decide import chips, kernel_speeds
from sd3tune.backends.decide.admission import Admitted, admit
from sd3tune.backends.decide.decisions import decide_all
from sd3tune.backends.decide.probes import ProbeAnswer
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.kernels import smoke
from sd3tune.backends.kernels.attention_speed import TimedKernel, measured
from sd3tune.backends.kernels.gradient_check import Wrong
from sd3tune.backends.kernels.recorded_activations import AttentionShape
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import Decision
from sd3tune.plan.kernel_shape import kernels_to_measure
from tests.plans import MEDIUM, plan

H100 = chips.facts(chips.chip("h100"))
CPU = torch.device("cpu")
SHAPE = (2, 2, 70, "fp32")


def chosen(
    times: Mapping[str, float],
    request: Request | None = None,
    wrong: Mapping[str, str] | None = None,
) -> Decision[str]:
    facts = replace(H100, attention_seconds=times, smoke=wrong or {})
    return decide_all(facts, request or Request())[0]["attention_mechanism"]


def test_the_fastest_kernel_is_taken_with_its_numbers() -> None:
    made = chosen({"diffusers": 3.1e-3, "native-flash": 3.12e-3, "cudnn": 2.2e-3})
    assert made.value == "cudnn" and made.source.by == "auto"
    assert "cudnn 2.2 ms, diffusers 3.1 ms, native-flash 3.12 ms" in made.reason


def test_less_than_five_percent_changes_nothing() -> None:
    made = chosen({"diffusers": 3.1e-3, "cudnn": 2.95e-3})
    assert made.value == "diffusers" and "cudnn 2.95 ms, diffusers 3.1 ms" in made.reason
    assert chosen({}).value == "diffusers" and " ms" not in chosen({}).reason


def test_a_kernel_that_the_gradient_check_refuses_is_not_taken_however_fast() -> None:
    times = {"diffusers": 3.1e-3, "native-flash": 2.5e-3, "cudnn": 2.2e-3}
    wrong = {"attention_cudnn": "Wrong: dq of image 2 and head 1 is off by 3e-01"}
    assert chosen(times, wrong=wrong).value == "native-flash"


def test_a_user_s_kernel_and_deterministic_runs_stay() -> None:
    times = {"diffusers": 3.1e-3, "cudnn": 2.2e-3}
    assert chosen(times, Request(attention_mechanism="native-flash")).value == "native-flash"
    assert chosen(times, Request(deterministic="on")).value == "diffusers"


def test_admission_measures_at_the_run_s_shape_and_checks_what_it_takes() -> None:
    """The fastest kernel fails its check, so the next one is taken."""
    asked: list[str] = []
    probe = kernel_speeds.probe_of(4, 24, 4327, "bf16")

    def run(facts: Facts, names: Sequence[str]) -> dict[str, ProbeAnswer]:
        asked.extend(names)
        words = {probe: "diffusers 3.1 ms, native-flash 2.5 ms, cudnn 2.2 ms"}
        return {
            n: ProbeAnswer(n != "attention_cudnn", words.get(n, "Wrong: dq is off")) for n in names
        }

    def decide(facts: Facts) -> dict[str, Decision[str]]:
        return decide_all(facts, Request())[0]

    made: Admitted[dict[str, Decision[str]]] = admit(
        H100, decide, lambda d: {axis: x.value for axis, x in d.items()}, run,
        measuring=lambda d: [probe],
    )  # fmt: skip
    assert made.decided["attention_mechanism"].value == "native-flash"
    assert (
        asked.index(probe) < asked.index("attention_cudnn") < asked.index("attention_native-flash")
    )
    assert probe not in made.facts.smoke, "its failure refuses nothing"


def test_a_plan_names_the_shape_where_there_is_a_choice() -> None:
    made = plan("h100", MEDIUM, train_batch_size=3, tokenizer_max_length=154)
    assert kernels_to_measure(made) == ["attention_speed:3x24x4327:bf16"]
    assert kernel_speeds.shape_of("attention_speed:3x24x4327:bf16") == (3, 24, 4327, "bf16")
    assert not kernels_to_measure(plan("h100", MEDIUM, attention_mechanism="cudnn"))
    assert not kernels_to_measure(plan("m3-max", MEDIUM)), "one fused kernel, or none"


def test_the_probe_measures_what_this_device_has() -> None:
    name = kernel_speeds.probe_of(*SHAPE)
    answer = smoke.run("cpu", [name])[name]
    assert answer["ok"]
    times = kernel_speeds.seconds_of(str(answer["words"]))
    assert set(times) == {"diffusers", "native-flash"}  # the CPU has no others
    assert all(0 < seconds < 1 for seconds in times.values())


def test_the_probe_leaves_out_a_kernel_that_is_wrong_at_the_run_s_shape() -> None:
    """As one that is right for few tokens alone would be."""

    def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = sdpa(q, k, v)
        return torch.cat([out[:, :1], 1.1 * out[:, 1:]], dim=1)  # one head of two

    with pytest.raises(Wrong, match="no kernel"):
        measured(CPU, SHAPE, ["diffusers"], wrong)
    words = measured(CPU, SHAPE, ["sliced", "native-math"], wrong)
    assert set(kernel_speeds.seconds_of(words)) == {"sliced"}


def test_answers_of_a_timed_kernel_are_those_of_attention() -> None:
    shape = AttentionShape(1, 2, 33)
    ours, theirs = (TimedKernel(n, shape, torch.float32, CPU) for n in ("sliced", "native-math"))
    for a, b in zip(ours.answers(), theirs.answers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
