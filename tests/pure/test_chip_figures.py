"""The figures of the catalogue, computed from other figures of the same vendors.

A rate or a bandwidth in the catalogue is one number that somebody typed. Here it is a product of
numbers that the catalogue does not hold: arithmetic units, clocks, widths of buses and rates of
pins, as vendors print them (whitepapers of the architectures; data sheets of the boards). A vendor
rounds its headline: three per cent are allowed. Usable memory is compared with what users of the
cards have seen.
"""

import pytest

from sd3tune.backends.decide import chips, limits
from sd3tune.cli import catalogue_lines

GIB = 2**30
# chip: float32 units, boost clock in MHz, bus in bits, Gbit/s a pin, matrix rate / vector rate.
# Units are counted twice where one issues two operations a clock (RDNA 3 and 4, CDNA 3 and 4).
# Fused multiply-adds of matrix units a clock and multiprocessor: Volta and Turing 512 beside 64
# units, GA100 1024 beside 64, GA10x, Ada and GB20x 512 beside 128, Hopper 2048 beside 128; GeForce
# and L40 have half of it with float32 accumulation. None: the matrix units have their own clock.
PRINTED: dict[str, tuple[int, int, int, float, float | None]] = {
    "rtx2060": (1920, 1680, 192, 14, 4),
    "rtx2070": (2304, 1620, 256, 14, 4),
    "rtx2080": (2944, 1710, 256, 14, 4),
    "rtx2080ti": (4352, 1545, 352, 14, 4),
    "titanrtx": (4608, 1770, 384, 14, 8),
    "t4": (2560, 1590, 256, 10, 8),
    "v100": (5120, 1530, 4096, 1.752, 8),
    "v100-32gb": (5120, 1530, 4096, 1.752, 8),
    "rtx3050": (2560, 1777, 128, 14, 2),
    "rtx3060": (3584, 1777, 192, 15, 2),
    "rtx3060ti": (4864, 1665, 256, 14, 2),
    "rtx3070": (5888, 1725, 256, 14, 2),
    "rtx3070ti": (6144, 1770, 256, 19, 2),
    "rtx3080": (8704, 1710, 320, 19, 2),
    "rtx3080-12gb": (8960, 1710, 384, 19, 2),
    "rtx3080ti": (10240, 1665, 384, 19, 2),
    "rtx3090": (10496, 1695, 384, 19.5, 2),
    "rtx3090ti": (10752, 1860, 384, 21, 2),
    "rtx4060": (3072, 2460, 128, 17, 2),
    "rtx4060ti-8gb": (4352, 2535, 128, 18, 2),
    "rtx4060ti": (4352, 2535, 128, 18, 2),
    "rtx4070": (5888, 2475, 192, 21, 2),
    "rtx4070super": (7168, 2475, 192, 21, 2),
    "rtx4070ti": (7680, 2610, 192, 21, 2),
    "rtx4070tisuper": (8448, 2610, 256, 21, 2),
    "rtx4080": (9728, 2505, 256, 22.4, 2),
    "rtx4080super": (10240, 2550, 256, 23, 2),
    "rtx4090": (16384, 2520, 384, 21, 2),
    "rtx5050": (2560, 2572, 128, 20, 2),
    "rtx5060": (3840, 2497, 128, 28, 2),
    "rtx5060ti-8gb": (4608, 2572, 128, 28, 2),
    "rtx5060ti": (4608, 2572, 128, 28, 2),
    "rtx5070": (6144, 2512, 192, 28, 2),
    "rtx5070ti": (8960, 2452, 256, 28, 2),
    "rtx5080": (10752, 2617, 256, 30, 2),
    "rtx5090": (21760, 2407, 512, 28, 2),
    "rtxa2000": (3328, 1200, 192, 12, 4),
    "rtxa4000": (6144, 1560, 256, 14, 4),
    "rtxa5000": (8192, 1695, 384, 16, 4),
    "rtxa6000": (10752, 1800, 384, 16, 4),
    "rtx4000ada": (6144, 2175, 160, 18, 4),
    "rtx5000ada": (12800, 2550, 256, 18, 4),
    "rtx6000ada": (18176, 2505, 384, 20, 4),
    "rtxpro6000": (24064, 2617, 512, 28, 4),
    "a10": (9216, 1695, 384, 12.5, 4),
    "a30": (3584, 1440, 3072, 2.43, 16),
    "a40": (10752, 1740, 384, 14.5, 4),
    "a100-40gb": (6912, 1410, 5120, 2.43, 16),
    "a100": (6912, 1410, 5120, 3.186, 16),
    "l4": (7424, 2040, 192, 12.5, 4),
    "l40": (18176, 2490, 384, 18, 2),
    "l40s": (18176, 2520, 384, 18, 4),
    "h100": (16896, 1980, 5120, 5.23, None),
    "h100-pcie": (14592, 1755, 5120, 3.2, None),
    "h200": (16896, 1980, 6144, 6.25, None),
    "mi210": (6656, 1700, 4096, 3.2, 8),
    "mi250": (6656, 1700, 4096, 3.2, 8),  # one of its two dies, as PyTorch shows it
    "mi250x": (7040, 1700, 4096, 3.2, 8),
    "mi300x": (2 * 19456, 2100, 8192, 5.2, 8),
    "mi325x": (2 * 19456, 2100, 8192, 5.86, 8),
    "mi355x": (2 * 16384, 2400, 8192, 8, 16),
    "rx7600": (2 * 2048, 2655, 128, 18, 2),
    "rx7600xt": (2 * 2048, 2755, 128, 18, 2),
    "rx7700xt": (2 * 3456, 2544, 192, 18, 2),
    "rx7800xt": (2 * 3840, 2430, 256, 19.5, 2),
    "rx7900gre": (2 * 5120, 2245, 256, 18, 2),
    "rx7900xt": (2 * 5376, 2400, 320, 20, 2),
    "rx7900xtx": (2 * 6144, 2500, 384, 20, 2),
    "w7800": (2 * 4480, 2499, 256, 18, 2),
    "w7900": (2 * 6144, 2495, 384, 18, 2),
    "rx9060xt": (2 * 2048, 3130, 128, 20.1, 4),
    "rx9070": (2 * 3584, 2520, 256, 20, 4),
    "rx9070xt": (2 * 4096, 2970, 256, 20, 4),
    "r9700": (2 * 4096, 2920, 256, 20, 4),
}
# chip: bus in bits, Gbit/s a pin. Laptops have no fixed clock; of Apple's chips LPDDR4X-4266,
# LPDDR5-6400, LPDDR5X-7500, -8533 and -9600.
BUSES = {
    "rtx3060-laptop": (192, 14), "rtx3070-laptop": (256, 14), "rtx3070ti-laptop": (256, 14),
    "rtx3080-laptop": (256, 14), "rtx3080ti-laptop": (256, 16), "rtx4050-laptop": (96, 16),
    "rtx4060-laptop": (128, 16), "rtx4070-laptop": (128, 16), "rtx4080-laptop": (192, 18),
    "rtx4090-laptop": (256, 18), "rtx5060-laptop": (128, 24), "rtx5070-laptop": (128, 24),
    "rtx5070ti-laptop": (192, 28), "rtx5080-laptop": (256, 28), "rtx5090-laptop": (256, 28),
    "a10g": (384, 12.5),
    "m1": (128, 4.266), "m1-pro": (256, 6.4), "m1-max": (512, 6.4), "m1-ultra": (1024, 6.4),
    "m2": (128, 6.4), "m2-pro": (256, 6.4), "m2-max": (512, 6.4), "m2-ultra": (1024, 6.4),
    "m3": (128, 6.4), "m3-pro": (192, 6.4), "m3-max": (512, 6.4), "m3-ultra": (1024, 6.4),
    "m4": (128, 7.5), "m4-pro": (256, 8.533), "m4-max": (512, 8.533),
    "m5": (128, 9.6), "m5-pro": (256, 9.6), "m5-max": (512, 9.6),
}  # fmt: skip
WITHOUT = {"b200", "gh200", "h100-nvl"}


