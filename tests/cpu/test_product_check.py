"""The certificate of 8-bit products, and the check of a layer during training."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd3tune import offload, quant
from sd3tune.adapters.lora import LoraAdapter
from sd3tune.backends.kernels.eight_bits import rounded
from sd3tune.errors import Diverged
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.quant import product_certificate, product_errors
from sd3tune.quant.product_certificate import Certificate
from sd3tune.quant.product_errors import ProductError
from sd3tune.quant.w8a8 import W8A8Linear
from sd3tune.sample import drawn_products
from sd3tune.sample.pipeline import Picture, Sampling
from sd3tune.train import checkpointing, product_check, product_choice
from sd3tune.train.evaluation import FixedImages
from sd3tune.train.loop import Chore
from sd3tune.train.product_check import certified
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState
from tests import plans
from tests.cpu.adapted import gradients, quantised, with_adapter
from tests.cpu.batches import batch

NAME = "transformer_blocks.1.ff.net.2"


def dice(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_errors_are_those_of_rounding_what_passes_and_not_the_weight() -> None:
    """Values that are codes already, times one scale for each row, lose nothing."""
    layer = W8A8Linear(rounded(dice(1, 32, 64), torch.int8), torch.zeros(64), None, torch.float32)
    whole = torch.randint(-127, 128, (40, 64), generator=torch.Generator().manual_seed(2)).float()
    whole[:, 0] = 127
    assert product_errors.forward_error(layer, whole * 0.37) < 1e-6
    odd = dice(3, 40, 64)
    odd[:, 5] = 500.0  # an outlier takes all the steps; its own product is exact
    with torch.no_grad():
        layer.codes[:, 5] = 0
    assert product_errors.forward_error(layer, dice(3, 40, 64)) == pytest.approx(0.006, rel=0.1)
    assert product_errors.forward_error(layer, odd) > 0.8
    assert product_errors.gradient_error(layer.rows, dice(4, 40, 32)) == pytest.approx(
        0.006, rel=0.2
    )
    assert product_errors.forward_error(layer, odd * float("nan")) == float("inf")


def test_the_cost_of_rounded_weights_is_known_for_the_inputs_that_come() -> None:
    """Also where one input is large and its weights are small, so that their steps are coarse."""
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(256, 128, bias=False)])
    weight = dice(1, 128, 256)
    weight[:, 9] *= 0.01
    block.transformer_blocks[0].weight.data = weight.clone()
    quant.apply(block, "int8-w8a8")
    layer, x = block.transformer_blocks[0], dice(2, 300, 256)
    assert isinstance(layer, W8A8Linear)
    for size in (1.0, 300.0):
        x[:, 9] = dice(3, 300) * size
        exact = x.double() @ weight.double().t()
        seen = (x.double() @ layer.rows.restored().double().t() - exact).norm() / exact.norm()
        assert product_errors.rounded_weight_error(layer, x) == pytest.approx(float(seen), rel=0.1)
    assert seen > 0.1
    figures = {"a": ProductError(0.01, 0.01, float(seen))}
    assert "1 layers lose more than 3%" in Certificate("", 0.03, figures, ()).with_lossy_weights()
    assert not Certificate("", 0.03, {"a": ProductError(0.1, 0.1, 0.01)}, ()).with_lossy_weights()


def test_layers_are_measured_in_the_passes_of_a_model_and_forgotten() -> None:
    model = with_adapter(quantised("int8-w8a8"))
    which = product_errors.layers(model)
    assert NAME in which and "transformer_blocks.0.attn.to_q" in which
    before = gradients(model)
    with product_errors.measured(which) as errors:
        during = gradients(model)
    assert all(torch.equal(before[n], during[n]) for n in before)
    assert errors.keys() == which.keys()
    assert all(0.002 < error.forward < 0.02 for error in errors.values())
    assert 0.002 < errors[NAME].gradient < 0.02
    assert all(layer.observer is None for layer in which.values())
    assert gradients(model)["loss"] == before["loss"]


def test_layers_of_swapped_blocks_are_measured_too() -> None:
    """Their weights have left the layers when gradients come."""
    still, swapped = (with_adapter(quantised("int8-w8a8")) for _ in range(2))
    offload.stream(swapped, 2, Tensor.clone, Tensor.clone)
    found = []
    for model in (still, swapped):
        checkpointing.checkpoint_blocks(model, 1)
        with product_errors.measured(product_errors.layers(model)) as errors:
            gradients(model)
        found.append(errors)
    assert found[0] == found[1] and found[0][NAME].gradient > 0.002


def planned(interval: int = 3) -> Plan:
    return plans.plan(
        "h100", base_model_precision="int8-w8a8", w8a8_check_interval=interval, mixed_precision="no"
    )


@pytest.fixture
def state() -> TrainState:
    model = with_adapter(quantised("int8-w8a8"))
    trainable = [p for p in model.parameters() if p.requires_grad]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainState(LoraAdapter(model), torch.optim.SGD(trainable), scaler)


def outlier(model: Any) -> W8A8Linear:
    """The layer NAME, whose input has one channel a thousand times the others, without a weight."""
    layer = product_errors.layers(model)[NAME]
    before = product_errors.layers(model)[NAME.replace("net.2", "net.0.proj")]
    with torch.no_grad():
        before.bias[7] = 3000.0
        layer.codes[:, 7] = 0
    return layer


def start(state: TrainState, output: Path, interval: int = 3) -> list[Chore]:
    plan = replace(planned(interval), output_dir=output)
    images = FixedImages((batch(1),), 1)
    return certified(state, images, plan, ALONE_ON_CPU, Recipe.of(plan))


def test_a_run_begins_with_a_certificate_of_every_layer(
    state: TrainState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (chore,) = start(state, tmp_path)
    written = json.loads((tmp_path / product_certificate.FILE).read_bytes())
    assert written["errors"].keys() == product_errors.layers(state.model).keys()
    assert written["scheme"] == "int8-w8a8" and not written["weights_only"]
    assert "layers multiply in 8 bits, error at most" in capsys.readouterr().err
    due = [step for step in range(7) if chore.due(replace(state, step=step))]
    assert due == [0, 3, 6]
    assert start(state, tmp_path, interval=0) == []


def test_a_layer_with_outliers_multiplies_by_its_dequantised_weight_also_when_it_is_resumed(
    state: TrainState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = outlier(state.model)
    start(state, tmp_path)
    others = [p for p in product_errors.layers(state.model).values() if p is not layer]
    assert layer.weights_only and not any(part.weights_only for part in others)
    assert f"1 above 3% multiply in the base dtype: {NAME}" in capsys.readouterr().err
    resumed = TrainState(LoraAdapter(with_adapter(quantised("int8-w8a8"))), state.optimizer,
                         state.scaler, step=5)  # fmt: skip
    start(resumed, tmp_path)  # whose input has no outlier: the choice is the file's
    assert product_errors.layers(resumed.model)[NAME].weights_only
    (tmp_path / product_certificate.FILE).write_text('{"scheme": 3}')
    resumed = TrainState(LoraAdapter(with_adapter(quantised("int8-w8a8"))), state.optimizer,
                         state.scaler, step=5)  # fmt: skip
    start(resumed, tmp_path)  # measured again
    assert not product_errors.layers(resumed.model)[NAME].weights_only


def test_a_layer_that_leaves_its_certificate_in_training_is_a_warning(
    state: TrainState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (chore,) = start(state, tmp_path)
    layer = outlier(state.model)
    for part in product_errors.layers(state.model).values():
        part.weights_only = part is not layer
    chore.do()  # before any step there is nothing to measure
    plain = gradients(state.model)
    chore.do()
    said = capsys.readouterr().err
    assert f"warning: step 0: `{NAME}` multiplies in 8 bits with an error of" in said
    now = {n: p.grad for n, p in state.model.named_parameters() if p.grad is not None}
    assert all(torch.equal(plain[n], now[n]) for n in now)  # the step's own gradients stay
    chore.do()
    gradients(state.model)
    chore.do()
    assert "warning" not in capsys.readouterr().err  # once for each layer


def test_a_check_measures_the_inputs_and_gradients_of_the_step(
    state: TrainState, tmp_path: Path
) -> None:
    """The same figures as when the layers are watched in the step itself."""
    check = product_check.ProductCheck(state, Recipe.of(planned()), 0.03, compiled=True)
    for part in state.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    which = product_errors.layers(state.model)
    with product_errors.measured(which) as during:
        gradients(state.model)
    after = check.measure(which)
    assert {n: e.forward for n, e in after.items()} == {n: e.forward for n, e in during.items()}
    assert after[NAME] == during[NAME] and check.last is None


def test_processes_agree_on_the_worst_figures() -> None:
    errors = product_check.worst(
        (("a", ProductError(0.2, 0.3)), ("b", ProductError(0.01)), ("a", ProductError(0.5, 0.1)))
    )
    assert errors == {"a": ProductError(0.5, 0.3), "b": ProductError(0.01)}
    named = Certificate(
        "int8-w8a8", 0.03, {"a": ProductError(0.5), "b": ProductError(0.01)}, ("a",)
    )
    assert named.sentence() == (
        "1 layers multiply in 8 bits, error at most 1.00% (b); 1 above 3% multiply in the base "
        "dtype: a"
    )


def test_a_model_that_computes_bad_numbers_has_no_certificate(
    state: TrainState, tmp_path: Path
) -> None:
    """It would let layers out of 8 bits that have nothing wrong with them."""
    with torch.no_grad():
        product_errors.layers(state.model)[NAME].bias[3] = float("nan")
    with pytest.raises(Diverged, match="what reaches this layer of the model is not finite"):
        start(state, tmp_path)
    assert not (tmp_path / product_certificate.FILE).exists()
    assert not any(layer.weights_only for layer in product_errors.layers(state.model).values())


def test_sample_measures_the_first_picture_forward_or_takes_the_choice_from_a_recipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = planned()
    plain, dice_of = (torch.zeros(1, 20, 96), torch.zeros(1, 80)), torch.Generator().manual_seed(3)
    embeds = torch.randn(1, 20, 96, generator=dice_of), torch.randn(1, 80, generator=dice_of)
    first = Picture("cat", "a cat", embeds, (64, 64))
    how = Sampling(30, 4.0, 3.0, None, "", plain, None)

    def choice(recorded: tuple[str, ...] | None) -> tuple[str, ...] | None:
        model = quantised("int8-w8a8")
        outlier(model)
        drawn_products.certified(model, made, first, how, recorded)
        assert all(part.observer is None for part in product_errors.layers(model).values())
        return product_errors.weights_only_layers(model)

    assert choice(None) == (NAME,)
    assert "40 layers multiply in 8 bits" in capsys.readouterr().err
    assert choice(()) == () and choice(("another", NAME)) == (NAME,)
    assert not capsys.readouterr().err
    assert product_errors.weights_only_layers(quantised("no_change")) is None


def losses_by(weights: dict[str, float]) -> product_choice.LossesOf:
    """Two losses; each layer in 8 bits adds to one and takes the same away from the other."""

    def losses_of(names: Sequence[str]) -> Sequence[float]:
        off = sum(value for name, value in weights.items() if name not in names)
        return 2.0 + off, 1.0 - off

    return losses_of


def test_as_many_layers_leave_8_bits_as_the_loss_asks_for_the_worst_first() -> None:
    errors = {name: ProductError(forward=0.001 * n) for n, name in enumerate("abcdefgh", 1)}
    change = dict.fromkeys("abcdefgh", 2e-4)
    names, left = product_choice.chosen(errors, (), losses_by(dict.fromkeys("abcdefgh", 1e-5)))
    assert names == () and left == pytest.approx(8e-5)
    names, left = product_choice.chosen(errors, (), losses_by(change))
    assert names == tuple("hgfedc") and left == pytest.approx(4e-4)
    names, left = product_choice.chosen(errors, ("a",), losses_by(change))
    assert names == tuple("ahgfed") and left == pytest.approx(4e-4)
    names, left = product_choice.chosen(errors, (), losses_by(dict.fromkeys("abcdefgh", 1.0)))
    assert names == tuple("hgfedcba") and left == 0
    assert product_choice.chosen(errors, tuple("abcdefgh"), losses_by(change))[0] == tuple(
        "abcdefgh"
    )


def test_the_losses_of_the_base_follow_the_layers_and_leave_the_adapter_out(
    state: TrainState,
) -> None:
    layers, recipe = product_errors.layers(state.model), Recipe.of(planned())
    losses_of = product_choice.base_losses(
        state, layers, FixedImages((batch(1),), 1), recipe, ALONE_ON_CPU, compiled=False
    )
    rounded_all, exact = losses_of(()), losses_of(tuple(layers))
    assert len(exact) == 3 and all(layer.weights_only for layer in layers.values())
    apart = [abs(a - b) for a, b in zip(rounded_all, exact, strict=True)]
    assert 0 < max(apart) < 1e-3
    for parameter in state.trained.named().values():
        parameter.data.fill_(3.0)
    assert losses_of(tuple(layers)) == exact
    sentence = Certificate(
        "", 0.03, {"a": ProductError(0.01), "b": ProductError(0.02)}, ("b",), 1e-4
    )
    assert sentence.sentence() == (
        "1 layers multiply in 8 bits, error at most 1.00% (a), losses of the base model change by "
        "1.0e-04; 1 for the sake of the loss multiply in the base dtype: b"
    )
