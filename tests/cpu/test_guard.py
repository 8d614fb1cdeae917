"""Bad numbers and spikes: what is done before the weights are touched, and who is named."""

import json
from dataclasses import replace

import pytest

from sd3tune.data.batch import Batch
from sd3tune.errors import Diverged
from sd3tune.plan.objective import LossPlan
from sd3tune.train.guard import LOWERED, Guard, rate_share
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState
from sd3tune.train.step import Taken, train_step
from tests.cpu.known import Known, batch, curved

RECIPE = Recipe(0, LossPlan(), autocast=None, attention="diffusers", max_grad_norm=0.0)
NAMES = {1: "photos/a.png", 2: "photos/b.png", 3: "photos/c.png"}


def guard(action: str) -> Guard:
    return Guard(action, 5.0, NAMES.__getitem__)  # type: ignore[arg-type]


def calm(state: TrainState, how: Guard, steps: int = 25) -> None:
    for _ in range(steps):
        state.optimizer.param_groups[0]["lr"] = 1e-4 * rate_share(state)
        train_step(state, [batch(1), batch(2)], RECIPE, how)


def spiking() -> list[Batch]:
    wild = batch(3)
    return [batch(1), replace(wild, latents=wild.latents * 30)]


def taken(state: TrainState, how: Guard) -> Taken:
    state.optimizer.param_groups[0]["lr"] = 1e-4 * rate_share(state)
    return train_step(state, spiking(), RECIPE, how)


def test_a_spike_is_skipped_and_the_data_goes_on() -> None:
    state = Known(curved).state()
    calm(state, guard("skip"))
    before = state.model.gain.item()
    found = taken(state, guard("skip"))
    assert found.spike == "skip" and state.model.gain.item() == before and state.step == 26
    calm(state, guard("skip"), 1)
    assert state.model.gain.item() != before and state.step == 27


def test_a_spike_halves_the_learning_rate_of_this_update_and_a_hundred_more() -> None:
    calmly, lowered = Known(curved).state(), Known(curved).state()
    for state, how in ((calmly, guard("none")), (lowered, guard("lower"))):
        calm(state, how)
    start = lowered.model.gain.item()
    assert taken(calmly, guard("none")).spike is None
    assert taken(lowered, guard("lower")).spike == "lower"
    whole, half = calmly.model.gain.item() - start, lowered.model.gain.item() - start
    assert half == pytest.approx(whole / 2, rel=1e-3)
    rates = []
    for _ in range(LOWERED + 1):
        calm(lowered, guard("lower"), 1)
        rates.append(lowered.optimizer.param_groups[0]["lr"])
    assert rates == [0.5e-4] * LOWERED + [1e-4]


def test_a_spike_within_the_lowered_stretch_begins_it_anew_and_halves_no_further() -> None:
    state = Known(curved).state()
    calm(state, guard("lower"))
    taken(state, guard("lower"))
    calm(state, guard("lower"), 9)
    taken(state, guard("lower"))
    assert state.optimizer.param_groups[0]["lr"] == 0.5e-4
    assert state.lowered_until == state.step + LOWERED


def test_a_spike_stops_the_run_before_the_weights_and_names_the_worst_images_first() -> None:
    state = Known(curved).state()
    calm(state, guard("stop"))
    before = state.model.gain.item()
    words = r"step 26: loss .* times the median of the last 25 on `photos/c.png`, `photos/a.png`"
    with pytest.raises(Diverged, match=words):
        taken(state, guard("stop"))
    assert state.model.gain.item() == before


def test_nothing_is_a_spike_before_twenty_losses_nor_below_the_factor() -> None:
    state = Known(curved).state()
    calm(state, guard("stop"), 19)
    taken(state, guard("stop"))
    calm(state, guard("stop"), 5)
    taken(state, replace(guard("stop"), factor=1e9))
    with pytest.raises(Diverged):
        taken(state, guard("stop"))


def test_a_lasting_change_is_followed() -> None:
    state = Known(curved).state()
    calm(state, guard("skip"), 20)
    found = [taken(state, guard("skip")).spike for _ in range(30)]
    assert found[0] == "skip" and found[-1] is None


def test_what_the_guard_remembers_survives_json_and_so_a_checkpoint() -> None:
    one, how = Known(curved).state(), guard("lower")
    calm(one, how)
    taken(one, how)
    two = Known(curved).state()
    two.model.load_state_dict(one.model.state_dict())
    two.step = one.step
    two.recent_losses = json.loads(json.dumps(one.recent_losses))
    two.lowered_until = json.loads(json.dumps(one.lowered_until))
    for state in (one, two):
        calm(state, how, 3)
        taken(state, how)
    assert one.model.gain.item() == two.model.gain.item()
    assert (one.recent_losses, one.lowered_until) == (two.recent_losses, two.lowered_until)


def test_bad_numbers_name_the_images_that_have_them() -> None:
    state, broken = Known(curved).state(), batch(2, 3)
    broken.latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"step 1: loss nan, gradient norm nan on `photos/c.png`$"):
        train_step(state, [batch(1), broken], RECIPE, guard("none"))
    assert state.model.gain.item() == 1


def test_a_gradient_alone_that_is_bad_names_the_whole_batch() -> None:
    net = Known(curved)
    net.gain.register_hook(lambda g: g * float("inf"))
    with pytest.raises(Diverged, match=r"gradient norm inf on `photos/a.png`, `photos/b.png`$"):
        train_step(net.state(), [batch(1), batch(2)], RECIPE, guard("none"))
    assert net.gain.item() == 1


def test_an_overflow_under_the_fp16_scaler_skips_the_update_and_halves_the_scale() -> None:
    net = Known(curved)
    state = net.state(scaled=True)
    hook = net.gain.register_hook(lambda g: g * float("inf"))
    train_step(state, [batch(1)], RECIPE, guard("none"))
    assert (net.gain.item(), state.scaler.get_scale(), state.step) == (1, 2**15, 1)
    hook.remove()
    train_step(state, [batch(1)], RECIPE, guard("none"))
    assert net.gain.item() != 1


def test_a_gradient_that_is_bad_at_every_scale_is_no_overflow() -> None:
    net = Known(curved)
    state = net.state(scaled=True)
    net.gain.register_hook(lambda g: g * float("nan"))
    with pytest.raises(Diverged, match=r"gradient norm nan on `photos/a\.png`"):
        for _ in range(40):
            train_step(state, [batch(1)], RECIPE, guard("none"))
    assert net.gain.item() == 1 and state.step == 17  # the scale began at 2^16


def test_a_skipped_spike_leaves_the_scaler_in_order() -> None:
    state = Known(curved).state(scaled=True)
    calm(state, guard("skip"))
    before = state.model.gain.item()
    assert taken(state, guard("skip")).spike == "skip"
    assert state.model.gain.item() == before
    calm(state, guard("skip"), 1)
    assert state.model.gain.item() != before


def test_images_are_named_by_their_paths(prepared) -> None:  # type: ignore[no-untyped-def]
    made = prepared("loss_spike_action=stop", "loss_spike_factor=7", "max_train_steps=2",
                    "lr_warmup_steps=0")  # fmt: skip
    found, sample = Guard.of(made.plan, made.samples), made.samples[0]
    assert (found.action, found.factor) == ("stop", 7.0)
    assert found.name(sample.id) == sample.path and sample.path.endswith((".png", ".jpg"))
