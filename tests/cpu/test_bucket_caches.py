"""Caches that are kept in a bucket too, over the real protocol: a machine with empty caches fetches
what another has encoded, and neither side holds half an entry."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import TextEmbeds
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.data.cache import TensorCache
from sd3tune.data.cache_bucket import CacheBucket
from sd3tune.errors import DataError
from tests.cpu.conftest import Project

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "do-not-tell"}
SHARDS = (("a", "b"), ("c", "d"))  # keys of two shards


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@dataclass(frozen=True)
class Store:
    """A bucket, asked with Amazon's own client."""

    client: Any
    name: str
    server: str

    def sizes(self) -> dict[str, int]:
        """The bytes of each object."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {o["Key"]: o["Size"] for o in listed}

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def read(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture
def store(server: str, tmp_path: Path) -> Store:
    """An empty bucket of this test."""
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1",
                          aws_access_key_id="key", aws_secret_access_key="do-not-tell")  # fmt: skip
    name = "b" + tmp_path.name.replace("_", "-")[-40:].lower()
    client.create_bucket(Bucket=name)
    return Store(client, name, server)


def cache(folder: Path, store: Store, **keys: Any) -> TensorCache:
    """The cache of a machine whose captions are kept in the bucket."""
    place = {"type": "aws", "aws_bucket_name": store.name, "aws_endpoint_url": store.server}
    entry = TextEmbeds(id="t", cache_dir=folder, aws_cache_prefix="words", **KEYS, **place | keys)
    return TensorCache(folder, CacheBucket(entry))


def fill(cache: TensorCache, *shards: Sequence[str]) -> None:
    for keys in shards or SHARDS:
        with cache.claim(keys) as draft:
            if draft is not None:
                number = float(ord(keys[0]))
                draft.write({key: {"x": torch.full((9,), number)} for key in keys[1:]},
                            {keys[0]: "it cannot be decoded"})  # fmt: skip
    cache.finish()


def test_another_machine_fetches_the_shards_that_hold_what_it_wants(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(one := cache(tmp_path / "one", store))
    server = store.server.removeprefix("http://")
    assert f"contacts {server} for the cache of dataset `t`" in capsys.readouterr().err
    assert {f"words/shards/{p.name}": p.stat().st_size for p in one.shard_paths()} == store.sizes()
    other = cache(tmp_path / "other", store)
    other.exchange({"d", "z"})
    assert set(other.places) == {"c", "d"} and other.problem("c") == "it cannot be decoded"
    assert torch.equal(other.get("d")["x"], one.get("d")["x"])
    assert not list((tmp_path / "other").rglob("*.draft"))
    other.exchange({"a", "d"})
    assert set(other.places) == {"a", "b", "c", "d"}


def test_damaged_and_strange_objects_are_not_taken_and_damaged_ones_are_replaced(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(cache(tmp_path / "one", store))
    whole = store.sizes()
    first, second = sorted(whole)
    store.put(first, store.read(first)[:-8])
    changed = store.read(second)
    store.put(second, changed[:-1] + bytes([changed[-1] ^ 1]))
    store.put(f"words/shards/{'0' * 40}.safetensors", b"x")
    store.put(f"words/shards/{'1' * 40}.safetensors", changed)
    store.put("words/shards/notes.txt", b"x")
    fresh = cache(tmp_path / "fresh", store)
    fresh.exchange({"a", "b", "c", "d"})
    assert not fresh.places and not list((tmp_path / "fresh").rglob("*.draft"))
    assert capsys.readouterr().err.count("is damaged: its entries are encoded again") == 3
    fill(fresh)
    assert {key: store.sizes()[key] for key in whole} == whole
    assert store.read(second) == changed


def test_what_an_interrupted_run_could_not_store_is_stored_by_the_next(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="cannot be listed") as refused:
        fill(cache(tmp_path, store, aws_bucket_name="nobodys"), SHARDS[0])
    assert "the next run stores it" in refused.value.hint and "t`" in str(refused.value)
    assert "do-not-tell" not in f"{refused.value} {refused.value.hint}"
    assert store.sizes() == {}
    again = cache(tmp_path, store)
    assert set(again.places) == {"a", "b"}  # encoding has not been in vain
    again.exchange({"b"})
    assert list(store.sizes()) == [f"words/shards/{p.name}" for p in again.shard_paths()]
    TensorCache(tmp_path).prune(set())
    assert len(store.sizes()) == 1  # nothing in a bucket is ever removed


def test_where_a_cache_is_kept_follows_from_the_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = {"type": "aws", "aws_bucket_name": "b", **KEYS}
    images = {"id": "d", "cache_dir_vae": "latents/{id}", **place}
    texts = {"id": "t", "dataset_type": "text_embeds", "aws_data_prefix": "/words/",
             "cache_dir": "cache/text", **place}  # fmt: skip
    config = Config(output_dir="o", data_backend_config="d.json", max_train_steps=1)

    def kept(of_images: dict[str, Any], of_texts: dict[str, Any]) -> tuple[Any, Any, str]:
        Path("d.json").write_text(json.dumps([images | of_images, texts | of_texts]))
        found = load_datasets(tmp_path / "d.json", config)
        (dataset,) = found.images
        return dataset.aws_cache_prefix, found.text.aws_cache_prefix, "\n".join(found.notes)

    *prefixes, notes = kept({}, {})
    assert prefixes == ["latents/d", "words/cache/text"]
    assert "dataset `d`: encoded images are stored in s3://b/latents/d too" in notes
    assert "dataset `t`: encoded captions are stored in s3://b/words/cache/text too" in notes
    assert "do-not-tell" not in notes
    here = str(tmp_path / "here")
    *prefixes, notes = kept({"cache_dir_vae": here}, {"cache_dir": f"{here}/text"})
    assert prefixes == [None, "words"] and "encoded images" not in notes
    assert kept({"cache_dir_vae": "../x"}, {"cache_dir": ""})[:2] == (None, "words")
    own = {"aws_cache_prefix": "a/b"}
    assert kept(own, {"aws_cache_prefix": "c"})[:2] == ("a/b", "c")
    *_, notes = kept(own, {"type": "local"})
    assert "dataset `t`: aws_bucket_name not used: type is local, not aws" in notes


@pytest.mark.slow
def test_a_machine_with_empty_caches_encodes_nothing(project: Project, store: Store) -> None:
    place = {"type": "aws", "aws_bucket_name": store.name, "aws_endpoint_url": store.server, **KEYS}
    for i in range(6):
        path = project.picture(f"{i}.png", i)
        for file in (path, path.with_suffix(".txt")):
            store.put(f"set/{file.name}", file.read_bytes())
    del project.dataset["instance_data_dir"]
    project.dataset |= place | {"aws_data_prefix": "set"}
    project.others[0] |= place
    assert project.build() == {"text": 7, "vae": 6}
    kept = {path: path.read_bytes() for path in project.root.glob("cache/*/shards/*.safetensors")}
    shutil.rmtree(project.root / "cache")
    project.dataset["skip_file_discovery"] = "vae,text"  # what the bucket lacks is an error
    assert project.build() == {"text": 7, "vae": 6}
    assert {path: path.read_bytes() for path in kept} == kept
