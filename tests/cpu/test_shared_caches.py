"""Caches beside files of other people: only what sd3tune wrote is ever removed, and what others put
there is neither followed, nor run, nor waited for."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from sd3tune import quant
from sd3tune.data import digests, shards, sqlite_files
from sd3tune.data.cache import INDEX, TensorCache, shard_name
from sd3tune.data.cache_index import TABLES
from sd3tune.data.digests import Known, KnownFiles
from sd3tune.encode.fill import fill
from sd3tune.errors import DataError
from sd3tune.filesystem import cachedir
from sd3tune.formats.picture_files import keep
from sd3tune.quant import store as quantised
from sd3tune.report.progress import stage
from tests.commands import exit_code
from tests.cpu.conftest import Project
from tests.image_folders import shown
from tests.nobody import as_nobody

HASH = "0123456789abcdef" * 2 + "01234567"
Files = dict[str, bytes]


def put(one: TensorCache, *keys: str) -> None:
    with one.claim(keys) as draft:
        assert draft is not None
        draft.write({key: {"a": torch.ones(3)} for key in keys}, {})


def model(folder: Path) -> Path:
    """Somebody's model whose weights are in a folder called shards, the second one damaged."""
    (folder / "shards").mkdir(parents=True)
    for number in (1, 2):
        save_file({"w": torch.ones(4)}, folder / f"shards/model-0000{number}-of-00002.safetensors")
    path = folder / "shards/model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (folder / f"shards/{HASH}.safetensors").write_bytes(b"a hash for a name, and damaged")
    (folder / "shards/later.draft").write_text("somebody's draft")
    return folder


def files(folder: Path) -> Files:
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_verify_repairs_nothing_in_a_model_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(model(tmp_path / "model"))
    assert exit_code(["cache", "verify", "--repair", str(tmp_path)], monkeypatch) == 1
    assert "error: no sd3tune cache below" in capsys.readouterr().err
    assert files(tmp_path / "model") == before


DAMAGE: dict[str, Callable[[TensorCache], object]] = {
    "mend": TensorCache.mend,
    "prune": lambda c: c.prune(set()),
    "remove": lambda c: c.remove(sorted((c.folder / "shards").iterdir())),
    "finish": TensorCache.finish,
    "verify": lambda c: c.remove([d.path for d in c.verify()]),
    "places": lambda c: c.places,
}


@pytest.mark.parametrize("operation", DAMAGE)
def test_no_operation_removes_anything_of_a_folder_that_is_not_ours(
    operation: str, tmp_path: Path
) -> None:
    before = files(model(tmp_path))
    DAMAGE[operation](TensorCache(tmp_path))
    assert files(tmp_path) == before


@pytest.mark.parametrize("operation", DAMAGE)
def test_in_a_cache_that_is_ours_foreign_files_stay(operation: str, tmp_path: Path) -> None:
    one = TensorCache(model(tmp_path))
    (tmp_path / f"shards/{HASH}.safetensors").unlink()
    save_file({"w": torch.ones(1)}, tmp_path / f"shards/{HASH}.safetensors")  # whole, not ours
    before = files(tmp_path)
    put(one, "k1")
    put(one, "k2")
    DAMAGE[operation](TensorCache(tmp_path))
    after = files(tmp_path)
    assert {name: after.get(name) for name in before} == before
    kept = 0 if operation in ("prune", "remove") else 2
    assert len(TensorCache(tmp_path).places) == kept


@pytest.mark.parametrize("adopted_by", ["the mark", "its index", "a shard"])
def test_damaged_shards_of_a_cache_made_before_the_mark_are_removed(
    adopted_by: str, tmp_path: Path
) -> None:
    one = TensorCache(tmp_path)
    put(one, "k1")
    put(one, "k2")
    if adopted_by == "its index":
        one.finish()
    if adopted_by != "the mark":
        (tmp_path / cachedir.TAG).unlink()
    damaged = one.shard_paths()[: 1 if adopted_by == "a shard" else 2]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1])
    assert len(TensorCache(tmp_path).verify()) == len(damaged)
    assert TensorCache(tmp_path).mend() == len(damaged) and not any(p.exists() for p in damaged)


