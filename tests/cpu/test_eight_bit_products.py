"""W8A8 layers against the bounds of product_bounds.py: what is rounded, scaled, stored and kept."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sd3tune import quant
from sd3tune.backends.kernels import eight_bits
from sd3tune.backends.kernels.eight_bits import ColumnScaled, RowScaled, product, rounded
from sd3tune.counted.living_storages import LivingStorages
from sd3tune.quant.parts import stored_bytes
from sd3tune.quant.w8a8 import W8A8Linear
from tests.cpu.product_bounds import (
    FORMATS,
    HALF_STEP,
    backward_bound,
    dice,
    each_format,
    forward_bound,
    layer,
    scales,
    uneven,
)


def strided(x: Tensor) -> Tensor:
    """The same values as a view that is not contiguous."""
    return x.t().contiguous().t()


SHAPES = {
    "SD3's": (64, 48, 32, (32,)),
    "three dimensions": (64, 48, 42, (2, 21)),
    "one token": (64, 48, 1, (1, 1)),
    "sizes that no kernel takes": (70, 37, 5, (5,)),
    "no token": (64, 48, 0, (2, 0)),
}


@each_format
@pytest.mark.parametrize("name", SHAPES)
def test_products_stay_within_the_bounds(name: str, dtype: torch.dtype) -> None:
    inputs, outputs, rows, shape = SHAPES[name]
    w, bias = uneven(1, outputs, inputs), dice(2, outputs)
    x, g = uneven(3, rows, inputs), uneven(4, rows, outputs)
    for view in (lambda t: t, strided):
        there = view(x).reshape(*shape, inputs).detach().requires_grad_()
        y = layer(w, dtype, bias)(there)
        y.backward(view(g).reshape(y.shape))
        assert y.shape == (*shape, outputs) and y.dtype == torch.float32
        assert there.grad is not None and there.grad.shape == there.shape
        want = x.double() @ w.double().t() + bias.double()
        slack = 1e-6 * bias.abs().double()  # rounding of the sum with the bias
        assert (
            (y.detach().reshape(want.shape) - want).abs() <= forward_bound(x, w, dtype) + slack
        ).all()
        difference = (there.grad.reshape(x.shape) - g.double() @ w.double()).abs()
        assert (difference <= backward_bound(g, w, dtype)).all()


def right_forward(x: RowScaled, w: RowScaled) -> Tensor:
    return product(x, ColumnScaled(w.codes.t(), w.scale.t()))


def right_backward(g: Tensor, w: RowScaled) -> Tensor:
    return product(rounded(g * w.scale.t(), w.codes.dtype), ColumnScaled(w.codes, None))


def swapped(rows: RowScaled) -> RowScaled:
    return RowScaled(rows.codes, rows.scale.flip(0))


FORWARD_FAULTS: dict[str, Callable[[RowScaled, RowScaled], Tensor]] = {
    "scales of outputs swapped": lambda x, w: right_forward(x, swapped(w)),
    "scales of tokens swapped": lambda x, w: right_forward(swapped(x), w),
    "scales of outputs left out": lambda x, w: right_forward(
        x, RowScaled(w.codes, torch.ones_like(w.scale))
    ),
    "scales of tokens twice": lambda x, w: right_forward(RowScaled(x.codes, x.scale**2), w),
    "the wrong neighbour": lambda x, w: right_forward(RowScaled(x.codes.roll(1, 1), x.scale), w),
}
BACKWARD_FAULTS: dict[str, Callable[[Tensor, RowScaled], Tensor]] = {
    "scales swapped": lambda g, w: right_backward(g, swapped(w)),
    "scales left out": lambda g, w: right_backward(g, RowScaled(w.codes, torch.ones_like(w.scale))),
    "scales twice": lambda g, w: right_backward(g * w.scale.t(), w),
    "the mean of the scales": lambda g, w: right_backward(
        g, RowScaled(w.codes, w.scale.mean().expand(w.scale.shape))
    ),
}


@each_format
def test_wrong_scales_leave_the_bounds(dtype: torch.dtype) -> None:
    w, x, g = uneven(1, 48, 64), uneven(3, 32, 64), uneven(4, 32, 48)
    codes, rows = rounded(w, dtype), rounded(x, dtype)

    def forward_off(y: Tensor) -> bool:
        return bool(((y - x.double() @ w.double().t()).abs() > forward_bound(x, w, dtype)).any())

    def backward_off(y: Tensor) -> bool:
        return bool(((y - g.double() @ w.double()).abs() > backward_bound(g, w, dtype)).any())

    assert not forward_off(right_forward(rows, codes))
    assert not backward_off(right_backward(g, codes))
    for name, wrong in FORWARD_FAULTS.items():
        assert forward_off(wrong(rows, codes)), name
    for name, wrong_gradient in BACKWARD_FAULTS.items():
        assert backward_off(wrong_gradient(g, codes)), name


def variance(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the rounding error of each value: step^2 / 12."""
    scale = scales(x, dtype)
    step = scale.expand(x.shape)
    if dtype != torch.int8:  # three bits behind the leading one, until the exponents end
        least = 2 * HALF_STEP[dtype]
        exponent = (x.double().abs() / scale).log2().floor()
        step = scale * torch.maximum(2.0 ** (exponent - 3), torch.tensor(least))
    return step**2 / 12


