"""How fast batches come out of full caches at the sizes of SD3.5 and 1024x1024 pixels, and how many
bytes a caption takes.

    python benchmarks/loader.py [--images N] [--json FILE]

Latents 16x128x128 (mean and deviation), captions 77x2048 + 154x4096 + 2048 as they are stored; the
loader reads them, draws captions and latents, and stacks batches of 4. `reading`: milliseconds of
thread time for an entry that was compared with its checksum before, beside reading it without the
coding, with checksum and search for NaN, as each reading was until 2026-11-27; they take turns.
`captions`: bytes as padded float32, as bfloat16, and coded as stored. `samples_per_second`: with 1
to 4 threads.
"""

import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from machine import alternating, parser, report
from safetensors import safe_open
from safetensors.torch import save_file

from sd3tune.data import coding, shards
from sd3tune.data.buckets import Geometry
from sd3tune.data.cache import TensorCache
from sd3tune.data.discover import Sample
from sd3tune.data.loader import Loader
from sd3tune.data.order import Schedule, Share
from sd3tune.sd3.text import packed, unpacked
from sd3tune.sd3.variants import CLIP_TOKENS

TOKENS, WIDTH, CLIP_WIDTH, POOLED = 154, 4096, 2048, 2048
SHAPE = Geometry((1024, 1024), (0, 0), (1024, 1024), 1.0)
PER_FILE, BATCH, BATCHES = 32, 4, 100


def caption(
    dice: torch.Generator, length: int, tokens: int = TOKENS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditioning of real width; T5 says something about the first `length` tokens only."""
    embeds = torch.zeros(CLIP_TOKENS + tokens, WIDTH)
    embeds[:CLIP_TOKENS, :CLIP_WIDTH].normal_(generator=dice)
    embeds[CLIP_TOKENS : CLIP_TOKENS + length].normal_(generator=dice)
    return embeds, torch.randn(POOLED, generator=dice)


def filled(folder: Path, count: int) -> tuple[TensorCache, TensorCache]:
    dice = torch.Generator().manual_seed(0)
    latents, texts = TensorCache(folder / "latents"), TensorCache(folder / "texts")
    for start in range(0, count, PER_FILE):
        keys = [str(i) for i in range(start, min(start + PER_FILE, count))]
        for cache in (latents, texts):
            with cache.claim(keys) as draft:
                assert draft is not None
                if cache is latents:
                    draft.write({k: {"mean": torch.randn(16, 128, 128, generator=dice).half(),
                                     "std": torch.rand(16, 128, 128, generator=dice).half()}
                                 for k in keys}, {})  # fmt: skip
                else:
                    draft.write({k: packed(*caption(dice, TOKENS)) for k in keys}, {})
    latents.finish()
    texts.finish()
    return latents, texts


def sizes() -> dict[str, dict[str, int]]:
    """Bytes of one caption, by kind: normally distributed values; columns of different size, as in
    the output of a T5; and 20 tokens of 154 with t5_padding=zero."""
    dice = torch.Generator().manual_seed(1)
    columns = torch.randn(WIDTH, generator=dice).exp() * 0.05
    found = {}
    for name, tokens, length, scale in (
        ("154 tokens, normal", 154, 154, None),
        ("154 tokens, uneven columns", 154, 154, columns),
        ("256 tokens, normal", 256, 256, None),
        ("256 tokens, uneven columns", 256, 256, columns),
        ("20 of 154 tokens, t5_padding=zero", 154, 20, None),
    ):
        embeds, pooled = caption(dice, length, tokens)
        if scale is not None:
            embeds[CLIP_TOKENS:] *= scale
        entry = packed(embeds, pooled)
        frames = [coding.coded(t) for t in entry.values()]
        coded = zip(frames, entry.values(), strict=True)
        found[name] = {
            "padded_float32": 4 * (embeds.numel() + pooled.numel()),
            "bfloat16": sum(t.nbytes for t in entry.values()),
            "stored": sum(t.nbytes if frame is None else frame.nbytes for frame, t in coded),
        }
        print(name, json.dumps(found[name]))
    return found


def reading(texts: TensorCache, latents: TensorCache, folder: Path, count: int) -> dict[str, float]:
    """Milliseconds of thread time an entry."""
    keys = [str(i) for i in range(count)]
    plain = folder / "plain.safetensors"
    save_file({f"{k}.{n}": t for k in keys for n, t in texts.get(k).items()}, plain)
    file: Any = safe_open(str(plain), framework="pt")

    def checked(entry: dict[str, torch.Tensor]) -> bool:
        return bool(shards.digest(entry)) and shards.is_finite(entry)

    ways = {
        "caption": lambda: [texts.get(k) for k in keys],
        "caption, uncoded and checked": lambda: [
            checked({n: file.get_tensor(f"{k}.{n}") for n in ("clip", "t5", "pooled")})
            for k in keys
        ],
        "latents": lambda: [latents.get(k) for k in keys],
        "latents, checked": lambda: [checked(latents.get(k)) for k in keys],
    }
    seconds = alternating(ways, 5, clock=time.thread_time)
    found = {name: 1000 * min(values) / count for name, values in seconds.items()}
    print("ms an entry", json.dumps(found))
    return found


def rate(latents: TensorCache, texts: TensorCache, count: int, workers: int) -> float:
    """Samples per second."""
    samples = [Sample("d", str(i), str(i), (1024, 1024), (str(i),), SHAPE, i) for i in range(count)]

    def posterior(s: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        entry = latents.get(s.name)
        return entry["mean"], entry["std"]

    loader = Loader(
        schedule=Schedule([Share("d", samples, BATCH)], 0),
        seed=0,
        posterior_of=posterior,
        embeds_of=lambda s, c: unpacked(texts.get(s.name), TOKENS, WIDTH),
        dropout_of=lambda s: 0.0,
        device=torch.device("cpu"),
        workers=workers,
    )
    with loader.batches() as batches:
        list(islice(batches, 10))
        started = time.perf_counter()
        list(islice(batches, BATCHES))
        return BATCHES * BATCH / (time.perf_counter() - started)


def main() -> None:
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=256)
    asked = words.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"captions": sizes()}
    with tempfile.TemporaryDirectory() as folder:
        latents, texts = filled(Path(folder), asked.images)
        result["reading"] = reading(texts, latents, Path(folder), min(PER_FILE, asked.images))
        result["samples_per_second"] = {}
        for workers in (1, 2, 3, 4):
            found = rate(latents, texts, asked.images, workers)
            result["samples_per_second"][workers] = round(found)
            print(f"{workers} threads  {found:8.0f} samples/s")
    report("loader", result, asked.json)


if __name__ == "__main__":
    main()
