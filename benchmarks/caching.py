"""How fast caches fill, beside the encoders' own rate on inputs that are ready in memory.

    python benchmarks/caching.py [--images N] [--rounds N] [--threads 1,2] [--json FILE]
    python benchmarks/caching.py --kills N [--images N]

The demo's tiny models stand in for the released ones, on JPEGs of a megapixel or two at resolution
256, so the figures are those of everything else: reading, decoding, resizing, hashing, writing.
`captions` and `latents`: filling an empty cache with the loaded encoders, beside `encoders.encode`
and the VAE on the same batches, taking turns in one process, with each number of torch's threads.
The ratio is ours to the encoder's own rate; 0.9 is the target. On two cores with two threads the
VAE alone keeps both cores busy, and decoding needs a part of them: `bound` is the ratio that the
processor seconds of both allow. `added_ms`: processor milliseconds for each input beyond the
encoder's own. OpenMP threads that wait sleep soon, as in the sd3tune command; the environment
variable OMP_WAIT_POLICY=ACTIVE shows PyTorch's default.

With --kills, `sd3tune cache build` fills a folder undisturbed and another while it is killed
(SIGKILL) that many times at random moments, and the two folders are compared byte for byte.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import count as count_from
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from machine import alternating, parser, report
from PIL import Image

from sd3tune.start import limit_spinning


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


def rates(root: Path, count: int, threads: list[int], rounds: int) -> dict[str, Any]:
    """Rates by kind and number of threads."""
    import torch

    from sd3tune.backends.observe import probing
    from sd3tune.config.config import Config
    from sd3tune.data import pixel_tensors
    from sd3tune.data.cache import TensorCache
    from sd3tune.devices import observe
    from sd3tune.encode import embeddings, image_latents
    from sd3tune.encode.caches import Caches
    from sd3tune.encode.file_digests import fingerprint
    from sd3tune.encode.fill import fill
    from sd3tune.prepare import asked_for, prepare
    from sd3tune.report.progress import stage
    from sd3tune.sd3 import latents, weights

    asked = Config.load(Path(config(root, "rates")), [])
    prepared = prepare(asked, observe(), asked_for(asked), probing.on_this_machine())
    caches, plan = Caches.of(prepared), prepared.plan
    (dataset,), samples = prepared.datasets.all, prepared.samples
    fingerprint(caches, dataset, samples)
    encoders = embeddings.load_encoders(plan, torch.device("cpu"))
    vae = weights.vae(plan.model.source, "fp32")
    ordered = sorted(samples, key=lambda s: (s.geometry.bucket, s.name))
    images = {caches.key(s): s for s in ordered}
    captions = {caches.text_key(c): c for s in samples for c in s.captions}
    words = [captions[key] for key in captions]
    source, each = prepared.sources[dataset.id], dataset.vae_batch_size
    pixels = [pixel_tensors.load(source.read(s.name), s.size, s.geometry) for s in ordered]
    batches = [torch.stack(some) for start in range(0, count, each)
               for some in alike(pixels[start : start + each])]  # fmt: skip
    folders = (root / "fresh" / str(number) for number in count_from(0))

    def ours_text() -> None:
        make = partial(embeddings.encoded, encoders, plan, captions)
        with stage("captions", len(words)) as bar:
            fill(TensorCache(next(folders)), list(captions), 32, make, bar)

    def own_text() -> None:
        for begin in range(0, len(words), plan.captions.at_once):
            encoders.encode(words[begin : begin + plan.captions.at_once])

    def ours_images() -> None:
        with stage("latents", count) as bar:
            cache = TensorCache(next(folders))
            image_latents.fill_latents(caches, vae, dataset, images, cache, bar)

    def own_images() -> None:
        for batch in batches:
            latents.encode(vae, pixel_tensors.scaled(batch))

    found: dict[str, Any] = {}
    for name, own, ours in (("captions", own_text, ours_text),
                            ("latents", own_images, ours_images)):  # fmt: skip
        for number in threads:
            torch.set_num_threads(number)
            wall = alternating({"own": own, "ours": ours}, rounds)
            busy = alternating({"own": own, "ours": ours}, 1, clock=time.process_time)
            found[f"{name}, {number} threads"] = one = rate(wall, busy, len(images))
            print(f"{name}, {number} threads", json.dumps(one), flush=True)
    return found


def rate(wall: Any, busy: Any, count: int) -> dict[str, float]:
    """Inputs per second of both, and the ratio."""
    own, ours = (statistics.median(wall[name]) for name in ("own", "ours"))
    cores = len(os.sched_getaffinity(0))
    return {
        "own_per_second": count / own,
        "ours_per_second": count / ours,
        "ratio": own / ours,
        "ratio_of_minima": min(wall["own"]) / min(wall["ours"]),
        "own_cpu_seconds": busy["own"][0],
        "ours_cpu_seconds": busy["ours"][0],
        "added_ms": 1000 * (busy["ours"][0] - busy["own"][0]) / count,
        "bound": min(1.0, own * cores / busy["ours"][0]),
    }


def alike(pixels: list[Any]) -> list[list[Any]]:
    """Runs of one shape."""
    return [list(some) for _, some in groupby(pixels, key=lambda p: p.shape)]


def killed(root: Path, kills: int) -> dict[str, Any]:
    whole = config(root, "whole")
    started = time.perf_counter()
    ran = subprocess.run(sd3tune("cache", "build", whole), check=True, capture_output=True,
                         text=True)  # fmt: skip
    seconds = time.perf_counter() - started
    for name in ("read files", "encode captions", "encode images"):
        found = re.findall(rf"{name} (\d+)/\1  (\S+)", ran.stderr)
        print(f"{name:<18}{found[-1][0]:>8}{found[-1][1]:>14}")
    again = config(root, "killed")
    dice = random.Random(0)
    hits, shards = 0, []
    for _ in range(kills):
        child = subprocess.Popen(sd3tune("cache", "build", again), stderr=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        time.sleep(4 + dice.uniform(0, max(1.0, seconds / 3)))
        hits += child.poll() is None
        os.killpg(child.pid, 9)
        child.wait()
        shards.append(len(list((root / "killed").rglob("*.safetensors"))))
    subprocess.run(sd3tune("cache", "build", again), check=True, capture_output=True)
    same = contents(root / "killed" / "cache") == contents(root / "whole" / "cache")
    return {"seconds": seconds, "kills": kills, "hits": hits, "shards": shards, "same": same}


def main() -> None:
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=200)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--threads", default="1,2")
    words.add_argument("--kills", type=int, default=0)
    asked = words.parse_args()
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    limit_spinning()  # as the sd3tune command does
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent).absolute()
        jpegs(root / "images", asked.images)
        demo = sd3tune("demo", str(root / "demo"), "--model", "sd3.5-medium")
        subprocess.run(demo, check=True, capture_output=True)
        if asked.kills:
            result = killed(root, asked.kills)
        else:
            threads = [int(number) for number in asked.threads.split(",")]
            result = rates(root, asked.images, threads, asked.rounds)
    report("caching", {"images": asked.images, **result}, asked.json)


if __name__ == "__main__":
    main()
