"""The probes of rates, on the CPU that there is."""

import torch

from sd3tune.backends.decide import product_speeds
from sd3tune.backends.decide.speeds import figures_of
from sd3tune.backends.kernels.rates import rates
from sd3tune.quant import linear_probes


def test_the_probe_measures_every_figure_that_a_speed_needs() -> None:
    figures = figures_of(rates(torch.device("cpu")))
    assert figures.keys() == {"matmul", "attention", "memory", "launch"}
    # A processor of any age: between a thousandth and a hundred times of 1e11 operations a second.
    assert 1e8 < figures["matmul"] < 1e13 and 1e8 < figures["attention"] < 1e13
    assert 1e8 < figures["memory"] < 1e12 and 1e-7 < figures["launch"] < 1e-2


def test_the_probe_times_a_block_with_each_product_that_runs_here() -> None:
    name = product_speeds.probe_of(16, 64, "fp32")
    (answer,) = linear_probes.run("cpu", [name]).values()
    assert answer["ok"], answer["words"]
    times = product_speeds.read(str(answer["words"]))
    assert times.keys() == {"no_change", "int8-w8a8", "fp8-w8a8"}  # fp8 is simulated on a CPU
    assert all(1e-6 < each < 10 for each in times.values())
