"""Attention a slice of queries at a time: the same numbers as the definition, in less memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.checkpoint import checkpoint

from sd3tune.backends.decide.limits import SLICE_VALUES
from sd3tune.backends.kernels import sliced, smoke
from sd3tune.backends.kernels.gradient_check import Wrong, check
from sd3tune.config.files.prompts import load_prompts
from sd3tune.demo import MODELS
from sd3tune.plan.memory import Load
from sd3tune.plan.step_peak import slices
from sd3tune.prepare import Prepared, plan_run
from sd3tune.sd3 import attention, weights
from sd3tune.sd3.variants import SD35_LARGE, SD35_MEDIUM, Transformer
from sd3tune.train.outcome import Outcome
from sd3tune.train.run import train
from tests.cpu.macs import SHORT, mac

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
Attend = Callable[..., Tensor]


def gradients(attend: Attend, flat: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output and dq, dk, dv of views, as the model makes them."""
    leaves = [t.to(dtype).requires_grad_() for t in flat[:3]]
    out = attend(*(t.transpose(1, 2) for t in leaves))
    return [out, *torch.autograd.grad(out, leaves, flat[3].to(dtype).transpose(1, 2))]


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [(2 * torch.randn(2, 37, 3, 16)).to(dtype) for _ in range(4)]


def worst(got: list[Tensor], want: list[Tensor]) -> float:
    pairs = [(g.detach(), w.detach()) for g, w in zip(got, want, strict=True)]
    return max(float((g.double() - w.double()).abs().max() / w.abs().max()) for g, w in pairs)


@pytest.mark.parametrize("most", [1, 1000, 2 * 3 * 37 * 10, SLICE_VALUES])
@pytest.mark.parametrize(
    "dtype, error", [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 8e-3)]
)
def test_the_output_and_every_gradient_are_those_of_the_definition(
    most: int, dtype: torch.dtype, error: float
) -> None:
    """Against PyTorch's in float64, of the same rounded inputs; a row at a time, slices of which
    the last is shorter, and all at once."""
    flat = inputs(dtype)
    want = gradients(sdpa, flat, torch.float64)
    got = gradients(lambda q, k, v: sliced.attention(q, k, v, most), flat, dtype)
    assert {t.dtype for t in got} == {dtype} and worst(got, want) < error
    assert worst(got, want) < 1.5 * max(worst(gradients(sdpa, flat, dtype), want), error / 3)


