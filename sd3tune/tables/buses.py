"""How fast a card is fed from host memory, and how fast a host multiplies: what decides where the
modulations are computed. Figures are of documents, one was measured; they decide between two ways
that give the same result.

A lane of PCI Express carries 8, 16 or 32 GT/s in generations 3, 4 and 5, coded 128b/130b: 0.985,
1.969 and 3.938 GB/s (PCI-SIG, Base Specification 5.0). An H200 on generation 5 x16 (63 GB/s)
received 54 GB/s from pinned memory: 0.86 of it; 0.8 is assumed for the others. Generations are
those of NVIDIA's and AMD's architecture papers.
"""

LANE_BYTES = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9}  # a second
REACHED = 0.8
MEASURED = {"sm_90": 54e9}  # H200, driver 580
# Architecture -> generation. Cards of an architecture that is not here: generation 4.
GENERATIONS = {
    "sm_70": 3, "sm_75": 3, "sm_80": 4, "sm_86": 4, "sm_89": 4, "sm_90": 5, "sm_100": 5,
    "sm_103": 5, "sm_120": 5, "gfx906": 4, "gfx908": 4, "gfx90a": 4, "gfx942": 5, "gfx950": 5,
    "gfx1030": 4, "gfx1100": 4, "gfx1101": 4, "gfx1102": 4, "gfx1200": 5, "gfx1201": 5,
}  # fmt: skip
# Cards with half the lanes, by the beginning of their names (NVIDIA and AMD product pages).
HALF = ("NVIDIA GeForce RTX 4060", "NVIDIA GeForce RTX 4050", "NVIDIA GeForce RTX 5060",
        "NVIDIA GeForce RTX 5050", "AMD Radeon RX 7600")  # fmt: skip
# Bytes of bf16 weights that one core multiplies a second by the vectors of one to four images:
# 4.8 to 10.6 GB/s on an AMD EPYC with AVX512-BF16 (2 cores, torch 2.13).
HOST_BYTES_PER_CORE = 5e9


def bus_bytes_per_second(arch: str, name: str) -> float:
    """From host memory to a card of this architecture and name."""
    lanes = 8 if name.startswith(HALF) else 16
    if lanes == 16 and arch in MEASURED:
        return MEASURED[arch]
    return REACHED * lanes * LANE_BYTES[GENERATIONS.get(arch, 4)]
