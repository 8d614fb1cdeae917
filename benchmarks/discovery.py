"""How discovery and bucketing grow: files with generated headers, then real JPEGs.

    python benchmarks/discovery.py [COUNT ...]        10000 30000 100000 unless given

Each measurement is a fresh process, so that its peak memory is its own. Reported: seconds and
images per second of discovery (listing, headers, file-name captions, geometry), of one epoch's
order, and peak memory beyond what the imports take.
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


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
        return
    counts = [int(word) for word in sys.argv[1:]] or [10_000, 30_000, 100_000]
    print(f"{platform.machine()}, Python {platform.python_version()}")
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


if __name__ == "__main__":
    main()
