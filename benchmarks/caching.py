"""How fast caches fill, through the real command: `sd3tune cache build` on real JPEGs.

    python benchmarks/caching.py [IMAGES] [KILLS]     2000 images, 0 kills unless given

The demo's tiny models stand in for the released ones, so the figures are those of everything else:
reading, decoding, resizing, writing. With KILLS, the same is done again into another folder while
the command is killed (SIGKILL) that many times at random moments, and the two folders are compared
byte for byte.
"""

import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def jpegs(folder: Path, count: int) -> None:
    """Smooth noise of a megapixel or two, each with a caption."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(0)
    for i in range(count):
        width, height = 1024 + 64 * (i % 9), 768 + 64 * (i * 7 % 11)
        small = dice.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:06d}.jpg", quality=90)
        (folder / f"{i:06d}.txt").write_text(f"photograph number {i}, smooth noise in colours")


def sd3tune(*words: str) -> list[str]:
    return [sys.executable, "-m", "sd3tune", *words]


def config(root: Path, name: str) -> str:
    """A configuration that caches into the folder `name`."""
    folder = root / name / "config"
    folder.mkdir(parents=True)
    base = json.loads((root / "demo" / "config" / "config.json").read_text())
    base |= {"pretrained_model_name_or_path": str(root / "demo" / "models" / "sd3.5-medium"),
             "output_dir": "output", "user_prompt_library": None}  # fmt: skip
    datasets = [
        {"id": "bench", "instance_data_dir": str(root / "images"), "resolution": 256,
         "caption_strategy": "textfile", "cache_dir_vae": "cache/vae"},
        {"id": "text", "dataset_type": "text_embeds", "cache_dir": "cache/text"},
    ]  # fmt: skip
    (folder / "config.json").write_text(json.dumps(base))
    (folder / "multidatabackend.json").write_text(json.dumps(datasets))
    return str(folder / "config.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 2000
    kills = int(sys.argv[2]) if sys.argv[2:] else 0
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {count} JPEGs at resolution 256")
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent)
        jpegs(root / "images", count)
        subprocess.run(
            sd3tune("demo", str(root / "demo"), "--model", "sd3.5-medium"),
            check=True,
            capture_output=True,
        )
        whole = config(root, "whole")
        started = time.perf_counter()
        ran = subprocess.run(sd3tune("cache", "build", whole), check=True, capture_output=True,
                             text=True)  # fmt: skip
        seconds = time.perf_counter() - started
        for name in ("read files", "encode captions", "encode images"):
            found = re.findall(rf"{name} (\d+)/\1  (\S+)", ran.stderr)
            print(f"{name:<18}{found[-1][0]:>8}{found[-1][1]:>14}")
        print(f"{'whole command':<18}{seconds:>8.1f} s")
        if not kills:
            return
        killed = config(root, "killed")
        dice = random.Random(0)
        hits, shards = 0, []
        for _ in range(kills):
            child = subprocess.Popen(sd3tune("cache", "build", killed), stderr=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            time.sleep(4 + dice.uniform(0, max(1.0, seconds / 3)))
            hits += child.poll() is None
            os.killpg(child.pid, 9)
            child.wait()
            shards.append(len(list((root / "killed").rglob("*.safetensors"))))
        subprocess.run(sd3tune("cache", "build", killed), check=True, capture_output=True)
        same = contents(root / "killed" / "cache") == contents(root / "whole" / "cache")
        print(f"{hits} of {kills} kills hit the running command; files after each: {shards}")
        print(f"the last run's cache is the undisturbed one, byte for byte: {same}")


if __name__ == "__main__":
    main()
