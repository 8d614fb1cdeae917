"""How fast a device computes what a training step consists of.

A data sheet names the fastest that a chip can do. What a step reaches of it depends on its kernels,
so every rate of a data sheet is multiplied by a share. The shares of SHARES were fitted to runs on
an H200 (sm_90) and to the published times of an L40S; those of other chips are guesses, and the
answer carries the error that must be expected. Where the device is here, the probe `rates`
measures instead (kernels/rates.py). docs/reference/step-time.md compares predicted with measured
times.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sd3tune.backends.decide import chips, product_speeds
from sd3tune.backends.observe.facts import Arch, Facts
from sd3tune.tables.buses import bus_bytes_per_second

# Host seconds of one kernel: Python, autograd and the driver. The demo's step on an H200 (about
# 1,100 kernels, 33 ms) is the only figure.
LAUNCH_SECONDS = 15e-6
# What a step reaches of the figures that the probe measures. On a card its products are smaller and
# its memory-bound kernels shorter: the shares are those of an H200's figures, and the probe has not
# run on one. On a CPU they were fitted to a step of the demo's model and one of 78 million weights
# (one thread, its own time). A kernel of a step is called through modules, hooks and autocast.
OF_MEASURED_CARD = {"matmul": 0.85, "attention": 1.0, "memory": 0.66, "launch": 4.0}
OF_MEASURED_CPU = {"matmul": 1.0, "attention": 1.0, "memory": 0.35, "launch": 5.0}
CARD_ERROR, CPU_ERROR = 0.25, 0.3
GUESSED_ERROR = 0.6  # of products in 8 bits that were not measured
FIGURES = {  # of the probe's words: name -> pattern, unit
    "matmul": (r"matmul ([\d.e+-]+) TFLOP/s", 1e12),
    "attention": (r"attention ([\d.e+-]+) TFLOP/s", 1e12),
    "memory": (r"memory ([\d.e+-]+) GB/s", 1e9),
    "launch": (r"([\d.e+-]+) us a kernel", 1e-6),
}


@dataclass(frozen=True)
class Shares:
    """What a step reaches of the data sheet. error: of the time, relative."""

    matmul: float  # of the rate of dense 16-bit products
    attention: float  # of the same rate, backward pass included
    memory: float  # of the bandwidth
    error: float


# Architecture -> shares; the longest beginning of its name counts.
SHARES: Mapping[str, Shares] = {
    "sm_70": Shares(0.60, 0.15, 0.65, 0.5),
    "sm_75": Shares(0.45, 0.15, 0.70, 0.5),
    "sm_80": Shares(0.75, 0.50, 0.60, 0.3),
    "sm_86": Shares(0.70, 0.50, 0.75, 0.4),
    "sm_89": Shares(0.68, 0.50, 0.77, 0.3),
    "sm_90": Shares(0.68, 0.28, 0.56, 0.1),
    "sm_100": Shares(0.60, 0.16, 0.56, 0.5),
    "sm_120": Shares(0.68, 0.45, 0.75, 0.4),
    "gfx90a": Shares(0.45, 0.20, 0.50, 0.5),
    "gfx94": Shares(0.45, 0.20, 0.50, 0.5),
    "gfx95": Shares(0.40, 0.16, 0.50, 0.5),
    "gfx11": Shares(0.50, 0.20, 0.60, 0.6),
    "gfx12": Shares(0.50, 0.20, 0.60, 0.6),
    "m": Shares(0.60, 0.30, 0.60, 0.6),
}
# Rates in 1e12 operations a second of chips whose makers print none: cores x 256 operations x an
# assumed clock for Apple's GPUs, half of the desktop card's clock range for laptops' cards (their
# power limits decide). Estimates from memory.
ESTIMATED_RATES: Mapping[str, float] = {
    "m1": 2.6, "m1-pro": 5.3, "m1-max": 10.6, "m1-ultra": 21.2,
    "m2": 3.6, "m2-pro": 6.8, "m2-max": 13.6, "m2-ultra": 27.2,
    "m3": 3.5, "m3-pro": 6.4, "m3-max": 14.2, "m3-ultra": 28.4,
    "m4": 4.3, "m4-pro": 8.1, "m4-max": 16.2,
    "m5": 4.3, "m5-pro": 8.6, "m5-max": 17.2,
    "rtx3060-laptop": 21, "rtx3070-laptop": 30, "rtx3070ti-laptop": 32, "rtx3080-laptop": 37,
    "rtx3080ti-laptop": 45, "rtx4050-laptop": 18, "rtx4060-laptop": 23, "rtx4070-laptop": 31,
    "rtx4080-laptop": 49, "rtx4090-laptop": 66, "rtx5060-laptop": 25, "rtx5070-laptop": 35,
    "rtx5070ti-laptop": 45, "rtx5080-laptop": 58, "rtx5090-laptop": 80, "a10g": 70,
}  # fmt: skip
ESTIMATED_ERROR = 0.6


@dataclass(frozen=True)
class Speed:
    """Rates that a training step reaches.

    error: of a time that follows from them, relative. in_turn: the host starts a kernel when the
    one before is done, as a CPU does; else it runs ahead of the device.
    """

    matmul: float  # operations a second, of linear layers
    attention: float  # operations a second, forward and backward together
    memory: float  # bytes a second, of kernels that memory limits
    launch_seconds: float
    link: float  # bytes a second between host memory and device
    error: float
    source: str
    in_turn: bool = False
    streaming: float = 0.0  # bytes a second of long vectors, as an optimizer's; 0: as `memory`
    # Quantisation scheme -> how many times as fast its products are; measured ones only.
    products: Mapping[str, float] = field(default_factory=dict)

    def multiplying(self, scheme: str) -> "Speed":
        """The same device where linear layers are quantised in that scheme."""
        ratio = product_speeds.ratio_of(scheme, self.products, native=not self.in_turn)
        guessed = scheme in product_speeds.multiplying() and scheme not in self.products
        error = max(self.error, GUESSED_ERROR) if guessed else self.error
        return replace(self, matmul=self.matmul * ratio, error=error)


def speed(facts: Facts) -> Speed | None:
    """Of the slowest device: measured where the probe ran, else from the catalogue; None where
    neither knows it."""
    known = measured(facts) if facts.rates else None
    if known is None and (chip := chips.of_device(facts.weakest.name)) is not None:
        known = catalogued(chip)
    return None if known is None else replace(known, products=product_speeds.ratios(facts))


def catalogued(chip: chips.Chip) -> Speed | None:
    """From the data sheet; None for a chip without a rate and without an estimate."""
    shares = shares_of(chip.arch)
    estimate = ESTIMATED_RATES.get(re.sub(r"-\d+gb$", "", chip.key))
    rate = chip.half_flops or (estimate and estimate * 1e12)
    if shares is None or not rate:
        return None
    error = shares.error if chip.half_flops else max(shares.error, ESTIMATED_ERROR)
    return Speed(
        matmul=rate * shares.matmul,
        attention=rate * shares.attention,
        memory=chip.bandwidth_bytes_per_second * shares.memory,
        launch_seconds=LAUNCH_SECONDS,
        link=link_of(chip.arch, chip.name, chip.bandwidth_bytes_per_second),
        error=error,
        source="data sheet" if chip.half_flops else "an estimated rate: its maker prints none",
    )


def shares_of(arch: Arch) -> Shares | None:
    """The row whose name begins the architecture's; None: no row does."""
    known = [name for name in SHARES if arch.name.startswith(name)]
    return SHARES[max(known, key=len)] if known else None


