"""In how many parts a batch is computed: what the user set, or the fastest that fits."""

import pytest

from sd3tune.errors import PlanError
from tests.plans import LARGE, MEDIUM, plan


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    """Nothing else of the run changes for it, and its images stay those of one step."""
    made = plan("rtx3060", LARGE, train_batch_size=64, count=64)
    load, split = made.memory.load, made.memory.split
    assert made.batch_size == 64 and made.data.accumulation.value == 1
    assert split.value > 1 and load.batch * split.value >= 64 == load.images_of_step
    assert split.source.by == "auto" and f"{load.batch} of 64 images at a time" in split.reason
    assert " a step" in split.reason and "but need" in split.reason
    one = plan("rtx3060", LARGE, train_batch_size=1)
    assert made.precision.transformer.value == one.precision.transformer.value


def test_parts_are_not_made_smaller_than_the_fastest_needs() -> None:
    assert plan("h200", MEDIUM, train_batch_size=4).memory.split.value == 1
    kept = plan("h100", LARGE, train_batch_size=4).memory
    assert kept.split.value == 2 and set(kept.keep.value) == {"everything"}


@pytest.mark.parametrize(
    ("parts", "images", "passes"), [(1, 7, 1), (2, 4, 2), (5, 2, 4), (9, 1, 7)]
)
def test_what_the_user_set_stays(parts: int, images: int, passes: int) -> None:
    memory = plan("h200", train_batch_size=7, batch_split=parts).memory
    assert (memory.load.batch, memory.split.value) == (images, passes)
    assert memory.split.source.by == "user" and memory.load.images_of_step == 7
    accumulated = plan(
        "h200", train_batch_size=7, batch_split=parts, gradient_accumulation_steps=2
    ).memory
    assert accumulated.load.accumulation == 2 * passes and accumulated.split.value == passes


def test_a_whole_batch_that_the_user_asks_for_is_refused_where_it_does_not_fit() -> None:
    with pytest.raises(PlanError, match="`train_batch_size=64` does not fit") as e:
        plan("rtx3060", LARGE, train_batch_size=64, batch_split=1)
    assert "leave batch_split out" in e.value.hint


def test_batches_of_sharded_runs_stay_whole() -> None:
    """Every process gathers the weights in each pass, so that all must make as many."""
    made = plan("rtx4090", MEDIUM, fsdp_enable=True, count=64, train_batch_size=4)
    assert made.memory.split.value == 1
