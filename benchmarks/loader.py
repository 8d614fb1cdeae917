"""How fast batches come out of full caches, at the sizes of SD3.5 and 1024x1024 pixels.

    python benchmarks/loader.py [IMAGES]              256 unless given

Latents 16x128x128 (mean and deviation), captions 77x2048 + 154x4096 + 2048 as they are stored; the
loader reads them, draws captions and latents, and stacks batches of 4. Beside it the bytes of one
caption as stored and as padded float32, and samples per second with 1 to 4 threads.
"""

import platform
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from sd3tune.data.buckets import Geometry
from sd3tune.data.cache import TensorCache
from sd3tune.data.discover import Sample
from sd3tune.data.loader import Loader
from sd3tune.data.order import Schedule, Share
from sd3tune.sd3.text import packed, unpacked

TOKENS, WIDTH, CLIP_WIDTH, POOLED = 154, 4096, 2048, 2048
SHAPE = Geometry((1024, 1024), (0, 0), (1024, 1024), 1.0)
PER_FILE, BATCH, BATCHES = 32, 4, 100


def caption(dice: torch.Generator, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditioning of real width; T5 says something about the first `length` tokens only."""
    embeds = torch.zeros(77 + TOKENS, WIDTH)
    embeds[:77, :CLIP_WIDTH].normal_(generator=dice)
    embeds[77 : 77 + length].normal_(generator=dice)
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


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 256
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, {count} images")
    full = (77 + TOKENS) * WIDTH * 4 + POOLED * 4
    for name, length in (("t5_padding=unmodified", TOKENS), ("t5_padding=zero, 20 tokens", 20)):
        entry = packed(*caption(torch.Generator().manual_seed(1), length))
        stored = sum(t.numel() * t.element_size() for t in entry.values())
        print(f"caption, {name:<28}{stored:>9,} bytes; padded float32 {full:,}: "
              f"{full / stored:.1f} times as much")  # fmt: skip
    samples = [Sample("d", str(i), str(i), (1024, 1024), (str(i),), SHAPE, i) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        latents, texts = filled(Path(folder), count)

        def posterior(s: Sample) -> tuple[torch.Tensor, torch.Tensor]:
            entry = latents.get(s.name)
            return entry["mean"], entry["std"]

        for workers in (1, 2, 3, 4):
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
                seconds = time.perf_counter() - started
            print(f"{workers} threads  {BATCHES * BATCH / seconds:8.0f} samples/s")


if __name__ == "__main__":
    main()
