"""The catalogue: chips that people rent or own, one row each. Data only; chips.py reads it.

A figure is from a page that somebody has looked at, named in PAGES, or it was entered from memory:
then whoever prints it says "unverified". tests/pure/test_chip_figures.py computes bandwidths and
rates again from other figures of the vendors.
"""

# Pages that were looked at on 2026-11-27. Sellers and comparison sites repeat the data sheets of
# the vendors, whose own pages were out of reach.
PAGES = {
    "alldbin-3090": "cpu-gpu.alldbin.com: GeForce RTX 3090 and GeForce RTX 4070 AD103",
    "alldbin-4060ti": "cpu-gpu.alldbin.com: GeForce RTX 4060 Ti 8G and RTX 2070 mobile Refresh",
    "alldbin-t4": "cpu-gpu.alldbin.com: Tesla T4 and L40",
    "cputronic": "cputronic.com: GeForce RTX 3060 vs GeForce RTX 4070",
    "fpsbench-4060": "fpsbench.com: GeForce RTX 4060 vs T600",
    "fpsbench-5070": "fpsbench.com: Iris Xe MAX vs GeForce RTX 5070",
    "fpsbench-l4": "fpsbench.com: L4 vs Tesla M40",
    "gamingpcbuilder": "gamingpcbuilder.com: RTX 3090, 3080 and 3070 specifications",
    "hmc-7800": "hmc-tech.com: Radeon RX 9060 vs Radeon RX 7800 XT",
    "itcreations": "itcreations.com: GeForce RTX 3080",
    "libertify": "libertify.com: RTX Blackwell GPU architecture",
    "m5": "mikeshouts.com: Apple M5 Pro and M5 Max (after Apple's release of 2026-03-03)",
    "mi250": "zexron.com: AMD's table of MI250X and MI250; halved, one die is one device",
    "mobile": "cpu-gpu.alldbin.com: GeForce RTX 3060 mobile and GeForce RTX 4070 mobile",
    "modal": "github.com/modal-labs/modal-client/pull/2797: totals of nvidia-smi",
    "rocm": "rocmdocs.amd.com: GPU hardware specifications (2026-02-20)",
    "sourcecode": "store.sourcecode.com: L4, L40S, RTX 4000 to 6000 Ada, RTX PRO 6000",
    "topcpu": "topcpu.net: GeForce RTX 4080 vs GeForce RTX 3060",
}

