"""Chips of the catalogue, so that `--on NAME` answers for hardware that one does not have.

Figures come from documents, never from measurements, and say nothing about what works on a chip:
that is for options.py. A figure that nobody has compared with a page is unverified, and whoever
prints it says so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from sd3tune.backends.decide import limits
from sd3tune.backends.decide.catalogue import PAGES, TABLE
from sd3tune.backends.observe.facts import Arch, Device, Facts, Family, Vendor
from sd3tune.errors import ConfigError
from sd3tune.tables.libraries import LIBRARIES

GIB, MIB = 2**30, 2**20
# The versions that sd3tune installs for a vendor: `--on` assumes them.
ASSUMED_TORCH = "2.13.0"
ASSUMED_BUILD: dict[Vendor, tuple[str, str]] = {  # PyTorch build; CUDA, ROCm or macOS version
    "cuda": ("cu130", "13.0"),
    "rocm": ("rocm7.2", "7.2"),
    "mps": ("mps", "15.0"),
    "cpu": ("cpu", ""),
}
VENDOR_OF: Mapping[Family, Vendor] = {"sm": "cuda", "gfx": "rocm", "apple": "mps"}
CONFIRMED = {"m": "memory", "b": "bandwidth", "r": "rate"}  # letters of the table
UNVERIFIED = "unverified: entered from memory"
SMALLEST_MAC = 8  # GiB


@dataclass(frozen=True)
class Chip:
    """One chip."""

    key: str
    name: str
    vendor: Vendor
    arch: Arch
    memory_bytes: int  # as marketed; Apple: the largest sold with it
    reported_bytes: int  # what the driver reports as total
    bandwidth_bytes_per_second: float
    half_flops: float | None  # dense products of 16-bit numbers; None: no such unit, or no figure
    page: str | None = None  # that was compared with the row; None: nobody did
    confirmed: tuple[str, ...] = ()  # figures that it confirms, of CONFIRMED
    also_called: tuple[str, ...] = ()

    def source(self, figure: str) -> str:
        """Where one of CONFIRMED was read: a page, or UNVERIFIED."""
        return self.page if self.page and figure in self.confirmed else UNVERIFIED

    @property
    def memory_words(self) -> str:
        """Marketed and usable memory, for people."""
        words = f"{self.memory_bytes / GIB:.0f} GiB"
        words += f", of which a run may fill {self.usable_bytes / GIB:.2f} GiB"
        return words + ("; --on NAME-64gb means less" if self.vendor == "mps" else "")

    @property
    def usable_bytes(self) -> int:
        """What a run may fill on an unused device."""
        runtime = ASSUMED_BUILD[self.vendor][1]
        return limits.usable_bytes(self.vendor, self.reported_bytes, runtime)


def chip(name: str) -> Chip:
    """The chip of that name, whatever its case, spaces, dashes and the maker's name. Apple's chips
    are sold with several sizes of memory: `m4-max-64gb`. Raises ConfigError."""
    word = _plain(name)
    known = {name: c for c in CHIPS for name in (_plain(c.key), *c.also_called)}
    for guess in (word, f"rtx{word}", f"rx{word}"):
        if guess in known:
            return known[guess]
    if (smaller := _with_memory(word, known)) is not None:
        return smaller
    close = get_close_matches(word, known, n=3, cutoff=0.5)
    near = ", ".join(dict.fromkeys(known[c].key for c in close))
    hint = f"did you mean {near}? " if close else ""
    hint += "`sd3tune plan --on list` names them all"
    raise ConfigError(f"unknown chip `{name}`", hint=hint)


def of_device(name: str) -> Chip | None:
    """The chip that a driver calls `name`; None: it is not in the catalogue."""
    word = _plain(name)
    return next(
        (c for c in CHIPS if c.name == name or word in (_plain(c.key), *c.also_called)), None
    )


def keys() -> list[str]:
    return [c.key for c in CHIPS]


def facts(chip: Chip) -> Facts:
    """One such device, unused, with the software sd3tune installs for it. Compilers are unknown."""
    build, runtime = ASSUMED_BUILD[chip.vendor]
    if chip.arch.sm is not None and chip.arch.sm < 75:
        build = "cu126"
    device = Device(
        index=0,
        torch_device="mps" if chip.vendor == "mps" else "cuda:0",
        name=chip.name,
        arch=chip.arch,
        total_bytes=chip.reported_bytes,
        usable_bytes=chip.usable_bytes,
    )
    return Facts(
        vendor=chip.vendor,
        devices=(device,),
        torch=ASSUMED_TORCH,
        torch_build=build,
        runtime=runtime,
        ram_bytes=chip.memory_bytes if chip.vendor == "mps" else None,
        packages=_assumed_packages(chip.vendor),
        origin="catalog",
    )


def _plain(name: str) -> str:
    word = re.sub(r"[\s_\-]+", "", name.lower())
    for maker in ("nvidia", "geforce", "tesla", "amd", "radeon", "instinct", "apple"):
        word = word.removeprefix(maker)
    return word


def _with_memory(word: str, known: Mapping[str, Chip]) -> Chip | None:
    """A Mac with less memory than the largest: `m4max64gb`."""
    macs = {name: chip for name, chip in known.items() if chip.vendor == "mps"}
    for name, largest in macs.items():
        match = re.fullmatch(rf"{name}(\d+)gb?", word)
        size = int(match.group(1)) * GIB if match else 0
        if SMALLEST_MAC * GIB <= size <= largest.memory_bytes:
            key = f"{largest.key}-{size // GIB}gb"
            return replace(largest, key=key, memory_bytes=size, reported_bytes=size)
    return None


def read(table: str) -> tuple[Chip, ...]:
    """A chip of each row, in order. Raises ValueError for a row with other columns."""
    return tuple(_chip(*map(str.strip, line.split("|"))) for line in table.strip().splitlines())


def _chip(
    key: str, name: str, arch: str, memory: str, reported: str, bandwidth: str, rate: str,
    seen: str, also_called: str,
) -> Chip:  # fmt: skip
    """Its parameters are the columns."""
    family: Family = "sm" if arch.startswith("sm_") else "gfx" if arch[:3] == "gfx" else "apple"
    page, _, letters = seen.partition(":")
    marketed = int(memory) * GIB
    return Chip(
        key=key,
        name=name,
        vendor=VENDOR_OF[family],
        arch=Arch(family, arch),
        memory_bytes=marketed,
        reported_bytes=marketed if reported == "-" else int(reported) * MIB,
        bandwidth_bytes_per_second=float(bandwidth) * 1e9,
        half_flops=None if rate == "-" else float(rate) * 1e12,
        page=None if seen == "-" else PAGES[page],
        confirmed=tuple(CONFIRMED[letter] for letter in letters),
        also_called=() if also_called == "-" else tuple(also_called.split()),
    )


CHIPS = read(TABLE)


def _assumed_packages(vendor: Vendor) -> dict[str, str]:
    """The packages and versions that sd3tune installs for a vendor."""
    versions = {row.name: row.assumed for row in LIBRARIES.rows if row.assumed and vendor in row.on}
    return versions | ({"triton": "3.7.0"} if vendor in ("cuda", "rocm") else {})
