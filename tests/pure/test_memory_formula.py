"""The formula of memory beside what was counted and measured at full size."""

from typing import Any

import pytest

from sd3tune.backends.decide.limits import LIBRARY_BYTES
from sd3tune.plan.memory import GIB
from tests.memory_rows import EVERY, ROWS
from tests.plans import plan


@pytest.mark.parametrize("model, side, settings, counted, measured", ROWS)
def test_the_formula_agrees_with_counted_and_measured_peaks(
    model: str, side: int, settings: dict[str, Any], counted: float, measured: float | None
) -> None:
    formula = plan("h200", model, side=side, **(EVERY | settings)).memory.estimate.tensors
    assert formula / GIB == pytest.approx(counted, rel=0.03)
    if measured is not None:
        allocated = (formula + LIBRARY_BYTES["cuda"]) / GIB
        assert allocated == pytest.approx(measured, rel=0.02)
