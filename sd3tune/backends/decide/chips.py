"""Chips people rent or own, so that `--on NAME` answers for hardware one does not have.

Figures as the named documents give them, never measurements, and no opinions: what works on a chip
is for options.py to say. A row whose `checked` is empty was entered from memory, and whoever prints
its figures says so. Rates are dense (no sparsity), in units of 1e12 operations a second, for matrix
hardware with float32 accumulation where the vendor tells the two apart (GeForce cards are twice as
fast with float16 accumulation). None: the chip has no such path, or its vendor does not say.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from sd3tune.backends.observe.facts import Arch, Device, Facts, Family, Vendor
from sd3tune.errors import ConfigError
from sd3tune.tables.libraries import LIBRARIES

GIB = 2**30
NVIDIA, AMD, APPLE = "https://www.nvidia.com", "https://www.amd.com", "https://support.apple.com"
VOLTA = "https://images.nvidia.com/content/volta-architecture/pdf/volta-architecture-whitepaper.pdf"
TURING = f"{NVIDIA}/en-us/geforce/graphics-cards (NVIDIA Turing GPU architecture whitepaper)"
AMPERE = "NVIDIA Ampere GA102 GPU architecture whitepaper, appendix A"
ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A"
BLACKWELL = "NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A"
DATACENTER = f"{NVIDIA}/en-us/data-center (product data sheet)"
INSTINCT = f"{AMD}/en/products/accelerators/instinct (product data sheet)"
RADEON = f"{AMD}/en/products/graphics/desktops/radeon (product specifications)"
MAC = f"{APPLE}/specs (technical specifications of the Macs with this chip)"

# The versions that sd3tune installs for a vendor: `--on` assumes them.
ASSUMED_TORCH = "2.13.0"
ASSUMED_BUILD: dict[Vendor, tuple[str, str]] = {  # PyTorch build; CUDA, ROCm or macOS version
    "cuda": ("cu130", "13.0"),
    "rocm": ("rocm7.2", "7.2"),
    "mps": ("mps", "15.0"),
    "cpu": ("cpu", ""),
}
USABLE_ON_APPLE = 0.7  # Metal recommends 65 to 75 % of unified memory
USABLE = 0.95  # drivers and ECC reserve a few per cent of the marketed memory


@dataclass(frozen=True)
class Chip:
    """One chip. Memory as marketed: a driver reports slightly less."""

    key: str
    name: str
    vendor: Vendor
    arch: Arch
    memory_bytes: int  # Apple: the largest sold with it
    bandwidth_bytes_per_second: float | None
    fp32_flops: float | None
    fp16_flops: float | None
    bf16_flops: float | None
    fp8_flops: float | None
    int8_ops: float | None
    sources: tuple[str, ...]
    checked: str | None  # the date on which the figures were compared with the sources
    gpu_cores: int | None = None
    notes: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()


# One row a chip. Memory in GiB as marketed (Apple: the largest sold), bandwidth in GB/s, rates in
# 1e12 operations a second, GPU cores (Apple), checked: the date on which the figures were compared
# with the document, or -; the last column: other names of the chip, as `_plain` writes them.
# key | name | arch | GiB | GB/s | fp32 | fp16 | bf16 | fp8 | int8 | cores | checked | also called
TABLE = """
t4            |Tesla T4                        |sm_75   | 16| 320| 8.1|  65|   -|   -| 130| -|-|-
v100          |Tesla V100-SXM2-16GB            |sm_70   | 16| 900|15.7| 125|   -|   -|   -| -|-|v10016gb
v100-32gb     |Tesla V100-SXM2-32GB            |sm_70   | 32| 900|15.7| 125|   -|   -|   -| -|-|-
rtx2080ti     |NVIDIA GeForce RTX 2080 Ti      |sm_75   | 11| 616|13.4|53.8|   -|   -| 215| -|-|-
rtx3060       |NVIDIA GeForce RTX 3060         |sm_86   | 12| 360|12.7|25.5|25.5|   -| 102| -|-|rtx306012g rtx306012gb
rtx3090       |NVIDIA GeForce RTX 3090         |sm_86   | 24| 936|35.6|  71|  71|   -| 284| -|-|-
rtx4060ti     |NVIDIA GeForce RTX 4060 Ti 16GB |sm_89   | 16| 288|22.1|44.1|44.1|88.2| 176| -|-|rtx4060ti16g rtx4060ti16gb
rtx4070tisuper|NVIDIA GeForce RTX 4070 Ti SUPER|sm_89   | 16| 672|44.1|88.2|88.2| 176| 353| -|-|-
rtx4080       |NVIDIA GeForce RTX 4080         |sm_89   | 16| 717|48.7|97.5|97.5| 195| 390| -|-|-
rtx4090       |NVIDIA GeForce RTX 4090         |sm_89   | 24|1008|82.6| 165| 165| 330| 661| -|-|-
rtx5080       |NVIDIA GeForce RTX 5080         |sm_120  | 16| 960|56.3| 113| 113| 225| 450| -|-|-
rtx5090       |NVIDIA GeForce RTX 5090         |sm_120  | 32|1792| 105| 210| 210| 419| 838| -|-|-
a10           |NVIDIA A10                      |sm_86   | 24| 600|31.2| 125| 125|   -| 250| -|-|-
a40           |NVIDIA A40                      |sm_86   | 48| 696|37.4| 150| 150|   -| 299| -|-|-
a100-40gb     |NVIDIA A100-SXM4-40GB           |sm_80   | 40|1555|19.5| 312| 312|   -| 624| -|-|-
a100          |NVIDIA A100-SXM4-80GB           |sm_80   | 80|2039|19.5| 312| 312|   -| 624| -|-|a10080gb a100sxm
l4            |NVIDIA L4                       |sm_89   | 24| 300|30.3| 121| 121| 242| 242| -|-|-
l40s          |NVIDIA L40S                     |sm_89   | 48| 864|91.6| 362| 362| 733| 733| -|-|-
h100          |NVIDIA H100 80GB HBM3           |sm_90   | 80|3350|  67| 989| 989|1979|1979| -|-|h100sxm h100hbm3
h100-pcie     |NVIDIA H100 PCIe                |sm_90   | 80|2000|  51| 756| 756|1513|1513| -|-|-
h200          |NVIDIA H200                     |sm_90   |141|4800|  67| 989| 989|1979|1979| -|-|-
b200          |NVIDIA B200                     |sm_100  |180|7700|  75|2250|2250|4500|4500| -|-|-
rtxa6000      |NVIDIA RTX A6000                |sm_86   | 48| 768|38.7| 155| 155|   -| 310| -|-|a6000
rtx6000ada    |NVIDIA RTX 6000 Ada Generation  |sm_89   | 48| 960|91.1| 364| 364| 729| 729| -|-|-
rtxpro6000    |NVIDIA RTX PRO 6000 Blackwell   |sm_120  | 96|1792| 125| 504| 504|1008|1008| -|-|rtxpro6000blackwell
mi210         |AMD Instinct MI210              |gfx90a  | 64|1638|22.6| 181| 181|   -| 181| -|-|-
mi250x        |AMD Instinct MI250X (one GCD)   |gfx90a  | 64|1638|23.9| 191| 191|   -| 191| -|-|mi250
mi300x        |AMD Instinct MI300X             |gfx942  |192|5300| 163|1307|1307|2615|2615| -|-|-
mi325x        |AMD Instinct MI325X             |gfx942  |256|6000| 163|1307|1307|2615|2615| -|-|-
mi355x        |AMD Instinct MI355X             |gfx950  |288|8000| 157|2517|2517|5033|5033| -|-|-
rx7900xtx     |AMD Radeon RX 7900 XTX          |gfx1100 | 24| 960|61.4| 123| 123|   -| 123| -|-|-
rx9070xt      |AMD Radeon RX 9070 XT           |gfx1201 | 16| 640|48.7| 195| 195| 389| 389| -|-|-
m1            |Apple M1                        |m1      | 16|  68| 2.6|   -|   -|   -|   -| 8|-|-
m1-pro        |Apple M1 Pro                    |m1-pro  | 32| 200| 5.2|   -|   -|   -|   -|16|-|-
m1-max        |Apple M1 Max                    |m1-max  | 64| 400|10.4|   -|   -|   -|   -|32|-|-
m1-ultra      |Apple M1 Ultra                  |m1-ultra|128| 800|  21|   -|   -|   -|   -|64|-|-
m2            |Apple M2                        |m2      | 24| 100| 3.6|   -|   -|   -|   -|10|-|-
m2-pro        |Apple M2 Pro                    |m2-pro  | 32| 200|   -|   -|   -|   -|   -|19|-|-
m2-max        |Apple M2 Max                    |m2-max  | 96| 400|   -|   -|   -|   -|   -|38|-|-
m2-ultra      |Apple M2 Ultra                  |m2-ultra|192| 800|   -|   -|   -|   -|   -|76|-|-
m3            |Apple M3                        |m3      | 24| 100|   -|   -|   -|   -|   -|10|-|-
m3-pro        |Apple M3 Pro                    |m3-pro  | 36| 150|   -|   -|   -|   -|   -|18|-|-
m3-max        |Apple M3 Max                    |m3-max  |128| 400|   -|   -|   -|   -|   -|40|-|-
m3-ultra      |Apple M3 Ultra                  |m3-ultra|512| 819|   -|   -|   -|   -|   -|80|-|-
m4            |Apple M4                        |m4      | 32| 120|   -|   -|   -|   -|   -|10|-|-
m4-pro        |Apple M4 Pro                    |m4-pro  | 64| 273|   -|   -|   -|   -|   -|20|-|-
m4-max        |Apple M4 Max                    |m4-max  |128| 546|   -|   -|   -|   -|   -|40|-|-
m5            |Apple M5                        |m5      | 32| 153|   -|   -|   -|   -|   -|10|-|-
"""
VENDOR_OF: Mapping[Family, Vendor] = {"sm": "cuda", "gfx": "rocm", "apple": "mps"}
NOTES: Mapping[str, str] = {  # in a name -> what is said of its figures
    "GeForce": "rates are for float32 accumulation; float16 accumulation is twice as fast",
    "Apple": "the largest memory sold; unified, about seven tenths are for the GPU",
}


def chip(name: str) -> Chip:
    """The chip of that name, whatever its case, spaces, dashes and the maker's name. Raises
    ConfigError."""
    word = _plain(name)
    found = {name: c for c in CHIPS for name in (_plain(c.key), *c.also_called)}
    for guess in (word, f"rtx{word}", f"rx{word}"):
        if guess in found:
            return found[guess]
    close = get_close_matches(word, found, n=3, cutoff=0.5)
    near = ", ".join(dict.fromkeys(found[c].key for c in close))
    hint = f"did you mean {near}? " if close else ""
    raise ConfigError(
        f"unknown chip `{name}`", hint=f"{hint}`sd3tune doctor --on list` names them all"
    )


def keys() -> list[str]:
    return [c.key for c in CHIPS]


def facts(chip: Chip) -> Facts:
    """One such device with the software sd3tune installs for it. Compilers are unknown."""
    build, runtime = ASSUMED_BUILD[chip.vendor]
    if chip.arch.sm is not None and chip.arch.sm < 75:
        build = "cu126"
    usable = int(chip.memory_bytes * (USABLE_ON_APPLE if chip.vendor == "mps" else USABLE))
    device = Device(
        index=0,
        torch_device="mps" if chip.vendor == "mps" else "cuda:0",
        name=chip.name,
        arch=chip.arch,
        total_bytes=chip.memory_bytes,
        usable_bytes=usable,
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


def _rate(cell: str, unit: float = 1e12) -> float | None:
    return None if cell == "-" else float(cell) * unit


def read(table: str) -> tuple[Chip, ...]:
    """A chip of each row, in order. Raises ValueError for a row with other columns."""
    return tuple(_chip(*map(str.strip, line.split("|"))) for line in table.strip().splitlines())


def _chip(
    key: str, name: str, arch: str, memory: str, bandwidth: str, fp32: str, fp16: str, bf16: str,
    fp8: str, int8: str, cores: str, checked: str, also_called: str,
) -> Chip:  # fmt: skip
    """Its parameters are the columns."""
    family: Family = "sm" if arch.startswith("sm_") else "gfx" if arch[:3] == "gfx" else "apple"
    return Chip(
        key=key,
        name=name,
        vendor=VENDOR_OF[family],
        arch=Arch(family, arch),
        memory_bytes=int(memory) * GIB,
        bandwidth_bytes_per_second=_rate(bandwidth, 1e9),
        fp32_flops=_rate(fp32),
        fp16_flops=_rate(fp16),
        bf16_flops=_rate(bf16),
        fp8_flops=_rate(fp8),
        int8_ops=_rate(int8),
        sources=(_source(name, arch),),
        checked=None if checked == "-" else checked,
        gpu_cores=None if cores == "-" else int(cores),
        notes=tuple(words for part, words in NOTES.items() if part in name),
        also_called=() if also_called == "-" else tuple(also_called.split()),
    )


def _source(name: str, arch: str) -> str:
    """The document that has the figures."""
    for part, document in (("Instinct", INSTINCT), ("Radeon", RADEON), ("Apple", MAC),
                           ("V100", VOLTA)):  # fmt: skip
        if part in name:
            return document
    if "RTX" not in name:
        return DATACENTER
    return {"sm_75": TURING, "sm_86": AMPERE, "sm_89": ADA, "sm_120": BLACKWELL}[arch]


CHIPS = read(TABLE)


def _assumed_packages(vendor: Vendor) -> dict[str, str]:
    """The packages and versions that sd3tune installs for a vendor."""
    versions = {row.name: row.assumed for row in LIBRARIES.rows if row.assumed and vendor in row.on}
    return versions | ({"triton": "3.7.0"} if vendor in ("cuda", "rocm") else {})
