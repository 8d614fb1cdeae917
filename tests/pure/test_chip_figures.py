"""The rates of the catalogue, computed from other figures of the same documents.

A rate in the catalogue is one number that somebody typed. Here it is a product of numbers that the
catalogue does not hold: arithmetic units, clocks, widths of buses and rates of pins, as vendors
print them (whitepapers of the architectures; data sheets of the boards). A vendor rounds its
headline: three per cent are allowed. Without such figures: b200, and the clocks of Apple's chips
from M2 Pro on, which Apple does not print.
"""

import pytest

from sd3tune.backends.decide import chips

# chip: float32 units, boost clock in MHz, bus in bits, Gbit/s a pin, matrix rate / vector rate.
# Units are counted twice where one issues two operations a clock (RDNA 3 and 4, CDNA 3 and 4).
# Fused multiply-adds of matrix units a clock and multiprocessor: Volta and Turing 512 beside 64
# units, GA100 1024 beside 64, GA10x, Ada and GB20x 512 beside 128, Hopper 2048 beside 128; GeForce
# has half of it with float32 accumulation. None: the matrix units have a clock of their own.
PRINTED: dict[str, tuple[int, int, int, float, float | None]] = {
    "t4": (2560, 1590, 256, 10, 8),
    "v100": (5120, 1530, 4096, 1.752, 8),
    "v100-32gb": (5120, 1530, 4096, 1.752, 8),
    "rtx2080ti": (4352, 1545, 352, 14, 4),
    "rtx3060": (3584, 1777, 192, 15, 2),
    "rtx3090": (10496, 1695, 384, 19.5, 2),
    "rtx4060ti": (4352, 2535, 128, 18, 2),
    "rtx4070tisuper": (8448, 2610, 256, 21, 2),
    "rtx4080": (9728, 2505, 256, 22.4, 2),
    "rtx4090": (16384, 2520, 384, 21, 2),
    "rtx5080": (10752, 2617, 256, 30, 2),
    "rtx5090": (21760, 2407, 512, 28, 2),
    "a10": (9216, 1695, 384, 12.5, 4),
    "a40": (10752, 1740, 384, 14.5, 4),
    "a100-40gb": (6912, 1410, 5120, 2.43, 16),
    "a100": (6912, 1410, 5120, 3.186, 16),
    "l4": (7424, 2040, 192, 12.5, 4),
    "l40s": (18176, 2520, 384, 18, 4),
    "h100": (16896, 1980, 5120, 5.23, None),
    "h100-pcie": (14592, 1755, 5120, 3.2, None),
    "h200": (16896, 1980, 6144, 6.25, None),
    "rtxa6000": (10752, 1800, 384, 16, 4),
    "rtx6000ada": (18176, 2505, 384, 20, 4),
    "rtxpro6000": (24064, 2617, 512, 28, 4),
    "mi210": (6656, 1700, 4096, 3.2, 8),
    "mi250x": (7040, 1700, 4096, 3.2, 8),  # one of its two dies, as PyTorch shows it
    "mi300x": (2 * 19456, 2100, 8192, 5.2, 8),
    "mi325x": (2 * 19456, 2100, 8192, 5.86, 8),
    "mi355x": (2 * 16384, 2400, 8192, 8, 16),
    "rx7900xtx": (2 * 6144, 2500, 384, 20, 2),
    "rx9070xt": (2 * 4096, 2970, 256, 20, 4),
}
# chip: bus in bits, Mbit/s a pin (LPDDR4X-4266, LPDDR5-6400, LPDDR5X-7500, -8533, -9600)
UNIFIED = {
    "m1": (128, 4266), "m1-pro": (256, 6400), "m1-max": (512, 6400), "m1-ultra": (1024, 6400),
    "m2": (128, 6400), "m2-pro": (256, 6400), "m2-max": (512, 6400), "m2-ultra": (1024, 6400),
    "m3": (128, 6400), "m3-pro": (192, 6400), "m3-max": (512, 6400), "m3-ultra": (1024, 6400),
    "m4": (128, 7500), "m4-pro": (256, 8533), "m4-max": (512, 8533), "m5": (128, 9600),
}  # fmt: skip
WITHOUT = {"b200"}


def near(value: float) -> object:
    return pytest.approx(value, rel=0.03)


@pytest.mark.parametrize("key", PRINTED)
def test_rates_are_units_times_clocks_and_buses_times_pins(key: str) -> None:
    units, megahertz, bits, gigabits, ratio = PRINTED[key]
    chip = chips.chip(key)
    assert chip.fp32_flops == near(vector := 2 * units * megahertz * 1e6)
    assert chip.bandwidth_bytes_per_second == near(bits * gigabits * 1e9 / 8)
    if ratio is not None:
        assert chip.fp16_flops == near(ratio * vector)


@pytest.mark.parametrize("key", UNIFIED)
def test_the_bandwidth_of_apple_s_chips_is_that_of_their_memory(key: str) -> None:
    bits, megabits = UNIFIED[key]
    assert chips.chip(key).bandwidth_bytes_per_second == near(bits * megabits * 1e6 / 8)


def test_apple_s_first_two_generations_compute_128_units_a_core() -> None:
    for key, megahertz in {"m1": 1278, "m1-pro": 1296, "m1-max": 1296, "m2": 1398}.items():
        chip = chips.chip(key)
        assert chip.gpu_cores and chip.fp32_flops == near(
            2 * 128 * chip.gpu_cores * megahertz * 1e6
        )


def test_a_matrix_product_measured_on_an_h200_is_below_its_rate_and_near_it() -> None:
    """795e12 a second, 8192 x 8192 in bf16, torch 2.11: big products reach 70 to 90 per cent."""
    rate = chips.chip("h200").bf16_flops
    assert rate is not None and 0.7 < 795e12 / rate < 0.9


def test_bf16_begins_with_ampere_fp8_with_ada_and_doubles_the_rate() -> None:
    """Matrix units by architecture: NVIDIA's CUDA programming guide, compute capabilities."""
    for chip in chips.CHIPS:
        if (sm := chip.arch.sm) is not None:
            assert (chip.bf16_flops is not None) == (sm >= 80), chip.key
            assert (chip.fp8_flops is not None) == (sm >= 89), chip.key
        if chip.fp8_flops is not None and chip.bf16_flops is not None:
            assert chip.fp8_flops == near(2 * chip.bf16_flops), chip.key


def test_every_chip_of_the_catalogue_is_checked_here_or_named_as_unchecked() -> None:
    assert {chip.key for chip in chips.CHIPS} == {*PRINTED, *UNIFIED, *WITHOUT}
    assert all(chip.sources for chip in chips.CHIPS)


def test_apple_s_gpu_may_use_less_than_all_of_the_memory() -> None:
    """Metal recommends 65 to 75 per cent of unified memory, as users have measured it."""
    for key in UNIFIED:
        chip = chips.chip(key)
        usable = chips.facts(chip).weakest.usable_bytes
        assert usable is not None and 0.65 <= usable / chip.memory_bytes <= 0.75
