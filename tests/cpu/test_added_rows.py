"""A row that is added to a table is built, applied and stored by the code that reads the table."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.demo import tiny
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.quant import store
from sd3tune.sd3.models import find
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.tables.dataset_types import DATASET_TYPES
from sd3tune.tables.loss_types import LOSS_TYPES, LossType
from sd3tune.tables.loss_weightings import LOSS_WEIGHTINGS
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS
from sd3tune.tables.optimizers import OPTIMIZERS, Optimizer
from sd3tune.tables.schemes import SCHEMES, Scheme
from sd3tune.tables.storages import STORAGES
from sd3tune.tables.table import load
from sd3tune.train.begin import begin
from sd3tune.train.latent_loss import distance
from sd3tune.train.optim import build
from tests.cpu.adapted import question
from tests.cpu.conftest import Prepare

PLAIN = Optimizer(
    "made-up-sgd", "torch.optim:SGD", 4.0, "momentum", "made up", fixed={"momentum": 0.25}
)


@pytest.mark.slow
def test_the_trainer_builds_an_added_optimizer(prepared: Prepare) -> None:
    with OPTIMIZERS.extended(PLAIN):
        plan = prepared("optimizer=made-up-sgd", "optimizer_config=momentum=0.5").plan
        optimizer = begin(plan, ALONE_ON_CPU).optimizer
        fixed = build("made-up-sgd", [nn.Parameter(torch.zeros(2))], 1e-2, {})
    assert type(optimizer) is torch.optim.SGD and optimizer.param_groups[0]["momentum"] == 0.5
    assert fixed.param_groups[0]["momentum"] == 0.25


def test_an_added_scheme_is_applied_kept_and_read(tmp_path: Path) -> None:
    """quanto's int8 under another name, which its rows do not know."""
    made_up = Scheme(
        "made-up-int8", 1.0, "made up", library="optimum-quanto", weights="qint8",
        quantise="sd3tune.quant.quanto:quantise", restore="sd3tune.quant.quanto:restore",
    )  # fmt: skip
    torch.manual_seed(0)
    model = tiny.transformer(tiny.SHAPES["sd3.5-medium"]).eval()
    with torch.device("meta"):
        read = tiny.transformer(tiny.SHAPES["sd3.5-medium"]).eval()
    with SCHEMES.extended(made_up), torch.no_grad():
        shrunk = quant.apply(model, "made-up-int8")
        path = store.place(tmp_path, "id", "made-up-int8", quant.TRANSFORMER)
        assert store.save(model, path) is None
        assert store.load(read, path, "made-up-int8", quant.TRANSFORMER, "float8_e4m3fn")
        assert torch.equal(model(**question())[0], read(**question())[0])
    assert shrunk.after < shrunk.before


def l3(d: Tensor) -> Tensor:
    """What a program that brings a loss of its own would write."""
    return d.abs() ** 3


@pytest.mark.slow
def test_an_added_loss_is_what_the_trainer_takes(prepared: Prepare) -> None:
    ours = LossType("made-up-l3", f"{__name__}:l3", "made up", "|d|³")
    with LOSS_TYPES.extended(ours):
        change = distance(prepared("loss_type=made-up-l3").plan.loss, torch.tensor([0.5]))
    assert change(torch.tensor([-2.0])).item() == 8.0


REFERENCES = [
    *(pytest.param(row.open, id=row.name) for row in STORAGES.rows),
    *(pytest.param(row.settings, id=row.name) for row in DATASET_TYPES.rows),
    *(pytest.param(row.share, id=row.name) for row in LR_SCHEDULERS.rows),
    *(pytest.param(row.distance, id=row.name) for row in LOSS_TYPES.rows),
    *(pytest.param(row.weight, id=row.name) for row in LOSS_WEIGHTINGS.rows),
    *(pytest.param(o.build, id=o.name) for o in OPTIMIZERS.rows),
    *(
        pytest.param(reference, id=f"{s.name}-{which}")
        for s in SCHEMES.rows
        for which, reference in (("quantise", s.quantise), ("restore", s.restore))
        if reference
    ),
]


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_reference_of_a_row_leads_to_something(reference: str) -> None:
    if reference.startswith("torchao"):
        pytest.importorskip("torchao")
    assert callable(load(reference))


def test_the_demo_makes_an_added_architecture(tmp_path: Path) -> None:
    small = replace(
        ARCHITECTURES["sd3.5-large"], name="sd3.5-small", aliases=(), tiny={"num_layers": 1}
    )
    with ARCHITECTURES.extended(small):
        tiny.write(tmp_path / "model", "sd3.5-small")
        assert find(str(tmp_path / "model")).transformer.layers == 1
