"""What the engines call the cards of the catalogue.

SkyPilot: sky/utils/gpu_names.py and the tables of its clouds (0.14.1); several names are the same
card at different clouds. dstack: gpuhunt/_internal/constraints.py (0.1.34), with the memory where a
name is sold with several. Ray: ray/util/accelerators (2.60.0). `-`: the engine has no name for the
card. The label of an AMD card on Kubernetes is its PCI device id, from gpuhunt's table too; that of
an NVIDIA card is the name that its driver reports.

MI250 and MI250X: the catalogue counts one of their two dies, and the engines count the package.
"""

from dataclasses import dataclass

# key | SkyPilot | dstack | Ray | PCI device id of an AMD card
TABLE = """
rtx2060         |-                       |RTX2060:6GB     |-                       |
rtx2070         |-                       |RTX2070         |-                       |
rtx2080         |-                       |RTX2080         |-                       |
rtx2080ti       |-                       |RTX2080Ti       |-                       |
rtx3050         |-                       |RTX3050:8GB     |-                       |
rtx3060         |-                       |RTX3060:12GB    |-                       |
rtx3060ti       |-                       |RTX3060Ti       |-                       |
rtx3070         |RTX3070                 |RTX3070         |-                       |
rtx3070ti       |-                       |RTX3070Ti       |-                       |
rtx3080         |RTX3080                 |RTX3080         |-                       |
rtx3080ti       |RTX3080Ti               |RTX3080Ti       |-                       |
rtx3090         |RTX3090                 |RTX3090         |-                       |
rtx3090ti       |RTX3090Ti               |RTX3090Ti       |-                       |
rtx4060         |-                       |RTX4060         |-                       |
rtx4060ti-8gb   |-                       |RTX4060Ti:8GB   |-                       |
rtx4060ti       |-                       |RTX4060Ti:16GB  |-                       |
rtx4070         |-                       |RTX4070         |-                       |
rtx4070super    |-                       |RTX4070SUPER    |-                       |
rtx4070ti       |RTX4070Ti               |RTX4070Ti       |-                       |
rtx4070tisuper  |-                       |RTX4070TiSUPER  |-                       |
rtx4080         |RTX4080                 |RTX4080         |-                       |
rtx4080super    |RTX4080SUPER            |RTX4080SUPER    |-                       |
rtx4090         |RTX4090                 |RTX4090         |-                       |
rtx5060         |-                       |RTX5060         |-                       |
rtx5060ti-8gb   |-                       |RTX5060Ti:8GB   |-                       |
rtx5060ti       |-                       |RTX5060Ti:16GB  |-                       |
rtx5070         |-                       |RTX5070         |-                       |
rtx5070ti       |-                       |RTX5070Ti       |-                       |
rtx5080         |RTX5080                 |RTX5080         |-                       |
rtx5090         |RTX5090                 |RTX5090         |-                       |
rtxa2000        |RTXA2000                |-               |-                       |
rtxa4000        |RTXA4000,A4000          |A4000           |-                       |
rtxa5000        |RTXA5000,A5000          |A5000           |-                       |
rtxa6000        |RTXA6000,A6000          |A6000           |-                       |
rtx4000ada      |RTX4000-Ada             |RTX4000Ada      |-                       |
rtx5000ada      |RTX5000-Ada             |-               |-                       |
rtx6000ada      |RTX6000-Ada             |RTX6000Ada      |-                       |
rtxpro6000      |RTXPRO6000              |RTXPRO6000      |RTX-PRO-6000            |
t4              |T4                      |T4              |T4                      |
v100            |V100                    |V100:16GB       |V100                    |
v100-32gb       |V100-32GB               |V100:32GB       |-                       |
a10             |A10                     |A10             |-                       |
a10g            |A10G                    |A10G            |A10G                    |
a30             |A30                     |-               |-                       |
a40             |A40                     |A40             |-                       |
a100-40gb       |A100                    |A100:40GB       |A100                    |
a100            |A100-80GB,A100-80GB-SXM |A100:80GB       |A100-80G                |
l4              |L4                      |L4              |L4                      |
l40             |L40                     |L40             |-                       |
l40s            |L40S                    |L40S            |L40S                    |
h100            |H100,H100-SXM           |H100            |H100                    |
h100-pcie       |H100                    |H100            |H100                    |
h100-nvl        |H100-NVL                |H100NVL         |-                       |
gh200           |GH200                   |GH200           |-                       |
h200            |H200,H200-SXM           |H200            |H200                    |
b200            |B200                    |B200            |B200                    |
mi210           |MI210                   |MI210           |AMD-Instinct-MI210      |740f
mi300x          |MI300X                  |MI300X          |AMD-Instinct-MI300X-OAM |74a1
mi325x          |MI325X                  |MI325X          |AMD-Instinct-MI325X-OAM |74a5
mi355x          |MI355X                  |MI355X          |AMD-Instinct-MI355X-OAM |75a3
"""


@dataclass(frozen=True)
class CardNames:
    """The names of one card; empty where an engine has none."""

    sky: tuple[str, ...] = ()
    dstack: str = ""
    ray: str = ""
    device_id: str = ""


def _row(line: str) -> tuple[str, CardNames]:
    key, sky, dstack, ray, device_id = (cell.strip().removesuffix("-") for cell in line.split("|"))
    names = tuple(name for name in sky.split(",") if name)
    return key, CardNames(names, dstack, ray, device_id)


CARD_NAMES = dict(map(_row, TABLE.strip().splitlines()))


def names_of(key: str) -> CardNames:
    """key: of the catalogue. A card that no engine has a name for has no names."""
    return CARD_NAMES.get(key, CardNames())