@pytest.mark.parametrize("kind", ["foreign", "damaged", "folder", "pipe", "unreadable", "link"])
def test_a_strange_file_in_the_place_of_a_shard_is_one_error_and_not_a_loop(
    kind: str, tmp_path: Path
) -> None:
    place = tmp_path / "shards" / f"{shard_name(['k'])}.safetensors"
    place.parent.mkdir()
    make: dict[str, Callable[[], object]] = {
        "foreign": lambda: save_file({"w": torch.ones(1)}, place),
        "damaged": lambda: place.write_bytes(b"what?"),
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
        "unreadable": lambda: place.write_bytes(b""),
        "link": lambda: place.symlink_to("/dev/zero"),
    }
    make[kind]()
    (tmp_path / cachedir.TAG).write_text("Signature: of another program")
    with (
        pytest.raises(DataError, match="sd3tune did not write it"),
        stage("test", 1) as bar,
    ):
        fill(
            TensorCache(tmp_path),
            ["k"],
            1,
            lambda keys: lambda: ({"k": {"a": torch.ones(1)}}, {}),
            bar,
        )
    assert os.path.lexists(place)


def test_a_planted_draft_is_an_error_and_its_target_stays(tmp_path: Path) -> None:
    victim = tmp_path / "bashrc"
    victim.write_text("precious")
    one = TensorCache(tmp_path / "cache")
    put(one, "k1")
    draft = tmp_path / "cache/shards" / f"{shard_name(['k'])}.draft"
    draft.symlink_to(victim)
    with pytest.raises(DataError, match="is a symbolic link: remove that"), one.claim(["k"]):
        pass
    (tmp_path / "cache/index.draft").symlink_to(victim)
    with pytest.raises(DataError, match=r"index\.draft` is a symbolic link"):
        one.finish()
    (tmp_path / "cache/files.draft").symlink_to(victim)
    with pytest.raises(DataError, match=r"files\.draft` is a symbolic link"):
        KnownFiles(tmp_path / "cache", "d").write()
    assert victim.read_text() == "precious"


