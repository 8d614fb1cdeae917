"""Runs the rows of benchmarks/full_size.py in this process: ours, the bare loop, the matmul rate.
Not a command: full_size.py starts it."""

import gc
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from full_size_rows import CHECKPOINTING, MEDIUM, ROWS, Row
from kernel_profile import KernelProfile
from random_models import PIXELS, SIDE, accelerator

WARM, STEPS, PROFILED = 4, 8, 3
MATMUL_SIDE = 8192
HUB = "stabilityai/stable-diffusion-{}"
CONTEXT_BYTES = 512 * 2**20  # of CUDA, beside what torch allocates
FACTS: list[Any] = []  # this machine is asked once


def serve(folder: Path, backend: str) -> None:
    """Answers each line of stdin, a row's name, with a line of JSON. What is printed meanwhile goes
    to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.stdin:
        try:
            result = answered(folder, name.strip(), backend)
        except Exception as e:
            traceback.print_exc()
            first = (str(e).strip() or repr(e)).splitlines()[0]
            result = {"failed": f"{type(e).__name__}: {first}"}
        result["left_bytes"] = left_bytes()
        print(json.dumps(result), file=answers, flush=True)


def left_bytes() -> int:
    """What is still allocated on the device after a row was cleared away."""
    torch._dynamo.reset()
    gc.collect()
    if accelerator() == "cpu":
        return 0
    torch.accelerator.empty_cache()
    return int(torch.accelerator.memory_allocated())


def answered(folder: Path, name: str, backend: str) -> dict[str, Any]:
    """A row, or `begin`: the matmul rate, and full caches of both sizes."""
    if name != "begin":
        row = next(row for row in ROWS if row.name == name)
        return bare(folder, row, backend) if row.bare else ours(folder, row, backend)
    rate, seconds = matmul_rate(), {}
    for side in sorted({row.side for row in ROWS}):
        started = time.perf_counter()
        ours(folder, Row(MEDIUM, side=side), steps=1)
        seconds[f"caches of {side} px"] = round(time.perf_counter() - started, 1)
    return {"rate": rate, **seconds}


def pixels(folder: Path, row: Row) -> int:
    """The side of the row's pictures in this folder: less where the models are tiny."""
    return row.side * int((folder / PIXELS).read_text()) // SIDE["full"]


def ours(
    folder: Path, row: Row, backend: str = "inductor", steps: int = WARM + STEPS
) -> dict[str, Any]:
    """One run of the real trainer, and what its plan said."""
    from sd3tune import backends
    from sd3tune.backends.observe import probing
    from sd3tune.config.config import Config
    from sd3tune.load import transformer
    from sd3tune.prepare import prepare
    from sd3tune.train.run import train

    output = Path(tempfile.mkdtemp(prefix="row-", dir=folder))
    profile = KernelProfile(after=steps, steps=PROFILED - 1)
    more = PROFILED if row.profiled else 0
    words = (*row.settings(pixels(folder, row), backend), f"max_train_steps={steps + more}",
             f"output_dir={output}", "resume_from_checkpoint=never",
             "checkpoint_step_interval=10000")  # fmt: skip
    if accelerator() == "cpu":
        words = tuple(word.removesuffix("-paged") for word in words)  # a card's memory is paged
    with card_of(row) as facts:
        prepared = prepare(Config.load(folder / "config" / "config.json", words), facts,
                           run_probes=probing.on_this_machine())  # fmt: skip
        plan = prepared.plan

        def base(plan: Any, device: torch.device) -> Any:
            """The loaded model. The peak of memory is that of training, from here on."""
            model = transformer(plan, device)
            if row.profiled:
                profile.attach(model)
            if device.type != "cpu":
                torch.accelerator.reset_peak_memory_stats()
            return model

        train(prepared, (), base)
        peak = backends.module(plan.facts.vendor).used_bytes(plan.hardware.device.index)
    rows = [json.loads(x) for x in (output / "metrics.jsonl").read_text().splitlines()][:steps]
    return {
        "seconds": statistics.median(r["seconds"] for r in rows[-STEPS:]),
        "first_step_seconds": rows[0]["seconds"],
        "losses": [rows[0]["loss"], rows[-1]["loss"]],
        "peak_bytes": peak,
        **reckoned(plan),
        **({"kernels": profile.result()} if row.profiled else {}),
    }


class card_of:
    """The facts of this machine; with the memory of the row's card, and no more of it, inside."""

    def __init__(self, row: Row) -> None:
        self._chip = row.card

    def __enter__(self) -> Any:
        from sd3tune.backends.decide import chips
        from sd3tune.devices import observe

        if not FACTS:
            FACTS.append(observe())
        facts = FACTS[0]
        if self._chip is None or not facts.accelerated:
            return facts
        chip, device = chips.chip(self._chip), facts.devices[0]
        share = (chip.usable_bytes - CONTEXT_BYTES) / device.total_bytes
        torch.cuda.set_per_process_memory_fraction(share)
        small = replace(device, total_bytes=chip.reported_bytes, occupied_bytes=None,
                        usable_bytes=chip.usable_bytes)  # fmt: skip
        return replace(facts, devices=(small,))

    def __exit__(self, *error: object) -> None:
        if self._chip is not None and FACTS[0].accelerated:
            torch.cuda.set_per_process_memory_fraction(1.0)


