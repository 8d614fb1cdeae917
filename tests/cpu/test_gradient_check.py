"""The check that admits attention kernels: it catches the museum, and refuses nothing that is
right."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.kernels import attention_cases, attention_probes, recorded_activations
from sd3tune.backends.kernels.gradient_check import DTYPES, Wrong, check, check_output
from sd3tune.backends.kernels.recorded_activations import LAYERS, AttentionShape
from sd3tune.backends.observe import kept_answers
from tests.cpu import bad_kernels
from tests.cpu.bad_kernels import BAD, MASKED, RIGHT, Attend

CPU = torch.device("cpu")
ONLY_HALF = (
    "Fp16Inside",
    "SumsInHalfPrecision",
    "OutputAddedInHalfPrecision",
    "GradientOfValuesAddedInHalfPrecision",
)


@pytest.mark.parametrize("name", BAD)
def test_every_kernel_of_the_museum_is_caught(name: str) -> None:
    """In float32; those that differ only in half precision, in bfloat16."""
    dtype = torch.bfloat16 if name in ONLY_HALF else torch.float32
    with pytest.raises(Wrong):
        check(BAD[name](), CPU, dtype, masks=BAD[name] in MASKED)


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_for_half_precision_alone_are_caught_in_it(name: str, dtype: torch.dtype) -> None:
    """A card's fused kernels know no float32. Faults of the range of fp16 are none in fp16."""
    harmless = {"ProductsInTenBits"}
    if dtype == torch.float16:
        harmless |= {"GradientsUnderflow", "TinyGradientsFlushed", "Fp16Inside"}
    if name in harmless:
        pytest.skip("this format has no more digits, or no more range")
    with pytest.raises(Wrong):
        check(BAD[name](), CPU, dtype, masks=BAD[name] in MASKED)


@pytest.mark.parametrize("name, dtype", [(n, d) for n, (_, ds) in RIGHT.items() for d in ds])
def test_no_right_kernel_is_refused(name: str, dtype: torch.dtype) -> None:
    """With a quarter of what is allowed to spare."""
    assert check(RIGHT[name][0](), CPU, dtype) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_right_kernel_is_refused_in_any_format(name: str, dtype: torch.dtype) -> None:
    assert check(RIGHT[name][0](), CPU, dtype) < 0.75


def test_kernels_that_take_a_mask_are_admitted_with_it() -> None:
    for name in ("flash", "fused"):
        check(RIGHT[name][0](), CPU, torch.float32, masks=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_race_is_caught_whenever_it_happens(seed: int) -> None:
    kernel = bad_kernels.RaceOfTiles()
    kernel.dice.manual_seed(seed)
    with pytest.raises(Wrong, match="dk of image"):
        check(kernel, CPU, torch.float32)


def test_the_words_name_what_is_wrong_and_where() -> None:
    with pytest.raises(Wrong) as caught:
        check(bad_kernels.HundredthTooMuchOfOneHead(), CPU, torch.float32)
    words = str(caught.value)
    assert words.startswith("dk of image 2 and head 3 is off by 9.9e-03") or "1.0e-02" in words
    assert "in float32 with 2 images, 3 heads, 205 tokens (views)" in words


def test_random_numbers_would_have_let_some_of_them_pass() -> None:
    """Why activations are recorded: with `randn` alone, one shape and the largest value as the
    measure, a good part of the museum was admitted."""
    admitted = [name for name in BAD if passes_the_old_check(BAD[name]())]
    assert len(admitted) >= 8, admitted
    assert {"RaceOfTiles", "StaleWorkspace", "NoMaximumSubtracted"} <= set(admitted)


def passes_the_old_check(attend: Attend) -> bool:
    """The check as it was: two images of random numbers, in float32, once."""
    dice = torch.Generator().manual_seed(0)
    flat = [torch.randn(2, 205, 4, 64, generator=dice) for _ in range(4)]

    def answers(f: Attend, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).detach().clone().requires_grad_() for x in flat[:3]]
        out = f(*(x.transpose(1, 2) for x in leaves))
        out.backward(flat[3].to(dtype).transpose(1, 2))
        return [out.detach(), *(x.grad if x.grad is not None else x * torch.nan for x in leaves)]

    got, want = answers(attend, torch.float32), answers(sdpa, torch.float64)
    return all(
        bool((g.double() - w).abs().max() / w.abs().max() < 2e-5)
        for g, w in zip(got, want, strict=True)
    )


