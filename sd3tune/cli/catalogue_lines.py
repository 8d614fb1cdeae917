"""The catalogue of chips as a table, for `doctor --on list` and `plan --on list`."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from sd3tune.backends.decide.chips import CHIPS, GIB, Chip
from sd3tune.backends.observe.facts import MAKERS

HEAD = ("NAME", "chip", "GiB usable", "GB/s", "TFLOP/s")
# `?` follows a figure that nobody has compared with a page.
NOTES = (
    "GiB usable: of the marketed memory, on a device that nobody else uses. Apple:",
    "of the largest memory sold; for another size write it behind: m4-max-64gb.",
    "TFLOP/s: dense products of 16-bit numbers. ?: unverified, entered from memory;",
    "`doctor --on NAME` names the pages with which other figures were compared.",
)


def catalogue_lines(chips: Iterable[Chip] = CHIPS) -> list[str]:
    """A line per chip, by maker; none is wider than 80 columns."""
    lines = ["", _row(*HEAD)]
    for vendor, group in groupby(chips, key=lambda chip: chip.vendor):
        lines += ["", MAKERS[vendor], *(_row(*_cells(chip)) for chip in group)]
    return [*lines[1:], "", *NOTES]


def document(chips: Iterable[Chip] = CHIPS) -> dict[str, Any]:
    """The same as JSON data: bytes, bytes a second, operations a second, and which are verified."""
    return {
        "chips": [
            {
                "name": chip.key,
                "chip": chip.name,
                "architecture": chip.arch.name,
                "memory_bytes": chip.memory_bytes,
                "reported_bytes": chip.reported_bytes,
                "usable_bytes": chip.usable_bytes,
                "bandwidth_bytes_per_second": chip.bandwidth_bytes_per_second,
                "half_flops": chip.half_flops,
                "verified": list(chip.confirmed),
                "source": chip.page,
            }
            for chip in chips
        ]
    }


def _cells(chip: Chip) -> tuple[str, str, str, str, str]:
    def marked(words: str, figure: str) -> str:
        return words + (" " if figure in chip.confirmed else "?")

    memory = f"{chip.usable_bytes / GIB:.1f} of {chip.memory_bytes / GIB:.0f}"
    rate = "-" if chip.half_flops is None else f"{chip.half_flops / 1e12:.0f}"
    return (
        chip.key,
        chip.name.removeprefix("NVIDIA ").removeprefix("AMD "),
        marked(memory, "memory"),
        marked(f"{chip.bandwidth_bytes_per_second / 1e9:.0f}", "bandwidth"),
        rate + " " if chip.half_flops is None else marked(rate, "rate"),
    )


def _row(name: str, chip: str, memory: str, bandwidth: str, rate: str) -> str:
    return f"{name:<16} {chip:<31} {memory:>13} {bandwidth:>6} {rate:>8}".rstrip()
