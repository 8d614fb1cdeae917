"""The order of training: complete, unmixed, and the same however it is reached."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd3tune.config.config import Config
from sd3tune.data.discover import Sample
from sd3tune.data.order import Schedule, Share, schedule
from sd3tune.errors import DataError
from tests.image_folders import dataset
from tests.samples import many, sample

SIZES = [(64, 64), (128, 64), (64, 128)]


def one(counts: dict[tuple[int, int], int], batch: int = 4, seed: int = 1) -> Schedule:
    return Schedule([Share("d", many(counts), batch)], seed)


def test_an_epoch_shows_every_image_and_mixes_no_sizes() -> None:
    made = one({(64, 64): 11, (128, 64): 2, (64, 128): 1})
    batches = made.epoch(0)
    assert len(batches) == made.length(0)
    for batch in batches:
        assert len(batch) == 4 and len({s.geometry.bucket for s in batch}) == 1
    seen = [s for b in batches for s in b]
    assert all(seen.count(s) >= s.repeats + 1 for s in made.shares[0].samples)


def test_a_bucket_thinner_than_a_batch_is_completed_with_its_own_images() -> None:
    (batch,) = one({(64, 64): 1}).epoch(0)
    assert [s.name for s in batch] == ["64x64-0.png"] * 4


def test_order_depends_on_seed_and_epoch_and_not_on_how_files_were_listed() -> None:
    found = many({(64, 64): 30})
    made = [Schedule([Share("d", some, 4)], 1).epoch(0) for some in (found, found[::-1])]
    assert made[0] == made[1]
    other = Schedule([Share("d", found, 4)], 2)
    assert made[0] != Schedule([Share("d", found, 4)], 1).epoch(1) != other.epoch(1)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(SIZES), st.integers(1, 7), min_size=1),
            st.integers(1, 5),
            st.floats(0.1, 3),
            st.integers(1, 3),
            st.sampled_from([None, 3, 4]),
            st.integers(0, 6),
            st.sampled_from([None, 7, 30]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 3),
    st.integers(0, 60),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_any_position_and_any_number_of_processes_give_the_same_run(  # type: ignore[no-untyped-def]
    asked, per_step, position, processes
) -> None:
    shares = [Share("always", many({(64, 64): 3}, "always"), 2)]
    for i, (counts, batch, weight, first, last, before, end) in enumerate(asked):
        if last is not None and last < first:
            last = None
        shares.append(Share(f"d{i}", many(counts, f"d{i}"), batch, weight, (first, last),
                            (before, end if end and end > before else None)))  # fmt: skip
    made = Schedule(shares, 5, per_step)
    position -= position % per_step  # a run resumes where a step begins
    whole = list(islice(made.batches_from(), position + 24))
    assert [place for place, _, _ in whole] == list(range(position + 24))
    assert list(islice(made.batches_from(position), 24)) == whole[position:]
    parts = [
        item
        for rank in range(processes)
        for item in made_until(made, position, rank, processes, position + 24)
    ]
    assert sorted(parts, key=lambda item: item[0]) == whole[position:]
    for place, epoch, chosen in whole:
        share = next(s for s in shares if s.name == chosen[0].dataset)
        assert share.active(epoch, place // per_step)
        assert len({(s.dataset, s.geometry.bucket) for s in chosen}) == 1


def made_until(made: Schedule, position: int, rank: int, processes: int, end: int) -> list[Any]:
    found: list[Any] = []
    for item in made.batches_from(position, rank, processes):
        if item[0] >= end:
            return found
        found.append(item)
    return found


def first_of(made: Schedule, epochs: int) -> Counter[str]:
    """Which dataset the first batch of an epoch comes from."""
    return Counter(made.epoch(n)[0][0].dataset for n in range(epochs))


def test_datasets_are_drawn_by_probability_times_size_or_by_probability_alone() -> None:
    shares = [
        Share("a", many({(64, 64): 90}, "a"), 1, probability=0.5),
        Share("b", many({(64, 64): 10}, "b"), 1, probability=1.5),
    ]
    by_size = first_of(Schedule(shares, 0), 400)
    assert by_size["a"] / 400 == pytest.approx(45 / 60, abs=0.06)
    uniform = first_of(Schedule(shares, 0, by_size=False), 400)
    assert uniform["a"] / 400 == pytest.approx(0.25, abs=0.06)


def test_a_dataset_without_probability_is_never_drawn() -> None:
    made = Schedule([Share("a", many({(64, 64): 3}, "a"), 1),
                     Share("b", many({(64, 64): 3}, "b"), 1, probability=0)], 0)  # fmt: skip
    assert {s.dataset for b in made.epoch(0) for s in b} == {"a"}
    assert made.length(0) == sum(s.repeats + 1 for s in made.shares[0].samples)


def test_windows_open_and_close() -> None:
    made = Schedule(
        [
            Share("a", many({(64, 64): 4}, "a"), 1, epochs=(1, 2)),
            Share("b", many({(64, 64): 4}, "b"), 1, epochs=(2, None), steps=(8, None)),
        ],
        0,
    )
    names = [{s.dataset for b in made.epoch(n, start) for s in b}
             for n, start in ((0, 0), (1, 6), (2, 20))]  # fmt: skip
    assert names == [{"a"}, {"a", "b"}, {"b"}]


def test_a_dataset_is_drawn_until_its_last_step() -> None:
    folders = [dataset(Path("a"), id="a", end_step=3), dataset(Path("b"), id="b", start_step=2)]
    samples = many({(64, 64): 4}, "a") + many({(64, 64): 4}, "b")
    config = Config(output_dir="o", data_backend_config="d", max_train_steps=9)
    made = schedule(samples, folders, config, batch_size=1)
    active = {s.name: [step for step in range(6) if s.active(0, step)] for s in made.shares}
    assert active == {"a": [0, 1, 2], "b": [2, 3, 4, 5]}


def test_a_gap_in_the_windows_is_an_error_that_says_where() -> None:
    made = Schedule([Share("a", many({(64, 64): 4}, "a"), 1, epochs=(1, 2))], 0)
    with pytest.raises(DataError, match="no dataset is active in epoch 3, after step 12"):
        list(islice(made.batches_from(), 13))


def test_steps_of_epochs_round_each_epoch_up() -> None:
    made = Schedule([Share("a", many({(64, 64): 5}, "a"), 1)], 0, batches_per_step=3)
    assert made.length(0) == 7 and made.steps_of(2) == 6


def photographs(count: int, repeats: int = 0, size: tuple[int, int] = (64, 64)) -> list[Sample]:
    return [sample(f"{size[0]}-{i}.png", size, bucket=size, repeats=repeats) for i in range(count)]


def steps_of(made: Schedule, steps: int, start: int = 0) -> list[list[Sample]]:
    """The images of each optimizer step."""
    batches = [b for _, _, b in islice(made.batches_from(start), steps * made.batches_per_step)]
    size = made.batches_per_step
    return [[s for b in batches[i : i + size] for s in b] for i in range(0, len(batches), size)]


def test_the_order_of_a_run_without_twins_is_the_recorded_one() -> None:
    made = Schedule([Share("d", [sample(f"{i}.png") for i in range(12)], 2)], 7, 3)
    recorded = [["1 2", "7 10", "0 3", "8 4", "11 9", "5 6"],
                ["10 5", "11 3", "8 0", "9 4", "6 7", "1 2"]]  # fmt: skip
    for epoch, wanted in enumerate(recorded):
        batches = made.epoch(epoch, 6 * epoch)
        assert [" ".join(s.name[:-4] for s in batch) for batch in batches] == wanted


@pytest.mark.parametrize(
    "images, repeats, batch, per_step",
    [(8, 3, 8, 1), (8, 3, 4, 2), (8, 3, 2, 4), (8, 1, 3, 1), (30, 9, 4, 3), (9, 2, 3, 2),
     (5, 0, 1, 4), (50, 0, 1, 8), (50, 3, 1, 8)],
)  # fmt: skip
def test_no_step_has_an_image_twice_where_there_are_enough_images(
    images: int, repeats: int, batch: int, per_step: int
) -> None:
    made = Schedule([Share("d", photographs(images, repeats), batch)], 3, per_step)
    for step in steps_of(made, 40):
        assert len({s.id for s in step}) == len(step)
    for epoch in range(3):
        shown = Counter(s.id for b in made.epoch(epoch, made.start(epoch)) for s in b)
        assert min(shown.values()) == repeats + 1 and len(shown) == images


def test_batches_of_a_thin_bucket_go_to_different_steps() -> None:
    wide = photographs(2, 5, (128, 64))
    made = Schedule([Share("d", photographs(24) + wide, 2)], 1, 3)
    for step in steps_of(made, 6):
        assert len({s.id for s in step}) == len(step)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_twins_remain_only_where_counting_shows_that_they_must(
    copies: list[int], batch: int, per_step: int
) -> None:
    """Gale and Ryser: rows of given sums in columns of given sums exist, with at most one of each
    row in a column, exactly when the k largest rows fit into min(column, k) for every k."""
    images = [sample(f"{i}.png", repeats=n - 1) for i, n in enumerate(copies)]
    made = Schedule([Share("d", images, batch)], 5, per_step)
    batches = made.epoch(0)
    steps = [[s.id for b in batches[i : i + per_step] for s in b]
             for i in range(0, len(batches), per_step)]  # fmt: skip
    shown = sorted(Counter(i for step in steps for i in step).values(), reverse=True)
    possible = all(
        sum(shown[:k]) <= sum(min(len(step), k) for step in steps) for k in range(len(shown) + 1)
    )
    assert all(len(set(step)) == len(step) for step in steps) == possible


def test_an_occurrence_is_counted_over_the_whole_step_and_anew_in_the_next() -> None:
    made = Schedule([Share("d", photographs(1, 7), 2)], 1, batches_per_step=2)
    assert [[s.occurrence for s in step] for step in steps_of(made, 3)] == [[0, 1, 2, 3]] * 3
    by_rank = [[s.occurrence for _, _, b in islice(made.batches_from(0, r, 2), 2) for s in b]
               for r in (0, 1)]  # fmt: skip
    assert by_rank == [[0, 1, 0, 1], [2, 3, 2, 3]]