def near(value: float) -> object:
    return pytest.approx(value, rel=0.03)


@pytest.mark.parametrize("key", PRINTED)
def test_rates_are_units_times_clocks_and_buses_times_pins(key: str) -> None:
    units, megahertz, bits, gigabits, ratio = PRINTED[key]
    chip = chips.chip(key)
    assert chip.bandwidth_bytes_per_second == near(bits * gigabits * 1e9 / 8)
    if ratio is not None:
        assert chip.half_flops == near(ratio * 2 * units * megahertz * 1e6)


@pytest.mark.parametrize("key", BUSES)
def test_the_bandwidth_of_a_chip_without_a_clock_is_that_of_its_memory(key: str) -> None:
    bits, gigabits = BUSES[key]
    assert chips.chip(key).bandwidth_bytes_per_second == near(bits * gigabits * 1e9 / 8)
    assert chips.chip(key).half_flops is None


def test_a_matrix_product_measured_on_an_h200_is_below_its_rate_and_near_it() -> None:
    """795e12 a second, 8192 x 8192 in bf16, torch 2.11: big products reach 70 to 90 per cent."""
    rate = chips.chip("h200").half_flops
    assert rate is not None and 0.7 < 795e12 / rate < 0.9


def test_every_chip_of_the_catalogue_is_checked_here_or_named_as_unchecked() -> None:
    assert {chip.key for chip in chips.CHIPS} == {*PRINTED, *BUSES, *WITHOUT}