@each_format
def test_errors_are_as_large_as_rounding_to_nearest_makes_them(dtype: torch.dtype) -> None:
    """Truncation would have four times the variance, and a scale that wastes a bit too."""
    w, x = dice(1, 256, 512), dice(2, 256, 512)
    y = layer(w, dtype)(x)
    error = (y - x.double() @ w.double().t()).square().mean().sqrt()
    ours, theirs = x.double().square(), w.double().square()
    expected = (variance(x, dtype) @ theirs.t() + ours @ variance(w, dtype).t()).mean().sqrt()
    assert float(error / expected) == pytest.approx(1, abs=0.05)


@each_format
def test_bad_numbers_reach_their_own_rows_and_no_others(dtype: torch.dtype) -> None:
    linear = layer(dice(1, 32, 32), dtype)
    x, g = dice(2, 20, 32), dice(3, 20, 32)
    x[3, 5], x[4, 6], g[7, 8] = float("nan"), float("inf"), float("nan")
    x = x.requires_grad_()
    y = linear(x)
    y.backward(g)
    assert x.grad is not None
    assert (~y.isfinite()).any(1).nonzero().flatten().tolist() == [3, 4]
    assert (~x.grad.isfinite()).any(1).nonzero().flatten().tolist() == [7]


@each_format
def test_gradients_of_any_size_keep_their_figures(dtype: torch.dtype) -> None:
    """The gradient of a mean over millions of values is far below 1e-12; zero stays zero."""
    w, g = dice(1, 32, 32), dice(2, 20, 32)
    codes = rounded(w, dtype)
    usual = eight_bits.input_gradient(g, codes, torch.float32)
    for size in (2.0**-90, 2.0**60):  # powers of two change no digit
        scaled = eight_bits.input_gradient(g * size, codes, torch.float32)
        assert torch.equal(scaled, usual * size)
    assert not eight_bits.input_gradient(g * 0, codes, torch.float32).any()


@each_format
def test_rows_are_computed_a_part_at_a_time_with_the_same_result(dtype: torch.dtype) -> None:
    w, x, bias = rounded(dice(1, 48, 64), dtype), dice(2, 100, 64), dice(3, 48)
    for most in (1, 64 * 33):  # 32 rows at a time, which leave a rest of 4; 33 with a rest of 1
        ours = eight_bits.linear(x, w, bias, torch.bfloat16, most)
        assert torch.equal(ours, eight_bits.linear(x, w, bias, torch.bfloat16))
        back = eight_bits.input_gradient(x[:, :48], w, torch.float32, most)
        assert torch.equal(back, eight_bits.input_gradient(x[:, :48], w, torch.float32))


