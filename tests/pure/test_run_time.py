"""How long the stages of a run take."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import admit
from sd3tune.backends.decide.probes import RATES, ProbeAnswer
from sd3tune.backends.observe.facts import Facts
from sd3tune.plan.duration import clock
from sd3tune.plan.evaluation_count import EvaluationCount
from sd3tune.plan.run_time import Counted, RunTime, run_time
from tests.plans import LARGE, plan, samples

NOTHING = Counted(1, samples(1), EvaluationCount(0, True, None, None), 0, 0)


def times(model: str = LARGE, counted: Counted = NOTHING, **settings: Any) -> RunTime:
    made = run_time(plan("h200", model, train_batch_size=1, **settings), counted)
    assert made is not None
    return made


def test_each_stage_takes_its_share() -> None:
    """30.25 TFLOP a pass at 1024 px; a picture of 30 steps with guidance takes 60 of them."""
    alone = times().stages
    more = times(counted=replace(NOTHING, texts=101, samples=samples(10), pictures=2)).stages
    assert more["captions"] == pytest.approx(101 * alone["captions"])
    assert more["latents"] == pytest.approx(10 * alone["latents"])
    settings: dict[str, Any] = {"validation_num_inference_steps": 30, "validation_guidance": 4.0}
    guided = times(counted=replace(NOTHING, pictures=1), **settings).stages["pictures"]
    bare = times(counted=replace(NOTHING, pictures=1), **settings | {"validation_guidance": 1.0})
    assert guided == pytest.approx(2 * bare.stages["pictures"], rel=0.05)
    # The H200's own rates: 0.035 s of linear layers, 0.025 s of attention, memory on top.
    assert 60 * 0.06 < guided < 60 * 0.15


def test_steps_are_those_of_the_run_and_a_price_is_of_an_hour() -> None:
    settings: dict[str, Any] = {"dynamo_backend": "no"}  # which a long run would choose
    short, long_ = (times(max_train_steps=n, **settings) for n in (10, 1000))
    assert long_.stages["steps"] == pytest.approx(100 * short.stages["steps"])
    assert long_.total.seconds == pytest.approx(sum(long_.stages.values()))
    assert long_.cost(3.6) == pytest.approx(long_.total.seconds / 1000)


def test_evaluation_passes_are_counted_before_and_after() -> None:
    twenty = times(counted=replace(NOTHING, evaluation=EvaluationCount(20, True, None, None)))
    one = times(counted=replace(NOTHING, evaluation=EvaluationCount(1, True, None, None)))
    assert twenty.stages["evaluation"] == pytest.approx(20 * one.stages["evaluation"])
    assert one.stages["evaluation"] > 0


def test_a_probe_of_rates_that_fails_refuses_nothing_and_one_that_answers_is_a_fact() -> None:
    facts = chips.facts(chips.chip("h200"))
    words = "matmul 795 TFLOP/s, attention 280 TFLOP/s, memory 4000 GB/s, 4 us a kernel"

    def answering(answer: ProbeAnswer) -> Any:
        def run(_: Facts, names: Sequence[str]) -> dict[str, ProbeAnswer]:
            return {n: answer if n == RATES else ProbeAnswer(True, "ok") for n in names}

        return admit(facts, lambda f: f, lambda _: {}, run, informing=(RATES,)).facts

    measured = answering(ProbeAnswer(True, words))
    assert measured.rates["matmul"] == 795e12 and measured.rates["launch"] == 4e-6
    assert RATES not in measured.smoke
    broken = answering(ProbeAnswer(False, "Wrong"))
    assert broken.rates == {} and not broken.problems and RATES not in broken.smoke


@pytest.mark.parametrize(
    "seconds, words",
    [(0.033, "0.033 s"), (0.409, "0.41 s"), (42.4, "42 s"), (330, "5.5 min"), (1234, "21 min"),
     (12_240, "3.4 h"), (360_000, "100 h")],
)  # fmt: skip
def test_times_are_said_in_two_or_three_digits(seconds: float, words: str) -> None:
    assert clock(seconds) == words