# What nvidia-smi reports as total and what torch sees, GiB: users of the cards.
SEEN = {
    "t4": (15.0, 14.56), "l4": (22.49, None), "a10": (22.49, None), "a40": (44.99, None),
    "l40s": (44.99, 44.53), "h100": (79.65, 79.2), "h200": (140.4, 139.7), "rtx4090": (24.0, 23.52),
    "mi300x": (192.0, 191.69),
    "m1": (16, 10.67), "m2": (24, 16.0), "m4": (32, 21.33), "m2-max": (96, 72.0),
    "m1-max": (64, 48.0), "m3-max": (128, 96.0), "m3-pro": (36, 24.0), "m4-max-64gb": (64, 48.0),
}  # fmt: skip


@pytest.mark.parametrize("key", SEEN)
def test_usable_memory_is_what_torch_sees_of_what_the_driver_reports(key: str) -> None:
    reported, usable = SEEN[key]
    device = chips.facts(chips.chip(key)).weakest
    assert device.total_bytes is not None and device.usable_bytes is not None
    assert device.total_bytes / GIB == pytest.approx(reported, abs=0.03)
    if usable is not None:
        assert device.usable_bytes / GIB == pytest.approx(usable, abs=0.05)
    assert device.usable_bytes < device.total_bytes <= chips.chip(key).memory_bytes


@pytest.mark.parametrize(
    "gigabytes, macos, usable",
    [
        (16, None, 10.67),
        (36, "26.0", 24),
        (48, "15.6", 36),
        (128, "15.7", 96),
        (128, "26.1", 107.5),
    ],
)
def test_a_newer_macos_lends_more_of_a_large_memory(
    gigabytes: int, macos: str | None, usable: float
) -> None:
    got = limits.metal_recommends(gigabytes * GIB, macos) / GIB
    assert got == pytest.approx(usable, abs=0.05)


def test_the_catalogue_is_a_table_of_80_columns_and_marks_what_nobody_has_verified() -> None:
    lines = catalogue_lines.catalogue_lines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line for line in lines if line}
    assert {chip.key for chip in chips.CHIPS} <= set(rows)
    assert rows["mi250"].split()[-3:] == ["64", "1638", "181"], "compared with AMD's table"
    assert rows["v100"].split()[-3:] == ["16?", "900?", "125?"], "entered from memory"
    assert "unverified" in " ".join(lines)
    assert all((chip.page is None) == (not chip.confirmed) for chip in chips.CHIPS)