@each_format
def test_autocast_decides_the_output_and_the_input_keeps_its_own_format(
    dtype: torch.dtype,
) -> None:
    """Layer norm hands over float32 under autocast; nothing is rounded to bf16 on the way in."""
    w, bias = dice(1, 32, 32), dice(2, 32)
    linear = W8A8Linear(rounded(w, dtype), torch.zeros(32), bias.bfloat16(), torch.bfloat16)
    x = dice(3, 20, 32).requires_grad_()
    exact = eight_bits.linear(x.detach(), rounded(w, dtype), bias.bfloat16(), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
        y.float().sum().backward()  # backward inside autocast, too
    assert y.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(y.detach().float(), exact, rtol=2**-8, atol=0)
    assert linear(x).dtype == torch.bfloat16  # the base dtype
    with torch.autocast("cpu", torch.float16):
        assert linear(x).dtype == torch.float16


def test_weights_are_stored_once_and_keep_their_format_when_the_model_is_cast() -> None:
    for dtype in FORMATS:
        linear = layer(dice(1, 64, 32), dtype, dice(2, 64))
        model, before = nn.Sequential(linear), linear.weight
        assert stored_bytes(model) == 64 * 32 + 4 * 64 + 4 * 64 + 4 * 32
        cast = model.to(torch.bfloat16)[0]
        assert cast is linear and isinstance(cast, W8A8Linear)
        assert (cast.codes.dtype, cast.scale.dtype) == (dtype, torch.float32)
        assert cast.bias.dtype == cast.weight.dtype == cast(dice(3, 4, 32)).dtype == torch.bfloat16
        assert torch.equal(cast.weight, before.bfloat16())


@each_format
def test_a_layer_keeps_nothing_for_backward_and_transposes_the_codes_of_one_layer(
    dtype: torch.dtype,
) -> None:
    """Bytes are followed operator by operator: no second set of codes lives on, and at no time is
    there a weight in more than 8 bits."""
    linear = layer(dice(1, 2048, 512), dtype)
    codes, x, g = linear.codes.numel(), dice(2, 32, 512).requires_grad_(), dice(3, 32, 2048)
    values = 32 * (512 + 2048) * 4  # of input and output, in float32
    with LivingStorages() as living:
        linear(x).backward(g)  # weights, input and gradient are known from here on
        x.grad = None
        living.begin()
        before = living.now
        y = linear(x)
        assert living.now - before == 32 * 2048 * 4
        assert living.peak - before < 4 * values
        living.begin()
        y.backward(g)
        assert codes < living.peak - before < codes + 4 * values
    assert living.now - before == values  # y, and the gradient of x
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        linear(x)
    assert {t.data_ptr() for t in saved} == {linear.codes.data_ptr(), linear.scale.data_ptr()}


def test_nothing_can_be_assigned_to_a_weight_that_is_computed() -> None:
    linear = layer(dice(1, 32, 32), torch.int8)
    with pytest.raises(AttributeError):
        setattr(linear, "weight", torch.zeros(32, 32))  # noqa: B010


@each_format
def test_the_adapter_beside_sees_the_input_before_it_is_rounded(dtype: torch.dtype) -> None:
    """The gradient of B is g^T (x A^T) exactly, and a second backward gives the same bits when the
    layer is checkpointed."""
    model = nn.Module()
    model.to_q = layer(dice(1, 32, 32), dtype)
    from peft import LoraConfig, inject_adapter_in_model

    model = inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q"]), model)
    x, g = uneven(2, 20, 32), dice(3, 20, 32)
    a, b = model.to_q.lora_A["default"].weight, model.to_q.lora_B["default"].weight
    found = []
    for call in (model.to_q, lambda x: checkpoint(model.to_q, x, use_reentrant=False)):
        there = x.clone().requires_grad_()
        b.grad = None
        call(there).backward(g)
        assert there.grad is not None and b.grad is not None
        found.append((there.grad, b.grad))
    want = g.double().t() @ (x.double() @ a.detach().double().t())
    torch.testing.assert_close(found[0][1].double(), want, rtol=1e-5, atol=1e-5)
    assert all(map(torch.equal, *found))


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.up, self.down = (layer(dice(n, 64, 64), dtype, dice(n, 64)) for n in (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(nn.functional.gelu(self.up(x)))
        return result


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's
@pytest.mark.parametrize(
    "dtype", [FORMATS[0], *(pytest.param(d, marks=pytest.mark.slow) for d in FORMATS[1:])]
)
def test_compiled_blocks_are_one_graph_for_all_lengths(dtype: torch.dtype, compiler: None) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, block = CompileCounterWithBackend("aot_eager"), Block(dtype)
    compiled = torch.compile(block, fullgraph=True, backend=counter, dynamic=True)
    for length in (40, 24, 77):
        both = []
        for call in (compiled, block):
            x = dice(length, 2, length, 64).requires_grad_()
            y = call(x)
            y.square().sum().backward()
            assert x.grad is not None
            both.append((y.detach(), x.grad))
        assert all(map(torch.equal, *both))
    assert counter.frame_count == 1


@each_format
def test_a_layer_of_weights_only_multiplies_by_the_dequantised_weight(dtype: torch.dtype) -> None:
    linear, x, g = layer(dice(1, 32, 32), dtype, dice(2, 32)), dice(3, 20, 32), dice(4, 20, 32)
    linear.weights_only = True
    there = x.clone().requires_grad_()
    y = linear(there)
    y.backward(g)
    weight = (linear.codes.double() * linear.scale.double()).float()
    torch.testing.assert_close(y, nn.functional.linear(x, weight, linear.bias))
    torch.testing.assert_close(there.grad, g @ weight)


def test_a_layer_whose_weights_do_not_fit_in_8_bits_is_left_alone() -> None:
    """One weight a thousand times the others leaves nothing of them in an integer's step."""
    block = nn.Module()
    block.transformer_blocks = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(2)])
    odd = block.transformer_blocks[1]
    odd.weight.data = dice(1, 64, 64)
    odd.weight.data[:, 3] = 60.0
    block.requires_grad_(False)
    quant.apply(block, "int8-w8a8")
    assert [type(part) for part in block.transformer_blocks] == [W8A8Linear, nn.Linear]


def test_dora_measures_the_dequantised_weight() -> None:
    model = nn.Module()
    model.to_q = layer(dice(1, 32, 32), torch.int8)
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=4, target_modules=["to_q"], use_dora=True)
    model = inject_adapter_in_model(config, model)
    (magnitude,) = (p for n, p in model.named_parameters() if "magnitude" in n)
    torch.testing.assert_close(magnitude.detach(), model.to_q.base_layer.weight.norm(dim=1))
