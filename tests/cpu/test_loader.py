"""Batches: the same from any start, with any number of threads; each image with its own caption."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from sd3tune.data.discover import Sample
from sd3tune.data.loader import Loader
from sd3tune.data.order import Schedule, Share
from sd3tune.errors import DataError
from sd3tune.train.noise import draw
from tests.samples import many, sample


def loader(
    found: list[Sample], dropout: float = 0.0, deviation: float = 0.0, **more: Any
) -> Loader:
    return Loader(
        schedule=Schedule([Share("d", found, 3)], 5),
        seed=5,
        posterior_of=lambda s: (
            torch.full((16, 8, 8), float(s.id)),
            torch.full((16, 8, 8), deviation),
        ),
        embeds_of=lambda s, c: (torch.full((4, 2), float(len(c))), torch.zeros(2)),
        dropout_of=lambda s: dropout,
        device=torch.device("cpu"),
        **more,
    )


def take(made: Loader, start: int, count: int) -> list[tuple[tuple[int, ...], float, float]]:
    with made.batches(start) as batches:
        return [(b.ids, b.prompt_embeds.sum().item(), b.latents.sum().item())
                for b in islice(batches, count)]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 4])
def test_starting_later_gives_what_the_undisturbed_run_sees_there(workers: int) -> None:
    found = many({(64, 64): 8, (128, 64): 4})
    whole = take(loader(found, dropout=0.3, deviation=1.0), 0, 20)
    made = loader(found, dropout=0.3, deviation=1.0, workers=workers)
    for start in (1, 4, 7, 13):
        assert take(made, start, 20 - start) == whole[start:]


def test_two_processes_see_what_one_does() -> None:
    found = many({(64, 64): 8, (128, 64): 4})
    whole = take(loader(found, deviation=1.0), 6, 12)
    parts = [take(loader(found, deviation=1.0, rank=r, processes=2), 6, 6) for r in (0, 1)]
    assert [b for pair in zip(*parts, strict=True) for b in pair] == whole


def test_latents_and_captions_belong_to_their_image() -> None:
    found = many({(64, 64): 9})
    names = {s.id: len(s.captions[0]) for s in found}
    with loader(found).batches() as batches:
        for batch in islice(batches, 12):
            assert batch.latents[:, 0, 0, 0].tolist() == [float(i) for i in batch.ids]
            assert batch.prompt_embeds[:, 0, 0].tolist() == [names[i] for i in batch.ids]


def test_latents_are_drawn_anew_each_time_around_their_mean() -> None:
    found = many({(64, 64): 3})
    with loader(found, deviation=0.5).batches() as batches:
        some = list(islice(batches, 60))
    draws = torch.stack([b.latents[i] - b.ids[i] for b in some for i in range(3)])
    assert draws.mean().abs() < 0.01 and abs(draws.std() - 0.5) < 0.01
    assert not torch.equal(draws[0], draws[1])


def test_captions_are_dropped_as_often_as_asked() -> None:
    made = loader(many({(64, 64): 9}), dropout=0.25)
    with made.batches() as batches:
        blanks = [e for b in islice(batches, 400) for e in b.prompt_embeds[:, 0, 0] == 0]
    assert 0.21 < sum(map(bool, blanks)) / len(blanks) < 0.29


def test_masks_arrive_between_nought_and_one() -> None:
    def mask(s: Sample) -> torch.Tensor:
        return torch.full((1, 8, 8), 51, dtype=torch.uint8)

    with loader(many({(64, 64): 3}), mask_of=mask).batches() as batches:
        got = next(batches).mask
    assert got is not None and torch.allclose(got, torch.full((3, 1, 8, 8), 0.2))


def test_each_epoch_is_announced_before_its_first_batch_is_made() -> None:
    told: list[int] = []
    found = many({(64, 64): 4})  # two batches an epoch
    made = loader(found, begin_epoch=told.append)
    with made.batches(3) as batches:
        next(batches)
        assert told[0] == 1
        list(islice(batches, 6))
    assert told == sorted(told)


def test_an_error_in_the_background_reaches_the_loop() -> None:
    def broken(s: Sample) -> Any:
        raise DataError("cache entry is gone", hint="run again")

    with (
        pytest.raises(DataError, match="gone"),
        replace(loader(many({(64, 64): 3})), posterior_of=broken).batches() as batches,
    ):
        next(batches)


def twins(images: int, per_step: int, **more: Any) -> Loader:
    """Images with three captions each, one image per batch, and more places in a step than
    images."""
    found = [sample(f"{i}.png", captions=("a", "bb", "ccc"), repeats=9) for i in range(images)]
    one_each = Schedule([Share("d", found, 1)], 5, batches_per_step=per_step)
    return replace(loader(found, dropout=0.25, deviation=1.0, **more), schedule=one_each)


def steps_of(made: list[Loader], accumulation: int, start: int = 0) -> list[Counter[Any]]:
    """For each optimizer step, the samples of all processes: image, caption, latent and noise."""
    steps = [Counter[Any]() for _ in range(6)]
    for one in made:
        with one.batches(start) as batches:
            for number, step in enumerate(steps):
                for b in islice(batches, accumulation):
                    noise = draw(5, number + start // one.schedule.batches_per_step, b)
                    step[b.ids, b.prompt_embeds.sum().item(), b.latents.numpy().tobytes(),
                         noise.digests] += 1  # fmt: skip
    return steps


@pytest.mark.parametrize("images", [1, 3, 5])
def test_twins_are_the_same_samples_in_every_layout_and_after_every_resume(images: int) -> None:
    one = steps_of([twins(images, 4)], 4)
    two = steps_of([twins(images, 4, rank=r, processes=2) for r in (0, 1)], 2)
    four = steps_of([twins(images, 4, rank=r, processes=4) for r in range(4)], 1)
    assert one == two == four
    resumed = steps_of([twins(images, 4, rank=r, processes=2) for r in (0, 1)], 2, start=8)
    assert resumed[:4] == one[2:]


def test_an_image_is_another_sample_each_time_it_comes_in_a_step() -> None:
    with twins(1, 64).batches() as batches:
        step = list(islice(batches, 64))
    assert {b.ids for b in step} == {step[0].ids}
    assert len({b.latents.numpy().tobytes() for b in step}) == 64
    assert len({draw(5, 0, b).digests for b in step}) == 64
    captions = Counter(round(b.prompt_embeds[0, 0, 0].item()) for b in step)
    assert set(captions) == {0, 1, 2, 3} and 6 <= captions[0] <= 28  # 0: dropped


def test_twins_in_one_batch_have_latents_and_captions_of_their_own() -> None:
    one = sample("a.png", captions=tuple("x" * i for i in range(1, 40)), repeats=7)
    made = replace(loader([one], deviation=1.0), schedule=Schedule([Share("d", [one], 8)], 5))
    with made.batches() as batches:
        batch = next(batches)
    assert len({latents.numpy().tobytes() for latents in batch.latents}) == 8
    assert len({e.sum().item() for e in batch.prompt_embeds}) > 4