def link_of(arch: Arch, name: str, bandwidth: float) -> float:
    """Bytes a second from host memory to the device. CPUs and Apple's chips have one memory."""
    if arch.family in ("apple", "cpu"):
        return bandwidth
    return bus_bytes_per_second(arch.name, name)


def measured(facts: Facts) -> Speed:
    """From the figures of the probe, all of FIGURES."""
    cpu = not facts.accelerated
    shares = OF_MEASURED_CPU if cpu else OF_MEASURED_CARD
    of = {name: share * facts.rates[name] for name, share in shares.items()}
    return Speed(
        matmul=of["matmul"],
        attention=of["attention"],
        memory=of["memory"],
        launch_seconds=of["launch"],
        link=link_of(facts.weakest.arch, facts.weakest.name, of["memory"]),
        error=CPU_ERROR if cpu else CARD_ERROR,
        source="measured on this machine",
        in_turn=cpu,
        streaming=facts.rates["memory"] if cpu else 0.0,
    )


def figures_of(words: str) -> dict[str, float]:
    """The numbers in the probe's words, in operations, bytes and seconds; empty where one lacks."""
    hits = {name: (re.search(p, words), unit) for name, (p, unit) in FIGURES.items()}
    found = {name: float(hit[1]) * unit for name, (hit, unit) in hits.items() if hit}
    return found if found.keys() == FIGURES.keys() else {}
