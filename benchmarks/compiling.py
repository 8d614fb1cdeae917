"""What compiling the blocks costs and brings: the first step cold and warm, and steps a second.

    python benchmarks/compiling.py [--layers N] [--side PIXELS] [--batch N] [--steps N]
                                   [--checkpointed [--attention]] [--backend NAME] [--json FILE]

Two processes, one after the other, share an empty folder of compiled code: the first compiles
(cold), the second reads (warm). In the second, eager and compiled steps of the same model then take
turns. A step is forward and backward pass of LoRA (rank 16, no dropout) on SD3.5 medium's blocks of
width 64 x LAYERS, in bf16 autocast on a card and in float32 on a CPU. Graphs are counted over three
sizes. `first_step` has seconds of the first step; `ratio` is compiled / eager, of the medians.

On an H100, the full size of SD3.5 medium: --layers 24 --side 1024 --batch 3 --steps 10, and with
--checkpointed --attention: eager and compiled blocks that keep the outputs of attention.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import machine

if TYPE_CHECKING:
    from sd3tune.plan.block_keeping import Keep

DUAL_OF = 24, 13  # of 24 layers, 13 have a second attention
CHILD = "SD3TUNE_BENCHMARK_CHILD"


def model_of(given: argparse.Namespace, device: Any, dtype: Any, *, compiled: bool) -> Any:
    """SD3.5 medium with fewer layers, random, with an adapter."""
    import torch

    from sd3tune.adapters import lora
    from sd3tune.demo import tiny
    from sd3tune.plan.arithmetic import CompileOptions
    from sd3tune.train import checkpointing, compiling

    torch.manual_seed(0)
    dual = tuple(range(max(1, given.layers * DUAL_OF[1] // DUAL_OF[0])))
    small = tiny.SHAPES["sd3.5-medium"]
    patches = max(small["pos_embed_max_size"], given.side // 16 + 1)  # of the largest size below
    shape = small | {
        "num_layers": given.layers, "dual_attention_layers": dual, "pos_embed_max_size": patches,
    }  # fmt: skip
    with device:  # a processor takes minutes to draw two billion numbers
        model = tiny.transformer(shape).to(dtype).requires_grad_(False)
    targets = ("to_q", "to_k", "to_v", "to_out.0")
    adapter = lora.Shape(rank=16, alpha=16, dropout=0.0, targets=targets)
    lora.attach(model, adapter, dtype=torch.float32, seed=1)
    keep = kept(given)
    inside = compiled and given.attention  # compiled with its checkpoint
    if given.checkpointed and not inside:
        checkpointing.keep_in_blocks(model, keep)
    if compiled:
        compiling.compile_blocks(model, given.backend, CompileOptions(), keep if inside else ())
    return model.train()


def kept(given: argparse.Namespace) -> "list[Keep]":
    """What each block keeps for the backward pass."""
    what: Keep = "attention" if given.attention else "inputs"
    return [what if given.checkpointed else "everything"] * int(given.layers)


def child(given: argparse.Namespace) -> dict[str, Any]:
    """One process: its first step, and where asked the alternation."""
    import torch

    torch.set_num_threads(given.threads)
    accelerator = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = torch.bfloat16 if accelerator else torch.float32
    compiled, eager = (model_of(given, device, dtype, compiled=c) for c in (True, False))

    def step(model: Any, side: int = given.side) -> Callable[[], None]:
        size, batch = side // 8, given.batch
        asked = {
            "hidden_states": torch.randn(batch, 16, size, size, device=device, dtype=dtype),
            "timestep": torch.full((batch,), 500.0, device=device),
            "encoder_hidden_states": torch.randn(batch, 154, 96, device=device, dtype=dtype),
            "pooled_projections": torch.randn(batch, 80, device=device, dtype=dtype),
        }

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16) if accelerator else nullcontext():
                loss = model(**asked, return_dict=False)[0].float().square().mean()
            loss.backward()
            model.zero_grad(set_to_none=True)

        return run

    def wait() -> None:
        if accelerator:
            torch.accelerator.synchronize()

    step(eager)()
    wait()
    started, cpu = time.perf_counter(), time.process_time()
    step(compiled)()
    wait()
    found: dict[str, Any] = {
        "first_step": round(time.perf_counter() - started, 2),
        "first_step_cpu": round(time.process_time() - cpu, 2),
    }
    for side in (given.side - 16, given.side + 16):
        step(compiled, side)()
    found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found["graph_breaks"] = sum(torch._dynamo.utils.counters["graph_break"].values())
    if os.environ[CHILD] == "warm":
        ways = {"eager": step(eager), "compiled": step(compiled)}
        found["seconds"] = machine.summary(
            machine.alternating(ways, given.steps, after=wait), "eager"
        )
        found["described"] = machine.describe()
    return found


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--layers", type=int, default=6, help="and heads of 64 values")
    parser.add_argument("--side", type=int, default=256, help="pixels, a multiple of 16")
    parser.add_argument("--batch", type=int, default=2, help="images, more than one")
    parser.add_argument("--steps", type=int, default=10, help="of each kind")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--checkpointed", action="store_true", help="every block")
    parser.add_argument("--attention", action="store_true", help="which keeps its outputs")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    given = parser.parse_args()
    if CHILD in os.environ:
        print(json.dumps(child(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = os.environ | {"XDG_CACHE_HOME": folder}
        found = {}
        for name in ("cold", "warm"):
            ran = subprocess.run([sys.executable, *sys.argv], env=base | {CHILD: name},
                                 stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
            found[name] = json.loads(ran.stdout.splitlines()[-1])
    described = found["warm"].pop("described")
    settings = {key: value for key, value in vars(given).items() if key != "json"}
    result = {
        "settings": settings,
        "first_step": {name: found[name]["first_step"] for name in found},
        "first_step_cpu": {name: found[name]["first_step_cpu"] for name in found},
        "graphs": found["warm"]["graphs"],
        "graph_breaks": found["warm"]["graph_breaks"],
        "seconds": found["warm"]["seconds"],
        "ratio": round(found["warm"]["seconds"]["compiled"]["ratio"], 3),
        "in": described,
    }
    machine.report("compiling", result, given.json)


if __name__ == "__main__":
    main()