# Memory in GiB as marketed (Apple: the largest sold); MiB that nvidia-smi reports as total, or -
# where that is the same (the page `modal` has T4, L4, A10, L40S, A100 and H100: cards with GDDR6
# and ECC report 6.25 % less than marketed); bandwidth in GB/s; dense rate
# of matrix products of 16-bit numbers with float32 sums, in 1e12 operations a second, or - where
# the chip has none or the vendor names no clock; page:figures that it confirms (m memory,
# b bandwidth, r rate), or -; other names of the chip, as chips.py writes them.
# key | name | arch | GiB | MiB reported | GB/s | T/s | seen | also called
TABLE = """
rtx2060         |NVIDIA GeForce RTX 2060              |sm_75   |  6|     -| 336|25.8|-|-
rtx2070         |NVIDIA GeForce RTX 2070              |sm_75   |  8|     -| 448|29.9|-|-
rtx2080         |NVIDIA GeForce RTX 2080              |sm_75   |  8|     -| 448|40.3|-|-
rtx2080ti       |NVIDIA GeForce RTX 2080 Ti           |sm_75   | 11|     -| 616|53.8|-|-
rtx3050         |NVIDIA GeForce RTX 3050              |sm_86   |  8|     -| 224|18.2|-|-
rtx3060         |NVIDIA GeForce RTX 3060              |sm_86   | 12|     -| 360|25.5|cputronic:mb|rtx306012g rtx306012gb
rtx3060-laptop  |NVIDIA GeForce RTX 3060 Laptop GPU   |sm_86   |  6|     -| 336|   -|mobile:mb|rtx3060mobile
rtx3060ti       |NVIDIA GeForce RTX 3060 Ti           |sm_86   |  8|     -| 448|32.4|-|-
rtx3070         |NVIDIA GeForce RTX 3070              |sm_86   |  8|     -| 448|40.6|gamingpcbuilder:m|-
rtx3070-laptop  |NVIDIA GeForce RTX 3070 Laptop GPU   |sm_86   |  8|     -| 448|   -|-|rtx3070mobile
rtx3070ti       |NVIDIA GeForce RTX 3070 Ti           |sm_86   |  8|     -| 608|43.5|-|-
rtx3070ti-laptop|NVIDIA GeForce RTX 3070 Ti Laptop GPU|sm_86   |  8|     -| 448|   -|-|rtx3070timobile
rtx3080         |NVIDIA GeForce RTX 3080              |sm_86   | 10|     -| 760|59.5|itcreations:mb|rtx308010g rtx308010gb
rtx3080-12gb    |NVIDIA GeForce RTX 3080 12GB         |sm_86   | 12|     -| 912|61.3|-|rtx308012g
rtx3080-laptop  |NVIDIA GeForce RTX 3080 Laptop GPU   |sm_86   | 16|     -| 448|   -|-|rtx3080mobile
rtx3080ti       |NVIDIA GeForce RTX 3080 Ti           |sm_86   | 12|     -| 912|68.2|-|-
rtx3080ti-laptop|NVIDIA GeForce RTX 3080 Ti Laptop GPU|sm_86   | 16|     -| 512|   -|-|rtx3080timobile
rtx3090         |NVIDIA GeForce RTX 3090              |sm_86   | 24|     -| 936|  71|alldbin-3090:mb|-
rtx3090ti       |NVIDIA GeForce RTX 3090 Ti           |sm_86   | 24|     -|1008|  80|-|-
rtx4050-laptop  |NVIDIA GeForce RTX 4050 Laptop GPU   |sm_89   |  6|     -| 192|   -|-|rtx4050 rtx4050mobile
rtx4060         |NVIDIA GeForce RTX 4060              |sm_89   |  8|     -| 272|30.2|fpsbench-4060:mb|-
rtx4060-laptop  |NVIDIA GeForce RTX 4060 Laptop GPU   |sm_89   |  8|     -| 256|   -|-|rtx4060mobile
rtx4060ti-8gb   |NVIDIA GeForce RTX 4060 Ti 8GB       |sm_89   |  8|     -| 288|44.1|alldbin-4060ti:mb|rtx4060ti8g
rtx4060ti       |NVIDIA GeForce RTX 4060 Ti 16GB      |sm_89   | 16|     -| 288|44.1|-|rtx4060ti16g rtx4060ti16gb
rtx4070         |NVIDIA GeForce RTX 4070              |sm_89   | 12|     -| 504|58.3|cputronic:mb|-
rtx4070-laptop  |NVIDIA GeForce RTX 4070 Laptop GPU   |sm_89   |  8|     -| 256|   -|mobile:mb|rtx4070mobile
rtx4070super    |NVIDIA GeForce RTX 4070 SUPER        |sm_89   | 12|     -| 504|  71|-|-
rtx4070ti       |NVIDIA GeForce RTX 4070 Ti           |sm_89   | 12|     -| 504|80.2|-|-
rtx4070tisuper  |NVIDIA GeForce RTX 4070 Ti SUPER     |sm_89   | 16|     -| 672|88.2|-|-
rtx4080         |NVIDIA GeForce RTX 4080              |sm_89   | 16|     -| 717|97.5|topcpu:mb|-
rtx4080-laptop  |NVIDIA GeForce RTX 4080 Laptop GPU   |sm_89   | 12|     -| 432|   -|-|rtx4080mobile
rtx4080super    |NVIDIA GeForce RTX 4080 SUPER        |sm_89   | 16|     -| 736| 104|-|-
rtx4090         |NVIDIA GeForce RTX 4090              |sm_89   | 24|     -|1008| 165|-|-
rtx4090-laptop  |NVIDIA GeForce RTX 4090 Laptop GPU   |sm_89   | 16|     -| 576|   -|-|rtx4090mobile
rtx5050         |NVIDIA GeForce RTX 5050              |sm_120  |  8|     -| 320|26.3|-|-
rtx5060         |NVIDIA GeForce RTX 5060              |sm_120  |  8|     -| 448|38.4|-|-
rtx5060-laptop  |NVIDIA GeForce RTX 5060 Laptop GPU   |sm_120  |  8|     -| 384|   -|-|rtx5060mobile
rtx5060ti-8gb   |NVIDIA GeForce RTX 5060 Ti 8GB       |sm_120  |  8|     -| 448|47.4|-|rtx5060ti8g
rtx5060ti       |NVIDIA GeForce RTX 5060 Ti 16GB      |sm_120  | 16|     -| 448|47.4|-|rtx5060ti16g rtx5060ti16gb
rtx5070         |NVIDIA GeForce RTX 5070              |sm_120  | 12|     -| 672|61.7|fpsbench-5070:mb|-
rtx5070-laptop  |NVIDIA GeForce RTX 5070 Laptop GPU   |sm_120  |  8|     -| 384|   -|-|rtx5070mobile
rtx5070ti       |NVIDIA GeForce RTX 5070 Ti           |sm_120  | 16|     -| 896|87.9|-|-
rtx5070ti-laptop|NVIDIA GeForce RTX 5070 Ti Laptop GPU|sm_120  | 12|     -| 672|   -|-|rtx5070timobile
rtx5080         |NVIDIA GeForce RTX 5080              |sm_120  | 16|     -| 960| 113|-|-
rtx5080-laptop  |NVIDIA GeForce RTX 5080 Laptop GPU   |sm_120  | 16|     -| 896|   -|-|rtx5080mobile
rtx5090         |NVIDIA GeForce RTX 5090              |sm_120  | 32|     -|1792| 210|libertify:mb|-
rtx5090-laptop  |NVIDIA GeForce RTX 5090 Laptop GPU   |sm_120  | 24|     -| 896|   -|-|rtx5090mobile
titanrtx        |NVIDIA TITAN RTX                     |sm_75   | 24|     -| 672| 130|-|-
rtxa2000        |NVIDIA RTX A2000 12GB                |sm_86   | 12|     -| 288|31.9|-|a2000
rtxa4000        |NVIDIA RTX A4000                     |sm_86   | 16|     -| 448|76.7|-|a4000
rtxa5000        |NVIDIA RTX A5000                     |sm_86   | 24|     -| 768| 111|-|a5000
rtxa6000        |NVIDIA RTX A6000                     |sm_86   | 48|     -| 768| 155|-|a6000
rtx4000ada      |NVIDIA RTX 4000 Ada Generation       |sm_89   | 20|     -| 360| 107|sourcecode:m|-
rtx5000ada      |NVIDIA RTX 5000 Ada Generation       |sm_89   | 32|     -| 576| 261|sourcecode:m|-
rtx6000ada      |NVIDIA RTX 6000 Ada Generation       |sm_89   | 48|     -| 960| 364|sourcecode:m|-
rtxpro6000      |NVIDIA RTX PRO 6000 Blackwell        |sm_120  | 96|     -|1792| 504|sourcecode:m|rtxpro6000blackwell
t4              |Tesla T4                             |sm_75   | 16| 15360| 320|  65|alldbin-t4:mb|-
v100            |Tesla V100-SXM2-16GB                 |sm_70   | 16|     -| 900| 125|-|v10016gb
v100-32gb       |Tesla V100-SXM2-32GB                 |sm_70   | 32|     -| 900| 125|-|-
a10             |NVIDIA A10                           |sm_86   | 24| 23028| 600| 125|modal:m|-
a10g            |NVIDIA A10G                          |sm_86   | 24| 23028| 600|   -|-|-
a30             |NVIDIA A30                           |sm_80   | 24|     -| 933| 165|-|-
a40             |NVIDIA A40                           |sm_86   | 48| 46068| 696| 150|-|-
a100-40gb       |NVIDIA A100-SXM4-40GB                |sm_80   | 40| 40960|1555| 312|modal:m|-
a100            |NVIDIA A100-SXM4-80GB                |sm_80   | 80| 81920|2039| 312|modal:m|a10080gb a100sxm
l4              |NVIDIA L4                            |sm_89   | 24| 23034| 300| 121|fpsbench-l4:mb|-
l40             |NVIDIA L40                           |sm_89   | 48| 46068| 864| 181|alldbin-t4:mb|-
l40s            |NVIDIA L40S                          |sm_89   | 48| 46068| 864| 362|sourcecode:mb|-
h100            |NVIDIA H100 80GB HBM3                |sm_90   | 80| 81559|3350| 989|modal:m|h100sxm h100hbm3
h100-pcie       |NVIDIA H100 PCIe                     |sm_90   | 80| 81559|2000| 756|-|-
h100-nvl        |NVIDIA H100 NVL                      |sm_90   | 94|     -|3938| 835|-|-
gh200           |NVIDIA GH200 480GB                   |sm_90   | 96|     -|4000| 989|-|-
h200            |NVIDIA H200                          |sm_90   |141|143771|4800| 989|-|-
b200            |NVIDIA B200                          |sm_100  |180|     -|7700|2250|-|-
mi210           |AMD Instinct MI210                   |gfx90a  | 64|     -|1638| 181|rocm:m|-
mi250           |AMD Instinct MI250 (one GCD)         |gfx90a  | 64|     -|1638| 181|mi250:mbr|-
mi250x          |AMD Instinct MI250X (one GCD)        |gfx90a  | 64|     -|1638| 191|mi250:mbr|-
mi300x          |AMD Instinct MI300X                  |gfx942  |192|     -|5300|1307|rocm:m|-
mi325x          |AMD Instinct MI325X                  |gfx942  |256|     -|6000|1307|rocm:m|-
mi355x          |AMD Instinct MI355X                  |gfx950  |288|     -|8000|2517|rocm:m|-
rx7600          |AMD Radeon RX 7600                   |gfx1102 |  8|     -| 288|43.5|-|-
rx7600xt        |AMD Radeon RX 7600 XT                |gfx1102 | 16|     -| 288|45.1|-|-
rx7700xt        |AMD Radeon RX 7700 XT                |gfx1101 | 12|     -| 432|70.3|-|-
rx7800xt        |AMD Radeon RX 7800 XT                |gfx1101 | 16|     -| 624|74.6|hmc-7800:m|-
rx7900gre       |AMD Radeon RX 7900 GRE               |gfx1100 | 16|     -| 576|  92|-|-
rx7900xt        |AMD Radeon RX 7900 XT                |gfx1100 | 20|     -| 800| 103|-|-
rx7900xtx       |AMD Radeon RX 7900 XTX               |gfx1100 | 24|     -| 960| 123|-|-
w7800           |AMD Radeon PRO W7800                 |gfx1100 | 32|     -| 576|90.5|-|-
w7900           |AMD Radeon PRO W7900                 |gfx1100 | 48|     -| 864| 123|-|-
rx9060xt        |AMD Radeon RX 9060 XT 16GB           |gfx1200 | 16|     -| 322| 103|-|rx9060xt16gb rx9060xt16g
rx9070          |AMD Radeon RX 9070                   |gfx1201 | 16|     -| 640| 145|-|-
rx9070xt        |AMD Radeon RX 9070 XT                |gfx1201 | 16|     -| 640| 195|-|-
r9700           |AMD Radeon AI PRO R9700              |gfx1201 | 32|     -| 640| 191|-|aipror9700
m1              |Apple M1                             |m1      | 16|     -|  68|   -|-|-
m1-pro          |Apple M1 Pro                         |m1-pro  | 32|     -| 200|   -|-|-
m1-max          |Apple M1 Max                         |m1-max  | 64|     -| 400|   -|-|-
m1-ultra        |Apple M1 Ultra                       |m1-ultra|128|     -| 800|   -|-|-
m2              |Apple M2                             |m2      | 24|     -| 100|   -|-|-
m2-pro          |Apple M2 Pro                         |m2-pro  | 32|     -| 200|   -|-|-
m2-max          |Apple M2 Max                         |m2-max  | 96|     -| 400|   -|-|-
m2-ultra        |Apple M2 Ultra                       |m2-ultra|192|     -| 800|   -|-|-
m3              |Apple M3                             |m3      | 24|     -| 100|   -|-|-
m3-pro          |Apple M3 Pro                         |m3-pro  | 36|     -| 150|   -|-|-
m3-max          |Apple M3 Max                         |m3-max  |128|     -| 400|   -|-|-
m3-ultra        |Apple M3 Ultra                       |m3-ultra|512|     -| 819|   -|-|-
m4              |Apple M4                             |m4      | 32|     -| 120|   -|-|-
m4-pro          |Apple M4 Pro                         |m4-pro  | 64|     -| 273|   -|-|-
m4-max          |Apple M4 Max                         |m4-max  |128|     -| 546|   -|-|-
m5              |Apple M5                             |m5      | 32|     -| 153|   -|-|-
m5-pro          |Apple M5 Pro                         |m5-pro  | 64|     -| 307|   -|m5:mb|-
m5-max          |Apple M5 Max                         |m5-max  |128|     -| 614|   -|m5:mb|-
"""