def reckoned(plan: Any) -> dict[str, Any]:
    """What the plan of this very run says. Bytes are those that torch reports as allocated."""
    from sd3tune.backends.decide.limits import LIBRARY_BYTES
    from sd3tune.plan.duration import step_duration, step_operations

    load, memory = plan.memory.load, plan.memory
    expected = step_duration(plan, load.tokens)
    sheet = step_duration(replace(plan, facts=replace(plan.facts, rates={})), load.tokens)
    keeps = memory.keep.value
    return {
        "predicted_seconds": expected and expected.seconds,
        "predicted_error": expected and expected.error,
        "data_sheet_seconds": sheet and sheet.seconds,  # without the rates of the probe
        "predicted_bytes": memory.estimate.tensors + LIBRARY_BYTES[load.vendor],
        "operations": step_operations(plan, load.tokens),
        "plan": {
            "image_tokens": load.tokens,
            "attention": plan.attention.training.value,
            "attention_reason": plan.attention.training.reason,
            "compiler": plan.hardware.compiler.value,
            "keep": {kind: keeps.count(kind) for kind in sorted(set(keeps))},
            "modulations": memory.modulations.value,
            "precision": plan.precision.transformer.value,
            "blocks_to_swap": memory.blocks_to_swap.value,
            "dropout": load.dropout,
        },
    }


def predicted(row: Row, chip: str, counted: bool) -> dict[str, Any]:
    """What the plan says of a row at full size on a chip of the catalogue."""
    from sd3tune.backends.decide import chips
    from sd3tune.backends.decide.limits import LIBRARY_BYTES
    from sd3tune.config.config import Config
    from sd3tune.counted import counting
    from sd3tune.data.buckets import Geometry
    from sd3tune.data.discover import Sample
    from sd3tune.plan.inputs import RunInputs
    from sd3tune.plan.resolve import resolve
    from sd3tune.sd3.models import find

    side = (row.side, row.side)
    shape = Geometry(side, (0, 0), side, 1.0)
    samples = [Sample("d", f"{i}.png", f"{i}.png", side, ("x",), shape, i) for i in range(24)]
    name = HUB.format(row.model.removeprefix("sd"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({"output_dir": "o", "data_backend_config": "d",
                                    "max_train_steps": 1000}))  # fmt: skip
        words = [w for w in row.settings(row.side) if not w.startswith("pretrained")]
        config = Config.load(path, [*words, f"pretrained_model_name_or_path={name}"])
    facts = chips.facts(chips.chip(row.card or chip))
    plan = resolve(RunInputs(config, facts, find(name), samples))
    found = reckoned(plan)
    if counted:
        (made,) = counting.count(plan.model.transformer, [plan.memory.load])
        found["counted_bytes"] = made.peak and made.peak + LIBRARY_BYTES[facts.vendor]
    return found


def bare(folder: Path, row: Row, backend: str) -> dict[str, Any]:
    """The bare loop of the same work."""
    from bare_loop import Bare
    from diffusers import SD3Transformer2DModel

    device, half = accelerator(), torch.bfloat16
    model = SD3Transformer2DModel.from_pretrained(
        folder / "models" / row.model, subfolder="transformer", torch_dtype=half
    ).to(device)
    known, side = model.config, pixels(folder, row) // 8
    batch = (
        torch.randn(row.batch, 16, side, side, device=device),
        torch.randn(row.batch, 231, known.joint_attention_dim, device=device),
        torch.randn(row.batch, known.pooled_projection_dim, device=device),
    )
    if device != "cpu":
        torch.accelerator.reset_peak_memory_stats()
    checkpointed = CHECKPOINTING[row.checkpointing][0] == "gradient_checkpointing=true"
    loop = Bare(model, [batch], rank=row.rank, checkpointed=checkpointed, dropout=0.1,
                compiled=backend if row.compiled else None, autocast=half)  # fmt: skip
    times = []
    for _ in range(WARM + STEPS):
        started = time.perf_counter()
        loop.step()
        times.append(time.perf_counter() - started)
    peak = torch.accelerator.max_memory_allocated() if device != "cpu" else None
    return {"seconds": statistics.median(times[-STEPS:]), "first_step_seconds": times[0],
            "peak_bytes": peak}  # fmt: skip


def matmul_rate() -> float | None:
    """Operations a second of a large bf16 product on the accelerator; None without one."""
    device = accelerator()
    if device == "cpu":
        return None
    shape = (MATMUL_SIDE, MATMUL_SIDE)
    a, b = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))
    for count in (3, 10):
        torch.accelerator.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            a @ b
        torch.accelerator.synchronize()
    return 2 * MATMUL_SIDE**3 * 10 / (time.perf_counter() - started)
