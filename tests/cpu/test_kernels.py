"""Attention, probes and quantised linears on the CPU."""

from pathlib import Path

import pytest
import torch

from sd3tune.backends.kernels import smoke
from sd3tune.demo import MODELS
from sd3tune.quant import linear_probes as quant_probes
from sd3tune.sd3 import attention, weights


@pytest.mark.parametrize("name", MODELS)
def test_the_dispatched_processor_is_the_stock_one(name: str, demo: Path) -> None:
    model = weights.transformer(str(demo / "models" / name), "fp32")
    torch.manual_seed(0)
    question = (torch.randn(1, 16, 16, 16), torch.randn(1, 9, 96), torch.randn(1, 80))

    def ask() -> torch.Tensor:
        z, words, pooled = question
        answer: torch.Tensor = model(z, words, pooled, torch.tensor([400.0]), return_dict=False)[0]
        return answer

    with torch.no_grad():
        want = ask()
        model.set_attn_processor(attention.DispatchedJointAttention("native"))
        torch.testing.assert_close(ask(), want, rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match="no backward"):
        ask()


def test_sampling_attention_is_put_back_afterwards(demo: Path) -> None:
    model = weights.transformer(str(demo / "models" / "sd3-medium"), "fp32")
    before = model.attn_processors
    with attention.sampling_kernel(model, "sageattention"):
        assert model.attn_processors != before
    assert {k: type(v) for k, v in model.attn_processors.items()} == {
        k: type(v) for k, v in before.items()
    }


CPU_PROBES = ("matmul_fp32", "matmul_bf16", "matmul_fp16", "attention_diffusers",
              "attention_native-flash", "attention_native-math", "autocast_bf16",
              "optimizer_adamw", "matmul_int8", "matmul_fp8", "bandwidth")  # fmt: skip


@pytest.mark.parametrize("name", CPU_PROBES)
def test_the_cpu_passes_its_own_probes(name: str) -> None:
    result = smoke.run("cpu", [name])[name]
    assert result["ok"], result["words"]


def test_a_kernel_the_device_lacks_is_a_finding() -> None:
    result = smoke.run("cpu", ["attention_cudnn"])["attention_cudnn"]
    assert not result["ok"] and "No viable backend" in str(result["words"])


@pytest.mark.parametrize("name", list(quant_probes.PROBES))
def test_quantised_linears_and_optimizers_pass_here(name: str) -> None:
    result = quant_probes.run("cpu", [name])[name]
    assert result["ok"], result["words"]


@pytest.mark.parametrize("bits", [2, 4])
def test_unpacking_gives_back_what_quanto_packed(bits: int) -> None:
    from optimum.quanto.tensor.packed import pack_weights

    from sd3tune.quant.quanto import unpack

    values = torch.randint(0, 2**bits, (32, 24), dtype=torch.uint8)
    assert torch.equal(unpack(pack_weights(values, bits), bits), values)


def test_adamw_bf16_moves_where_plain_adamw_stands_still() -> None:
    from sd3tune.train.optim import build

    def moved(name: str, dtype: torch.dtype) -> float:
        weight = torch.nn.Parameter(torch.ones(4096, dtype=dtype))
        kind = build(name, [weight], 1e-4, {"weight_decay": 0.0})
        for _ in range(300):
            weight.grad = torch.full_like(weight, -1.0)
            kind.step()
        return float((weight.float() - 1).mean().detach())

    want = moved("adamw", torch.float32)
    assert moved("adamw", torch.bfloat16) == 0
    assert moved("adamw_bf16", torch.bfloat16) == pytest.approx(want, rel=0.2)
