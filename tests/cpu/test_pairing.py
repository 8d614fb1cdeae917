"""Every sample's latents are its own image and its embedding its own caption: whatever the order,
the threads, the start and the number of processes."""

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.loader import Loader
from sd3tune.encode import upkeep
from sd3tune.encode.caches import Caches
from sd3tune.encode.embeddings import load_encoders
from sd3tune.encode.file_digests import fingerprint
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3 import weights
from tests.cpu.conftest import Project
from tests.cpu.forks import forked
from tests.image_folders import shown

CPU = torch.device("cpu")


class Truth:
    """What each image and caption must come out as, found without the caches."""

    def __init__(self, project: Project) -> None:
        prepared = project.prepare()
        upkeep.build(prepared)
        self.caches = Caches.of(prepared)
        fingerprint(self.caches, prepared.dataset("d"), prepared.samples)
        self.samples = {s.id: s for s in prepared.samples}
        self.vae = weights.vae(project.config["pretrained_model_name_or_path"], "fp32")
        self.pictures = {s.id: self.decoded(self.encoded(Path(s.path))) for s in prepared.samples}
        encoders = load_encoders(prepared.plan, CPU)
        texts = sorted({c for s in prepared.samples for c in s.captions} | {""})
        with torch.no_grad():
            pairs = [encoders.encode([c]) for c in texts]
        self.texts = {c: (e[0].bfloat16().float(), p[0].bfloat16().float())
                      for c, (e, p) in zip(texts, pairs, strict=True)}  # fmt: skip

    def encoded(self, path: Path) -> Tensor:
        """Not by the code under test: Pillow and diffusers alone, centre crop to 64x64."""
        image = ImageOps.fit(shown(path).convert("RGB"), (64, 64), Image.Resampling.LANCZOS)
        pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            mean: Tensor = self.vae.encode(pixels).latent_dist.mean
        return (mean - 0.0609) * 1.5305

    def decoded(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            picture: Tensor = self.vae.decode(latents / 1.5305 + 0.0609).sample[0]
        return picture

    def loader(self, seed: int, workers: int, rank: int, processes: int) -> Loader:
        from dataclasses import replace

        made = self.caches.loader(ALONE_ON_CPU, lambda epoch: None)
        schedule = replace(made.schedule, seed=seed)
        return replace(made, schedule=schedule, seed=seed, workers=workers, rank=rank,
                       processes=processes)  # fmt: skip

    def check(self, batch: Batch) -> None:
        for i, number in enumerate(batch.ids):
            picture = self.decoded(batch.latents[i : i + 1])
            distance = {n: (picture - p).abs().mean() for n, p in self.pictures.items()}
            assert min(distance, key=lambda n: distance[n]) == number
            captions = (*self.samples[number].captions, "")
            mine = [c for c in captions if torch.allclose(
                batch.prompt_embeds[i], self.texts[c][0], atol=0.02, rtol=0.02)]  # fmt: skip
            assert mine, number
            assert torch.allclose(batch.pooled[i], self.texts[mine[0]][1], atol=0.02, rtol=0.02)


@pytest.fixture(scope="module")
def truth(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    made = Project(tmp_path_factory.mktemp("pairing"), demo / "models" / "sd3.5-medium")
    for i in range(12):
        path = made.picture(f"{i % 4}/{i}.png", i)
        if i % 3 == 0:
            path.with_suffix(".txt").write_text(f"picture number {i}\nsomething else about {i}")
    made.dataset |= {"crop": True, "crop_aspect": "square", "crop_style": "center"}
    yield Truth(made)


@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_latents_and_captions_are_their_images_own(
    truth: Truth, seed: int, position: int, workers: int, processes: int
) -> None:
    for rank in range(processes):
        with truth.loader(seed, workers, rank, processes).batches(position) as batches:
            for batch in islice(batches, 2):
                truth.check(batch)


def test_two_real_processes_see_their_halves_of_what_one_sees(truth: Truth, tmp_path: Path) -> None:
    def half(rank: int) -> None:
        found = []
        with truth.loader(3, 2, rank, 2).batches(5) as batches:
            for batch in islice(batches, 8):
                truth.check(batch)
                found.append([batch.ids, batch.latents.sum().item(), batch.pooled.sum().item()])
        (tmp_path / str(rank)).write_text(json.dumps(found))

    children = [forked(lambda r=r: half(r)) for r in (0, 1)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    parts = [json.loads((tmp_path / str(r)).read_text()) for r in (0, 1)]
    with truth.loader(3, 1, 0, 1).batches(5) as batches:
        whole = [[list(b.ids), b.latents.sum().item(), b.pooled.sum().item()]
                 for b in islice(batches, 16)]  # fmt: skip
    # position 5 belongs to rank 1
    assert [b for pair in zip(parts[1], parts[0], strict=True) for b in pair] == whole
