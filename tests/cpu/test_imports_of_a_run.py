"""What a run imports until its first step, and what it leaves out."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("bitsandbytes")

# A process of its own: in this one, other tests have loaded everything.
CODE = """
import json, sys
from sd3tune import deferred
from sd3tune.report.quiet import quiet_libraries
quiet_libraries()
import torch
from sd3tune.adapters import lora, peft_import
from sd3tune import quant
from sd3tune.demo import tiny
from sd3tune.tables.architectures import ARCHITECTURES

def adapted(scheme):
    model = tiny.transformer(dict(ARCHITECTURES["sd3.5-medium"].tiny)).requires_grad_(False)
    if scheme != "no_change":
        quant.apply(model, scheme, which=quant.TRANSFORMER, fp8="none", device=torch.device("cpu"))
    shape = lora.Shape(rank=4, alpha=4, dropout=0.0, targets=("to_q",))
    with peft_import.for_layers_of(scheme):
        lora.attach(model, shape, dtype=torch.float32, seed=0)
    layer = model.transformer_blocks[0].attn.to_q
    return type(layer).__module__, type(layer.base_layer).__module__

plain = adapted("no_change")
heavy = ("torch._inductor.compile_fx", "scipy.stats", "scipy.integrate", "boto3", "bitsandbytes")
left_out = [name for name in heavy if not deferred.is_loaded(name)]
print(json.dumps([plain, left_out, adapted("nf4-bnb"), deferred.is_loaded("bitsandbytes"),
                  adapted("no_change")]))
"""


@pytest.mark.slow
def test_bitsandbytes_and_the_compiler_are_loaded_by_the_run_that_needs_them() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    plain, left_out, quantised, loaded, again = json.loads(done.stdout.splitlines()[-1])
    assert plain == again == ["peft.tuners.lora.layer", "torch.nn.modules.linear"]
    assert left_out == [
        "torch._inductor.compile_fx",
        "scipy.stats",
        "scipy.integrate",
        "boto3",
        "bitsandbytes",
    ]
    assert quantised == ["peft.tuners.lora.bnb", "sd3tune.quant.nf4_linear"] and loaded
