"""Loss curves of runs with 8-bit products beside the unquantised run, and beside what else makes
two runs differ (`eight_bit.py loss`).

Weights-only runs multiply by the dequantised weights, so their difference is that of rounding
weights alone. `bf16 weights` are the unquantised ones rounded to bf16, as a card has them, with
everything else in float32. `last digit` changes every weight by half a digit of float32: what
another order of sums does, and a measure of chaos.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TENTHS = 10
LoadBase = Callable[[Any, torch.device], Any]


@dataclass(frozen=True)
class Curve:
    """losses: of every step. before, after: evaluation loss. worst_layer: of the certificate."""

    losses: Sequence[float]
    before: float
    after: float
    worst_layer: float


def as_planned(plan: Any, device: torch.device) -> Any:
    from sd3tune import load

    return load.transformer(plan, device)


def weights_only(plan: Any, device: torch.device) -> Any:
    from sd3tune.quant import product_errors

    model = as_planned(plan, device)
    for layer in product_errors.layers(model).values():
        layer.weights_only = True
    return model


def bf16_weights(plan: Any, device: torch.device) -> Any:
    """The weights that a scheme would quantise."""
    from sd3tune import quant
    from sd3tune.quant.patterns import matching

    model = as_planned(plan, device)
    for name in matching(model, quant.TRANSFORMER):
        weight = model.get_submodule(name).weight
        weight.data = weight.data.bfloat16().to(weight.dtype)
    return model


def last_digit(plan: Any, device: torch.device) -> Any:
    model, dice = as_planned(plan, device), torch.Generator().manual_seed(7)
    for weight in model.parameters():
        weight.data.mul_(1 + (torch.rand(weight.shape, generator=dice) - 0.5) * 2**-22)
    return model


def ways(schemes: Sequence[str], *, yardsticks: bool) -> dict[str, tuple[str, LoadBase]]:
    """Scheme and base model of each run, by the name in the result; the first is the reference."""
    chosen: dict[str, tuple[str, LoadBase]] = {"no_change": ("no_change", as_planned)}
    chosen |= {scheme: (scheme, as_planned) for scheme in schemes}
    if yardsticks:
        chosen |= {f"{scheme}, weights only": (scheme, weights_only) for scheme in schemes}
        chosen |= {"bf16 weights": ("no_change", bf16_weights)}
        chosen |= {"last digit": ("no_change", last_digit)}
    return chosen


def curve(folder: Path, name: str, scheme: str, base: LoadBase, words: Sequence[str]) -> Curve:
    """Of one run with the demo in `folder`."""
    from sd3tune.backends.decide.admission import recorded
    from sd3tune.config.config import Config
    from sd3tune.devices import observe
    from sd3tune.prepare import prepare
    from sd3tune.train.run import train

    output = folder / name.replace(" ", "-")
    own = ("validation_disable=true", "lr_warmup_steps=0", "lr_scheduler=constant",
           "resume_from_checkpoint=never", "checkpoint_step_interval=100000",
           f"base_model_precision={scheme}", f"output_dir={output}", *words)  # fmt: skip
    config = Config.load(folder / "demo" / "config" / "config.json", own)
    found = train(prepare(config, observe(), run_probes=recorded({})), (), base)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    errors = output / "eight_bit_products.json"
    certificate = json.loads(errors.read_text()) if errors.exists() else {"errors": {}}
    worst = max((max(e.values()) for e in certificate["errors"].values()), default=0.0)
    assert found.loss_before is not None and found.loss_after is not None
    losses = [json.loads(line)["loss"] for line in lines]
    return Curve(losses, found.loss_before, found.loss_after, worst)


def difference(ours: Curve, theirs: Curve) -> dict[str, float]:
    """step: the largest of all steps. tenth: of the mean of a tenth of the run. evaluation,
    at_the_start: ours minus theirs after and before training."""
    apart = [a - b for a, b in zip(ours.losses, theirs.losses, strict=True)]
    size = max(1, len(apart) // TENTHS)
    tenths = [sum(apart[i : i + size]) / size for i in range(0, len(apart) - size + 1, size)]
    return {
        "step": max(map(abs, apart)),
        "tenth": max(map(abs, tenths)),
        "mean": sum(apart) / len(apart),
        "evaluation": ours.after - theirs.after,
        "at_the_start": ours.before - theirs.before,
        "worst_layer": ours.worst_layer,
    }


def measured(asked: Any) -> dict[str, Any]:
    """The differences of every seed and run."""
    from sd3tune.demo import write

    os.environ["SD3TUNE_BACKEND"] = "cpu"
    rows: dict[str, Any] = {}
    fell: dict[str, float] = {}
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent)
            write(folder / "demo", model=asked.model)
            words = (f"learning_rate={asked.rate}", f"seed={seed}",
                     f"max_train_steps={asked.steps}")  # fmt: skip
            plain: Curve | None = None
            for name, (scheme, base) in ways(asked.schemes, yardsticks=asked.yardsticks).items():
                ours = curve(folder, name, scheme, base, words)
                plain = plain or ours
                if ours is plain:
                    fell[str(seed)] = ours.before - ours.after
                    continue
                rows[f"seed {seed}, {name}"] = found = difference(ours, plain)
                print(f"seed {seed}, {name}: " + "  ".join(
                    f"{key} {value:.1e}" for key, value in found.items()), flush=True)  # fmt: skip
    return {"model": asked.model, "rate": asked.rate, "steps": asked.steps,
            "differences": rows, "evaluation_fell_by": fell}  # fmt: skip
