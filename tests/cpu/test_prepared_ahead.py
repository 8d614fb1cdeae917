"""Work beside the encoder: inputs prepared ahead of it, shards written behind it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sd3tune.data.cache import TensorCache
from sd3tune.encode.fill import Made, fill
from sd3tune.encode.prepared_ahead import PreparedAhead
from sd3tune.report.progress import stage

KEYS = [f"k{i}" for i in range(10)]
SOON = 20  # seconds after which a test fails instead of waiting for ever


class Counted:
    """Prepares keys, and counts what was begun and not yet taken."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, key: str) -> str:
        with self.lock:
            self.begun.append(key)
        return key.upper()


def test_results_come_in_order_and_no_more_than_the_limit_are_prepared_ahead() -> None:
    prepare = Counted()
    with ThreadPoolExecutor(3) as pool:
        ahead = PreparedAhead(KEYS, prepare, pool, 4)
        for taken, (key, found) in enumerate(ahead.each(KEYS)):
            assert (key, found) == (KEYS[taken], KEYS[taken].upper())
            assert len(prepare.begun) <= taken + 4
    assert sorted(prepare.begun) == KEYS


def test_the_next_shard_is_prepared_while_this_one_is_encoded() -> None:
    prepared = threading.Event()

    def prepare(key: str) -> str:
        if key == "k5":
            prepared.set()
        return key

    with ThreadPoolExecutor(2) as pool:
        ahead = PreparedAhead(KEYS, prepare, pool, 4)
        assert [key for key, _ in ahead.each(KEYS[:3])] == KEYS[:3]
        assert prepared.wait(SOON)


def test_what_another_process_took_is_dropped_and_a_key_may_come_back() -> None:
    prepare = Counted()
    with ThreadPoolExecutor(1) as pool:
        ahead = PreparedAhead(KEYS, prepare, pool, 3)
        assert [k for k, _ in ahead.each(["k0", "k1"])] == ["k0", "k1"]
        assert [k for k, _ in ahead.each(["k8", "k9"])] == ["k8", "k9"]
        assert [found for _, found in ahead.each(["k2", "k3"])] == ["K2", "K3"]


def test_a_failure_is_raised_where_its_key_is_asked_for() -> None:
    def prepare(key: str) -> str:
        if key == "k2":
            raise OSError("no such disk")
        return key

    with ThreadPoolExecutor(2) as pool:
        each = PreparedAhead(KEYS, prepare, pool, 4).each(KEYS)
        assert next(each)[0] == "k0" and next(each)[0] == "k1"
        with pytest.raises(OSError, match="no such disk"):
            next(each)


def test_a_shard_is_written_while_the_next_one_is_encoded(tmp_path: Path) -> None:
    cache, encoding = TensorCache(tmp_path), threading.Event()

    def make(keys: list[str]) -> Callable[[], Made]:
        if keys != KEYS[:2]:
            encoding.set()  # the second shard is in work

        def finish() -> Made:
            assert encoding.wait(SOON)
            return {key: {"a": torch.ones(1)} for key in keys}, {}

        return finish

    with stage("test", len(KEYS)) as bar:
        fill(cache, KEYS, 2, make, bar)
        assert bar.done == len(KEYS)
    cache.finish()
    assert set(TensorCache(tmp_path).places) == set(KEYS)


def test_an_error_while_writing_ends_the_fill_and_leaves_whole_shards(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)

    def make(keys: list[str]) -> Callable[[], Made]:
        def finish() -> Made:
            if "k4" in keys:
                raise ValueError("the encoders produced NaN")
            return {key: {"a": torch.ones(1)} for key in keys}, {}

        return finish

    with pytest.raises(ValueError, match="NaN"), stage("test", len(KEYS)) as bar:
        fill(cache, KEYS, 2, make, bar)
    again = TensorCache(tmp_path)
    assert {"k0", "k1", "k2", "k3"} <= set(again.places) and "k4" not in again.places
    assert again.verify() == []