def test_bf16_autocast_around_it_rounds_no_score() -> None:
    flat = inputs()

    def under(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return sliced.attention(q, k, v, 1000)

    assert worst(gradients(under, flat, torch.float32), gradients(sdpa, flat, torch.float64)) < 1e-6


def test_a_checkpointed_block_around_it_changes_no_bit() -> None:
    flat = inputs()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sliced.attention(q, k, v, 1000)

    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = checkpoint(attend, q, k, v, use_reentrant=False)
        return out

    plain, again = (gradients(f, flat, torch.float32) for f in (attend, twice))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_no_product_has_a_transposed_view_for_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which MPS reads wrongly (pytorch#193487); PyTorch's definition has one."""
    seen: list[bool] = []
    real = Tensor.__matmul__

    def matmul(self: Tensor, other: Tensor) -> Tensor:
        seen.extend(t.is_contiguous() for t in (self, other))
        return real(self, other)

    monkeypatch.setattr(Tensor, "__matmul__", matmul)
    gradients(lambda q, k, v: sliced.attention(q, k, v, 1000), inputs(), torch.float32)
    assert len(seen) > 40 and all(seen)


@pytest.mark.parametrize("name", MODELS)
def test_the_sliced_processor_is_right_in_every_architecture(name: str, demo: Path) -> None:
    """Against the stock processor in float64, image and text and both attentions of a block."""
    torch.manual_seed(0)
    given = torch.randn(1, 16, 16, 16), torch.randn(1, 9, 96), torch.randn(1, 80)

    def ask(dtype: torch.dtype, mechanism: str) -> list[Tensor]:
        model = weights.transformer(str(demo / "models" / name), "fp32").to(dtype)
        if mechanism == "sliced":
            model.set_attn_processor(attention.SlicedJointAttention(500))
        leaves = [t.to(dtype).requires_grad_() for t in given]
        out = model(*leaves, torch.tensor([400.0]).to(dtype), return_dict=False)[0]
        return [out, *torch.autograd.grad(out.square().mean(), leaves)]

    assert worst(ask(torch.float32, "sliced"), ask(torch.float64, "diffusers")) < 1e-5


@pytest.mark.slow
def test_a_mac_trains_the_demo_with_it_as_without(
    prepared: Callable[..., Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, and pictures, which are drawn with it as well."""
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2**30)
    calls: list[int] = []
    real = sliced.attention

    def counted(q: Tensor, k: Tensor, v: Tensor, most: int) -> Tensor:
        calls.append(1)
        return real(q, k, v, 5000)

    monkeypatch.setattr(sliced, "attention", counted)
    words = (*SHORT, "validation_disable=false", "validation_prompt=a bicycle",
             "validation_num_inference_steps=1")  # fmt: skip

    def go(mechanism: str) -> Outcome:
        asked = (f"output_dir={tmp_path / mechanism}", f"attention_mechanism={mechanism}")
        made = prepared(*words, *asked)
        made = plan_run(made, made.plan.model, mac("m3-max"))
        return train(made, load_prompts(made.plan.config))

    whole = go("diffusers")
    assert not calls
    slices = go("sliced")
    assert calls and slices.pictures and slices.noise == whole.noise
    assert slices.loss_before == pytest.approx(whole.loss_before, rel=1e-6)
    assert slices.loss_after == pytest.approx(whole.loss_after, rel=1e-5)


def test_the_probe_admits_it_and_sees_a_wrong_gradient() -> None:
    name = "attention_sliced"
    assert smoke.run("cpu", [name])[name]["ok"]
    with pytest.raises(Wrong, match=r"dk of image . and head . is off by"):
        check(lambda q, k, v: sliced.attention(q, wrong(k), v), CPU, torch.float32)


def wrong(k: Tensor) -> Tensor:
    """The same keys, with a gradient that is a hundredth too large."""
    return 1.01 * k - 0.01 * k.detach()


def measure(*words: str) -> dict[str, float]:
    command = [sys.executable, str(ROOT / "benchmarks" / "attention.py"), *words]
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks need Linux")
def test_memory_is_what_the_plan_reckons_and_far_less_than_the_definition_s() -> None:
    """Peaks of resident memory of a small attention, in MiB; at the models' sizes:
    docs/reference/memory.md."""
    tokens, heads, most = 2048, 8, 2**21
    whole = measure("math", "0", "1", str(heads), str(tokens), "bfloat16")
    small = measure("sliced", str(most), "1", str(heads), str(tokens), "bfloat16")
    assert whole["backward"] > 2.8 * whole["matrix"] and whole["kept"] > whole["matrix"]
    reckoned = 4 * (2 * most + 10 * tokens * heads * 64) / 2**20
    libraries = 40
    assert small["backward"] < reckoned + libraries < 0.3 * whole["backward"]
    assert small["kept"] < 0.2 * whole["kept"]


@pytest.mark.parametrize(
    "shape, measured_mib", [(SD35_MEDIUM, 508), (SD35_LARGE, 634)], ids=["medium", "large"]
)
def test_the_plan_counts_what_one_attention_in_slices_was_measured_to_take(
    shape: Transformer, measured_mib: int
) -> None:
    """Backward peaks at 1024 px from benchmarks/attention.py, as docs/reference/memory.md has them:
    a plan may count a little more and never less."""
    load = Load(
        vendor="mps", base_dtype="bf16", precision="no_change", trainable_dtype="fp32",
        optimizer="adamw", trained=1, batch=1, tokens=4096, text_tokens=154, interval=1, swapped=0,
        inputs_on_host=False, text_dtype="bf16", text_precisions=("no_change",) * 3, slices=True,
    )  # fmt: skip
    assert measured_mib <= slices(shape, load) / 2**20 <= 1.05 * measured_mib