def test_databases_of_other_programs_stay(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in (INDEX, digests.FILE):
        with closing(sqlite3.connect(tmp_path / name)) as db, db:
            db.execute("create table bookmarks (url text)")
    before = files(tmp_path)
    one = TensorCache(tmp_path)
    one.finish()
    with pytest.raises(DataError, match="is not a file of sd3tune"):
        KnownFiles(tmp_path, "d").write()
    assert files(tmp_path) == before and not one.is_ours()


@pytest.mark.parametrize("name", [INDEX, "index.draft", "files.draft", digests.FILE])
def test_a_cache_that_is_put_into_a_folder_of_another_program_writes_over_nothing(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("precious")
    one = TensorCache(tmp_path)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        KnownFiles(tmp_path, "d").write()  # as a run does: first what is known of files
        put(one, "k")
        one.finish()
    assert (tmp_path / name).read_text() == "precious"


def test_what_is_left_of_a_killed_writer_is_written_over(tmp_path: Path) -> None:
    one = TensorCache(tmp_path)
    put(one, "k")
    for begun in (b"", b"SQLite f", b"SQLite format 3\0 and so on", bytes(4096)):
        (tmp_path / "index.draft").write_bytes(begun)
        one.finish()
        assert (
            sqlite_files.is_ours(tmp_path / INDEX, TABLES)
            and not (tmp_path / "index.draft").exists()
        )


ENDLESS = "with recursive t(n) as (select 1 union all select n + 1 from t) select"
HOSTILE: dict[str, list[str]] = {
    "an endless view": [f"create view shards as {ENDLESS} n as name, n as bytes from t",
                        f"create view entries as {ENDLESS} n as key, n as shard, 0 as problem "
                        "from t"],
    "a trigger": [*TABLES, "create trigger t after insert on shards begin select 1; end"],
    "a table more": [*TABLES, "create table more (a)"],
    "a computed column": [TABLES[0], "create table entries (key text primary key, shard text, "
                          "problem text as (shard) stored) without rowid"],
    "another key": ["create table shards (name text, bytes integer)", TABLES[1]],
    "an index by expression": [*TABLES, "create index i on entries (length(shard))"],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_an_index_of_another_form_counts_as_absent(case: str, tmp_path: Path) -> None:
    put(TensorCache(tmp_path), "k")
    with closing(sqlite3.connect(tmp_path / INDEX)) as db, db:
        for statement in HOSTILE[case]:
            db.execute(statement)
    one = TensorCache(tmp_path)
    assert not sqlite_files.is_ours(tmp_path / INDEX, TABLES) and one.has("k")
    one.finish()
    assert sqlite_files.is_ours(tmp_path / INDEX, TABLES)


def test_rows_of_an_index_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    one = TensorCache(tmp_path / "cache")
    put(one, "k")
    one.finish()
    save_file({"out.a": torch.ones(1)}, tmp_path / "x.safetensors", {"sd3tune": "{}"})
    size = (tmp_path / "x.safetensors").stat().st_size
    with closing(sqlite3.connect(tmp_path / "cache" / INDEX)) as db, db:
        for name in ("../../x.safetensors", str(tmp_path / "x.safetensors"), b"blob", 7):
            db.execute("insert into shards values (?, ?)", (name, size))
            db.execute("insert into entries values (?, ?, null)", (f"out {name!r}", name))
        listed = one.shard_paths()[0].name
        for key, problem in ((b"blob", None), ("odd", b"5")):
            db.execute("insert into entries values (?, ?, ?)", (key, listed, problem))
    assert list(TensorCache(tmp_path / "cache").places) == ["k"]


def test_what_is_known_of_files_has_its_types(tmp_path: Path) -> None:
    known = Known("stamp", 3, 4, b"d" * 16)
    one = KnownFiles(tmp_path, "d")
    one.files["a"] = known
    one.write()
    with closing(sqlite3.connect(tmp_path / digests.FILE)) as db, db:
        rows: list[tuple[Any, ...]] = [
            (b"d", b"b", "stamp", "wide", 4, None), (b"d", b"c", "stamp", 3, b"x", None),
            (b"d", b"e", b"5", 3, 4, None), ("d", "f", "stamp", 3, 4, None),
            (b"d", b"g", "stamp", 3, 4, "text"),
        ]  # fmt: skip
        db.executemany("insert into files values (?, ?, ?, ?, ?, ?)", rows)
    assert KnownFiles(tmp_path, "d").files == {"a": known}


@pytest.mark.parametrize("name", [INDEX, digests.FILE])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_or_device_in_the_place_of_a_database_counts_as_absent(
    name: str, kind: str, tmp_path: Path
) -> None:
    put(TensorCache(tmp_path), "k")
    place = tmp_path / name
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(place),
        "device": lambda: place.symlink_to("/dev/zero"),
        "folder": place.mkdir,
    }
    make[kind]()
    assert TensorCache(tmp_path).has("k") and KnownFiles(tmp_path, "d").files == {}


@pytest.mark.parametrize(
    "about", ["[1]", '{"digests": 3}', '{"problems": {"a": 1}}', "[" * 100_000]
)
def test_metadata_of_any_form_is_damage_and_not_a_bug(about: str, tmp_path: Path) -> None:
    one = TensorCache(tmp_path)
    put(one, "k")
    (path,) = one.shard_paths()
    save_file({"k.a": torch.ones(1)}, path, {shards.ABOUT: about})
    assert len(TensorCache(tmp_path).verify()) == 1 and not TensorCache(tmp_path).has("k")
    assert TensorCache(tmp_path).mend() == 1


def test_an_entry_of_another_kind_is_one_error(project: Project) -> None:
    for i in range(2):
        project.picture(f"{i}.png", i)
    project.build()
    prepared = project.prepare()
    from sd3tune.encode.caches import Caches
    from sd3tune.encode.file_digests import fingerprint

    caches = Caches.of(prepared)
    (dataset,) = prepared.datasets.all
    fingerprint(caches, dataset, prepared.samples)
    sample, caption = prepared.samples[0], prepared.samples[0].captions[0]
    assert caches.posterior(sample)[0].ndim == 3 and caches.embeds(caption)[0].ndim == 2
    for kind, key in (("vae", caches.key(sample)), ("text", caches.text_key(caption))):
        for path in (project.root / "cache" / kind / "shards").iterdir():
            keys = shards.contents(path)[0]
            if key in keys:  # every checksum is right, and the tensors are others
                odd = {k: {"mean": torch.ones(3), "t5": torch.ones(1)} for k in keys}
                path.write_bytes(save(*shards.stored(odd, {})))
    caches = Caches.of(prepared)
    fingerprint(caches, dataset, prepared.samples)
    with pytest.raises(DataError, match="is not what sd3tune encodes"):
        caches.posterior(sample)
    with pytest.raises(DataError, match="is not what sd3tune encodes"):
        caches.embeds(caption)


def test_pruning_by_a_configuration_leaves_a_model_that_its_folders_name(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        project.picture(f"{i}.png", i)
    project.build()
    before = files(model(project.root / "cache/vae/epoch"))
    strangers = files(project.root / "cache/vae")
    assert exit_code(["cache", "prune", str(project.write())], monkeypatch) == 0, (
        capsys.readouterr()
    )
    assert files(project.root / "cache/vae/epoch") == before
    assert files(project.root / "cache/vae").keys() == strangers.keys()


def test_pruning_does_not_give_a_new_checksum_to_a_damaged_entry(tmp_path: Path) -> None:
    one = TensorCache(tmp_path)
    put(one, "k1", "k2")
    (path,) = one.shard_paths()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in k2, the last
    path.write_bytes(data)
    assert TensorCache(tmp_path).prune({"k2"}) == 1
    assert not TensorCache(tmp_path).has("k2")


def test_quantised_weights_are_not_written_through_a_planted_link(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    path = quantised.place(tmp_path / "kept", "id", "int8-quanto", quant.TRANSFORMER)
    victim = tmp_path / "bashrc"
    victim.write_text("precious")
    path.parent.mkdir()
    path.with_suffix(".draft").symlink_to(victim)
    why = quantised.save(layer, path)
    assert why is not None and "symbolic link" in why and victim.read_text() == "precious"


def test_pictures_are_not_written_through_a_planted_link(tmp_path: Path) -> None:
    victim, picture = tmp_path / "bashrc", tmp_path / "step_1.png"
    victim.write_text("precious")
    picture.symlink_to(victim)
    keep(Image.new("RGB", (8, 8)), picture, {})
    assert victim.read_text() == "precious" and shown(picture).size == (8, 8)


def test_drafts_of_killed_writers_do_not_stay_for_ever(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    path = quantised.place(tmp_path, "id", "int8-quanto", quant.TRANSFORMER)
    old, young = (tmp_path / f"{name * 32}.77.draft" for name in "ab")
    dead, foreign = tmp_path / f"{'c' * 32}.draft", tmp_path / "letter.draft"
    for one in (old, young, dead, foreign):
        one.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    assert quantised.save(layer, path) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [path.name, young.name, foreign.name]
    )


def test_a_shard_that_another_user_may_not_read_is_not_called_damaged(public: Path) -> None:
    put(TensorCache(public / "cache"), "k")
    (shard,) = (public / "cache" / "shards").iterdir()
    shard.chmod(0o600)
    for folder in (public / "cache", shard.parent):
        folder.chmod(0o777)  # anybody may remove what is in it

    def repaired() -> list[str]:
        one = TensorCache(public / "cache")
        said = [f"{one.mend()} removed"]
        try:
            one.remove([d.path for d in one.verify()])
        except DataError as e:
            said += [str(e), e.hint]
        return said

    if os.getuid() != 0:
        shard.chmod(0)
    said = as_nobody(repaired)
    assert said[0] == "0 removed" and "cannot be read: Permission denied" in said[1]
    assert "nothing was removed" in said[2] and shard.exists()
