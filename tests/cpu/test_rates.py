"""The probe of rates, on the CPU that there is."""

import torch

from sd3tune.backends.decide.speeds import figures_of
from sd3tune.backends.kernels.rates import rates


def test_the_probe_measures_every_figure_that_a_speed_needs() -> None:
    figures = figures_of(rates(torch.device("cpu")))
    assert figures.keys() == {"matmul", "attention", "memory", "launch"}
    # A processor of any age: between a thousandth and a hundred times of 1e11 operations a second.
    assert 1e8 < figures["matmul"] < 1e13 and 1e8 < figures["attention"] < 1e13
    assert 1e8 < figures["memory"] < 1e12 and 1e-7 < figures["launch"] < 1e-2
