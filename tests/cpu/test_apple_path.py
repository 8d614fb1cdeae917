"""The path a run takes on a Mac, as far as it does not depend on the device, on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.config.files.prompts import load_prompts
from sd3tune.demo import MODELS
from sd3tune.prepare import Prepared, plan_run
from sd3tune.sd3 import attention, weights
from sd3tune.train.outcome import Outcome
from sd3tune.train.run import train
from tests.cpu.macs import SHORT, mac
from tests.plans import decided


@pytest.fixture
def on_mac(
    prepared: Callable[..., Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Trains the demo as it would be on the chip; guard=None: as decided."""
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2**30)

    def go(folder: str, *words: str, chip: str = "m3-max", guard: str | None = None) -> Outcome:
        made = prepared(f"output_dir={tmp_path / folder}", *words)
        made = plan_run(made, made.plan.model, mac(chip))
        plan = made.plan
        if guard is not None:
            plan = decided(plan, "attention", inputs=guard)
        return train(replace(made, plan=plan), load_prompts(plan.config))

    return go


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Of every call: ours or another library's, and whether all inputs were in one piece."""
    seen: list[tuple[str, bool]] = []

    def spy(who: str) -> Callable[..., torch.Tensor]:
        def attend(q, k, v, *rest, **more):  # type: ignore[no-untyped-def]
            seen.append((who, all(t.is_contiguous() for t in (q, k, v))))
            return sdpa(q, k, v, *rest, **more)

        return attend

    monkeypatch.setattr(attention, "scaled_dot_product_attention", spy("ours"))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy("theirs"))
    return seen


@pytest.mark.slow
def test_the_demo_trains_with_a_mac_s_decisions_and_the_guard_changes_nothing(
    on_mac: Callable[..., Outcome], prepared: Callable[..., Prepared]
) -> None:
    made = prepared(*SHORT)
    plan = plan_run(made, made.plan.model, mac("m3-max")).plan
    precision = plan.precision
    assert precision.autocast.value is None and precision.transformer.value == "int8-quanto"
    assert precision.grad_scaler.value is False and precision.quantize_via.value == "cpu"
    assert plan.attention.inputs.value == "contiguous"
    assert plan.hardware.pin_memory.value is False and plan.parallel.backend.value is None
    guarded = on_mac("guarded", *SHORT)
    plain = on_mac("plain", *SHORT, guard="views")
    assert guarded.noise == plain.noise and guarded.step == plain.step == 6
    assert guarded.loss_after is not None and guarded.loss_before is not None
    assert guarded.loss_after < guarded.loss_before
    assert guarded.loss_before == pytest.approx(plain.loss_before, rel=1e-6)
    assert guarded.loss_after == pytest.approx(plain.loss_after, rel=1e-5)


@pytest.mark.slow
def test_bf16_weights_without_autocast_train_too(on_mac: Callable[..., Outcome]) -> None:
    """What an M2 or newer gets: bf16 base, float32 adapter, no autocast."""
    made = on_mac("bf16", "max_train_steps=2", "lr_warmup_steps=0")
    assert made.loss_before is not None and made.loss_after is not None
    assert 0 < made.loss_after < 1.1 * made.loss_before


@pytest.mark.slow
def test_every_attention_of_a_run_gets_its_inputs_in_one_piece(
    on_mac: Callable[..., Outcome], attended: list[tuple[str, bool]]
) -> None:
    """Training, evaluation and pictures. Without the guard the second attention of SD3.5 medium's
    blocks gets views; diffusers' concatenation leaves the first one's inputs in one piece."""
    words = (*SHORT, "max_train_steps=1", "validation_disable=false", "num_validation_images=1",
             "validation_prompt=a bicycle", "validation_num_inference_steps=1")  # fmt: skip
    made = on_mac("guarded", *words)
    assert made.pictures
    ours = [whole for who, whole in attended if who == "ours"]
    others = [whole for who, whole in attended if who == "theirs"]
    assert ours and all(ours)
    attended.clear()
    on_mac("plain", *words, guard="views")
    assert not [who for who, _ in attended if who == "ours"]
    views = [whole for _, whole in attended].count(False)
    assert views > others.count(False), "the spy sees the views that the guard copies"


@pytest.mark.parametrize("name", MODELS)
def test_the_guarded_processor_is_right_on_views_forward_and_backward(
    name: str, demo: Path, attended: list[tuple[str, bool]]
) -> None:
    """Against the stock processor in float64."""
    torch.manual_seed(0)
    z, words, pooled = torch.randn(1, 16, 16, 16), torch.randn(1, 9, 96), torch.randn(1, 80)

    def ask(dtype: torch.dtype, inputs: str) -> list[torch.Tensor]:
        model = weights.transformer(str(demo / "models" / name), "fp32").to(dtype)
        attention.use_processors(model, inputs, "diffusers")
        given = [t.to(dtype).requires_grad_() for t in (z, words, pooled)]
        out = model(*given, torch.tensor([400.0]).to(dtype), return_dict=False)[0]
        return [out, *torch.autograd.grad(out.square().mean(), given)]

    want = ask(torch.float64, "views")
    assert (("theirs", False) in attended) == (name == "sd3.5-medium")
    attended.clear()
    got = ask(torch.float32, "contiguous")
    assert set(attended) == {("ours", True)}
    for g, w in zip(got, want, strict=True):
        assert (g.double() - w).abs().max() < 1e-5 * w.abs().max()


def test_a_deliberate_view_is_copied_before_the_kernel_sees_it(
    attended: list[tuple[str, bool]],
) -> None:
    """Every second value of a head, so that no transposition makes it whole; against float64."""
    torch.manual_seed(0)
    base = torch.randn(3, 2, 5, 4, 8)  # q, k, v of (B, tokens, heads, head_dim)
    q, k, v = (t[:, :, :, ::2] for t in base)
    assert not q.is_contiguous()
    got = attention.ContiguousJointAttention().kernel(q, k, v)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / 4**0.5
    want = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double())
    assert attended == [("ours", True)] and (got.double() - want).abs().max() < 1e-6
