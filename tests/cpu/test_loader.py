"""Batches: the same from any start, with any number of threads; each image with its own caption."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from sd3tune.data.discover import Sample
from sd3tune.data.loader import Loader
from sd3tune.data.order import Schedule, Share
from sd3tune.errors import DataError
from tests.samples import many


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
