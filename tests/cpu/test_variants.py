"""Arithmetic against diffusers' own model, built without memory on the meta device."""

import pytest
import torch
from peft import LoraConfig

from sd3tune.sd3 import variants
from sd3tune.sd3.variants import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, Transformer
from tests.cpu.weightless import built

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.mark.parametrize(
    "shape, total, lora",
    [
        (SD3_MEDIUM, 2_028_328_000, 4_718_592),
        (SD35_MEDIUM, 2_243_171_520, 7_274_496),
        (SD35_LARGE, 8_056_627_520, 11_829_248),
    ],
    ids=["sd3-medium", "sd3.5-medium", "sd3.5-large"],
)
def test_counts_equal_the_model_diffusers_builds(shape: Transformer, total: int, lora: int) -> None:
    model = built(shape)
    assert sum(p.numel() for p in model.parameters()) == shape.parameters == total
    quantisable = sum(
        p.numel()
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and "transformer_blocks" in name and "norm1" not in name
        for p in m.parameters()
    )
    assert quantisable == shape.quantisable
    assert shape.lora_parameters(16, TARGETS) == lora
    with torch.device("meta"):
        model.add_adapter(LoraConfig(r=4, target_modules=[*TARGETS, "net.2", "add_q_proj"]))
    theirs = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert theirs == shape.lora_parameters(4, (*TARGETS, "net.2", "add_q_proj"))


def test_tokens_of_a_megapixel() -> None:
    assert variants.tokens(1024, 1024) == 4096 and variants.tokens(1344, 768) == 4032
