"""The room a checkpoint needs is known before it is begun, whatever is written beside it."""

from pathlib import Path

import pytest
from torch import nn

from sd3tune.adapters import lora
from sd3tune.tables.dialects import DIALECTS
from tests.cpu.adapted import quantised

EVERYTHING = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "add_q_proj", "proj_out")
HEADER_BYTES = 40_000


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("targets", [EVERYTHING, ("to_k",)])
@pytest.mark.parametrize("kind", ["plain", "dora", "pissa"])
def test_the_file_of_an_adapter_is_as_large_as_foretold(
    dialect: str, targets: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    init: lora.Init = "pissa" if kind == "pissa" else "default"
    shape = lora.Shape(8, 8, 0, targets, dora=kind == "dora", init=init)
    model = quantised("no_change")
    adapter = lora.attach(
        model, shape, dtype=next(model.parameters()).dtype, seed=1, dialect=dialect
    )
    for name, parameter in adapter.named().items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    values = adapter.values()
    written = adapter.write(tmp_path, values, {}).stat().st_size
    foretold = adapter.file_bytes(values)
    assert written - HEADER_BYTES <= foretold <= written