def test_a_kernel_of_one_format_is_admitted_for_it_and_the_words_say_so() -> None:
    def only_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.dtype != torch.float32:
            raise RuntimeError("No available kernel. Aborting execution.")
        return sdpa(q, k, v)

    words = attention_probes.attention(CPU, "diffusers", only_float32)
    assert words.endswith("; no kernel for bfloat16")
    with pytest.raises(RuntimeError, match="No available kernel"):
        attention_probes.attention(CPU, "diffusers", only_float32, dtypes=[torch.bfloat16])


def test_a_kernel_that_is_wrong_in_another_format_is_refused() -> None:
    def wrong_in_bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v * (1.01 if q.dtype == torch.bfloat16 else 1.0))

    with pytest.raises(Wrong, match="in bfloat16"):
        attention_probes.attention(CPU, "diffusers", wrong_in_bf16)


def in_eight_bits(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Query and key in eight bits for each token, the keys centred: what SageAttention computes."""

    def rounded(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True) / 127
        return (x / step).round() * step

    q, k, wide = q.float(), k.float(), v.float()
    return sdpa(rounded(q), rounded(k - k.mean(-2, keepdim=True)), wide).to(v.dtype)


def test_a_kernel_that_only_samples_is_checked_by_its_output() -> None:
    assert check_output(in_eight_bits, CPU, torch.float16) < 0.5
    with pytest.raises(Wrong, match="has no backward"):
        check(lambda *x: in_eight_bits(*x).detach(), CPU, torch.float16)


@pytest.mark.parametrize(
    "name",
    ["DroppedScale", "UnsynchronisedBatch", "ViewsReadAsWhole", "OffsetForgotten",
     "LastBlockOfKeysDropped", "KeysCentredInPlace"],
)  # fmt: skip
def test_wrong_outputs_are_caught_in_kernels_that_only_sample(name: str) -> None:
    with pytest.raises(Wrong):
        check_output(BAD[name](), CPU, torch.float16)


def test_activations_keep_the_scores_of_the_model_and_no_two_tokens_are_alike() -> None:
    for layer in LAYERS:
        q, k, _, _ = recorded_activations.recorded(layer)
        real = torch.einsum("ihd,jhd->hij", q, k).abs().amax() / 8
        q, k, v, gradient = recorded_activations.activations(
            layer, AttentionShape(2, 5, 333), seed=1
        )
        scaled = torch.einsum("bihd,bjhd->bhij", q, k).abs().amax() / 8
        assert 0.7 * real < scaled < 2.5 * real
        for x in (q, k, v, gradient):
            rows = x.transpose(1, 2).flatten(0, 1)
            assert all(len(head.unique(dim=0)) == 333 for head in rows)
            assert len(rows.flatten(1).unique(dim=0)) == 10, "every head has values of its own"


def test_the_check_takes_less_than_five_seconds_of_a_core() -> None:
    """Processor time of this thread, with the answers computed anew."""
    attention_cases.expected_of.cache_clear()
    attention_cases.inputs_of.cache_clear()
    started = time.thread_time()
    check(sdpa, CPU, torch.float32)
    assert time.thread_time() - started < 5


def test_other_activations_or_another_check_ask_a_machine_anew(tmp_path: Path) -> None:
    """The state under which answers are kept."""
    kernels = tmp_path / "backends" / "kernels"
    kernels.mkdir(parents=True)
    states = [kept_answers.sources(tmp_path)]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("activations.safetensors", "3")):
        (kernels / name).write_text(text)
        kept_answers.sources.cache_clear()
        states.append(kept_answers.sources(tmp_path))
    assert len(set(states)) == 4
