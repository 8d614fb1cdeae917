"""How fast discovery reads headers beside a plain loop, and how it grows.

    python benchmarks/discovery.py [--images N] [--rounds N] [--json FILE]
    python benchmarks/discovery.py --grow [COUNT ...]     10000 30000 100000 unless given

The first compares discovery of 2,000 JPEGs (listing, headers, captions from file names, geometry)
with `Image.open(path).size` for each of them; the two take turns in one process. `ratio` is the
plain loop's time to ours, so above 1 ours is faster; 0.9 is the target. `cpu` is the same in
seconds of this thread.

With --grow each measurement is a fresh process, so that its peak memory is its own: seconds and
images per second of discovery, of one epoch's order, and peak memory beyond the imports.
"""

import json
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from machine import alternating, parser, report, summary

SIZES = [(1024 + 64 * (i % 23), 768 + 64 * (i * 7 % 19)) for i in range(400)]
JPEGS = 2000


def png_header(size: tuple[int, int]) -> bytes:
    """A PNG up to its first pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT\0\0\0\0\0\0\0\0"


def headers(folder: Path, count: int) -> None:
    for i in range(count):
        place = folder / f"{i // 1000:04d}"
        place.mkdir(exist_ok=True)
        (place / f"a_photo_number_{i}.png").write_bytes(png_header(SIZES[i % len(SIZES)]))


def jpegs(folder: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    dice = np.random.default_rng(0)
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        noise = dice.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"a_photo_number_{i}.jpg", quality=90)


def peak_mib() -> float:
    scale = 1024 if platform.system() == "Linux" else 1024 * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def measure(folder: Path) -> dict[str, float]:
    """In this process."""
    from sd3tune.config.datasets.image_dataset import ImageDataset
    from sd3tune.data.discover import discover
    from sd3tune.data.order import Schedule, Share
    from sd3tune.data.sources import source_of

    dataset = ImageDataset(
        id="bench",
        instance_data_dir=folder,
        resolution=1024,
        resolution_type="pixel_area",
        cache_dir_vae=folder.parent / "nothing-here",
    )
    before, started = peak_mib(), time.perf_counter()
    found = discover(dataset, source_of(dataset))
    looked = time.perf_counter()
    batches = Schedule([Share("bench", found.samples, 4)], 0).epoch(0)
    ordered = time.perf_counter()
    return {
        "images": len(found.samples),
        "seconds": looked - started,
        "images_per_second": len(found.samples) / (looked - started),
        "order_seconds": ordered - looked,
        "batches": len(batches),
        "peak_mib": peak_mib() - before,
    }


def beside_a_loop(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Discovery and a plain loop over headers, in this process."""
    from PIL import Image

    from sd3tune.config.datasets.image_dataset import ImageDataset
    from sd3tune.data.discover import discover
    from sd3tune.data.sources import source_of

    dataset = ImageDataset(id="bench", instance_data_dir=folder, resolution=1024,
                           resolution_type="pixel_area",
                           cache_dir_vae=folder.parent / "nothing-here")  # fmt: skip

    def ours() -> None:
        assert len(discover(dataset, source_of(dataset)).samples) == count

    def plain() -> None:
        sizes = {}
        for path in sorted(folder.iterdir()):
            with Image.open(path) as image:
                sizes[path.name] = image.size
        assert len(sizes) == count

    found = {}
    for name, clock in (("seconds", time.perf_counter), ("cpu", time.thread_time)):
        seconds = alternating({"plain": plain, "ours": ours}, rounds, clock=clock)
        one = summary(seconds, "ours")
        found[name] = {"ours": one["ours"]["median"], "plain": one["plain"]["median"],
                       "ratio": one["plain"]["ratio"],
                       "ratio_of_minima": one["plain"]["ratio_of_minima"]}  # fmt: skip
        print(f"{name}: ours {count / found[name]['ours']:.0f} images/s, plain loop "
              f"{count / found[name]['plain']:.0f}, ratio {found[name]['ratio']:.2f}")  # fmt: skip
    return found


def grow(counts: list[int]) -> None:
    print(f"{'files':<20}{'s':>8}{'images/s':>11}{'order s':>9}{'MiB':>8}{'bytes/image':>13}")
    for kind, count in [*(("headers", c) for c in counts), ("jpegs", JPEGS)]:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "images"
            folder.mkdir()
            (headers if kind == "headers" else jpegs)(folder, count)
            command = [sys.executable, __file__, "--measure", str(folder)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            m = json.loads(answer.stdout)
        each = m["peak_mib"] * 2**20 / m["images"]
        print(
            f"{m['images']:>8} {kind:<11}{m['seconds']:>8.2f}{m['images_per_second']:>11.0f}"
            f"{m['order_seconds']:>9.2f}{m['peak_mib']:>8.1f}{each:>13.0f}",
            flush=True,
        )


def main() -> None:
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=JPEGS)
    words.add_argument("--rounds", type=int, default=9)
    words.add_argument("--grow", type=int, nargs="*", metavar="COUNT")
    words.add_argument("--measure", type=Path, help="used by --grow: one measurement")
    asked = words.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure)))
    elif asked.grow is not None:
        grow(asked.grow or [10_000, 30_000, 100_000])
    else:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "images"
            folder.mkdir()
            jpegs(folder, asked.images)
            found = beside_a_loop(folder, asked.images, asked.rounds)
            report("discovery", {"images": asked.images, **found}, asked.json)


if __name__ == "__main__":
    main()
