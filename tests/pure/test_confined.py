"""Tables, links and special files do not lead out of a dataset."""

import json
import os
from pathlib import Path

import pytest

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.data import image_tables, sources
from sd3tune.data.digests import Known, KnownFiles
from sd3tune.data.discover import Discovery, discover
from sd3tune.data.folder import Folder
from sd3tune.data.sources import source_of
from sd3tune.errors import ConfigError, DataError
from sd3tune.filesystem import opening
from tests.commands import sd3tune
from tests.image_folders import captions, dataset, found, picture, reasons
from tests.loopback import sends, serving
from tests.special_files import socket_at

LEAVES = "leaves `{}`; allowed_roots can name other folders"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "elsewhere" / "private.png")
    (tmp_path / "elsewhere" / "private.txt").write_text("a secret\n")
    return tmp_path / "images"


def rows(images: Path, *names: str, **more: object) -> Discovery:
    path = images / "t.csv"
    path.write_text("filename,caption\n" + "".join(f"{name},words\n" for name in names))
    return found(images, type="csv", caption_strategy="csv", csv={"path": path}, **more)


def test_rows_of_a_table_stay_inside_their_dataset(images: Path) -> None:
    (images / "link.png").symlink_to(images.parent / "elsewhere" / "private.png")
    (images / "far").symlink_to(images.parent / "elsewhere")
    outside = [str(images.parent / "elsewhere" / "private.png"), "../elsewhere/private.png",
               "x/../../elsewhere/private.png", "link.png", "far/private.png"]  # fmt: skip
    inside = ["a.png", str(images / "a.png"), "./b/../a.png"]
    (images / "b").mkdir()
    (images / "x").mkdir()
    got = rows(images, *inside, *outside)
    assert len(got.samples) == 3
    why = "cannot be read: its path " + LEAVES.format(images)
    assert [r.reason for r in got.rejected] == [why] * 5
    allowed = rows(images, *inside, *outside, allowed_roots=(images.parent / "elsewhere",))
    assert len(allowed.samples) == 8


def test_a_row_cannot_name_a_device_or_a_pipe(images: Path) -> None:
    os.mkfifo(images / "pipe.png")
    socket_at(images / "socket.png")
    (images / "d.png").mkdir()
    got = rows(images, "a.png", "/dev/zero", "/dev/stdin", "pipe.png", "socket.png", "d.png",
               allowed_roots=(Path("/"),))  # fmt: skip
    assert len(got.samples) == 1
    assert {name: why.removeprefix("cannot be read: ") for name, why in reasons(got).items()} == {
        "zero": "it is a device, not a regular file",
        "stdin": "it is a device, not a regular file",
        "pipe.png": "it is a pipe, not a regular file",
        "socket.png": "it is a socket, not a regular file",
        "d.png": "it is a folder",
    }  # fmt: skip


def test_rows_of_a_hub_dataset_stay_inside_it(images: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    folder = tmp_path / "repository"
    features = hub.Features({"image": hub.Image(decode=False), "caption": hub.Value("string")})
    inside = picture(folder / "inside.png")
    paths = [str(inside), str(images / "a.png"), "/dev/zero"]
    given = {"image": [{"path": p, "bytes": None} for p in paths], "caption": ["words"] * 3}
    (folder / "data").mkdir()
    hub.Dataset.from_dict(given, features).to_parquet(folder / "data" / "train.parquet")
    inside.unlink()
    picture(inside)
    settings = dataset(images, type="huggingface", instance_data_dir=None, huggingface={},
                       dataset_name=str(folder), caption_strategy="huggingface")  # fmt: skip
    got = discover(settings, source_of(settings))
    assert [s.name for s in got.samples] == ["000000000"]
    why = "cannot be read: the path in its row " + LEAVES.format(folder)
    assert [r.reason for r in got.rejected] == [why, why]


def card(folder: Path, data_files: str) -> None:
    folder.mkdir(exist_ok=True)
    configs = f"configs:\n- config_name: default\n  data_files: '{data_files}'\n"
    (folder / "README.md").write_text(f"---\n{configs}---\n")


def test_the_card_of_a_hub_dataset_cannot_name_other_files(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "elsewhere" / "words.csv").write_text("image,caption\na.png,a secret\n")
    folder = tmp_path / "repository"
    settings = dataset(images, type="huggingface", instance_data_dir=None,
                       dataset_name=str(folder), caption_strategy="huggingface")  # fmt: skip
    with serving(sends(b"image,caption\n")) as server:
        folder.mkdir()
        for name in (f"{server.address}/x.csv?sig=secret", "hf://datasets/a/b/x.csv"):
            card(folder, name)
            with pytest.raises(
                DataError, match=r"takes its data from .*: that is another server"
            ) as e:
                discover(settings, source_of(settings))
            assert "sig" not in str(e.value)
        assert server.asked == []
    for name in ("../elsewhere/*.csv", str(tmp_path / "elsewhere" / "words.csv"), "link.csv"):
        card(folder, name)
        if name == "link.csv":
            (folder / name).symlink_to("../elsewhere/words.csv")
        with pytest.raises(DataError, match=r"takes its data from .*: that is a file outside"):
            discover(settings, source_of(settings))


def test_a_caption_file_that_is_a_link_out_is_not_read(images: Path) -> None:
    (images / "a.txt").symlink_to(images.parent / "elsewhere" / "private.txt")
    picture(images / "b.png")
    (images / "words.txt").write_text("inside")
    (images / "b.txt").symlink_to("words.txt")
    got = found(images, caption_strategy="textfile")
    assert captions(got) == {"b.png": ("inside",)}
    why = "caption file a.txt cannot be read: it is a link that " + LEAVES.format(images)
    assert reasons(got) == {"a.png": why}
    allowed = found(images, caption_strategy="textfile", allowed_roots=(images.parent,))
    assert captions(allowed)["a.png"] == ("a secret",)


def test_caption_files_are_small_regular_files(images: Path) -> None:
    for name in "bcd":
        picture(images / f"{name}.png")
    (images / "a.txt").write_text("fine")
    os.mkfifo(images / "b.txt")
    (images / "c.txt").symlink_to("/dev/zero")
    with (images / "d.txt").open("wb") as f:
        f.truncate(sources.CAPTION_BYTES + 1)
    got = found(images, caption_strategy="textfile", allowed_roots=(Path("/dev"),))
    assert captions(got) == {"a.png": ("fine",)}
    assert "b.txt cannot be read: it is a pipe, not a regular file" in reasons(got)["b.png"]
    assert "c.txt cannot be read: it is a device, not a regular file" in reasons(got)["c.png"]
    assert "d.txt cannot be read: it holds 1,048,577 bytes" in reasons(got)["d.png"]


def test_images_behind_links_that_leave_are_used_with_one_warning(images: Path) -> None:
    picture(images.parent / "farm" / "deep" / "c.png")
    (images / "b.png").symlink_to(images.parent / "elsewhere" / "private.png")
    (images / "farm").symlink_to(images.parent / "farm")
    (images / "near.png").symlink_to("a.png")
    settings = dataset(images)
    source = source_of(settings)
    assert len(discover(settings, source).samples) == 4
    (warning,) = source.warnings()
    assert warning.startswith(f"2 images are behind links that leave `{images}`, such as `b.png`: ")
    settings = dataset(images, allowed_roots=(images.parent / "elsewhere", images.parent / "farm"))
    source = source_of(settings)
    discover(settings, source)
    assert source.warnings() == []


def test_the_warning_is_said_once_by_the_command(images: Path, tmp_path: Path) -> None:
    (images / "b.png").symlink_to(images.parent / "elsewhere" / "private.png")
    (tmp_path / "config").mkdir()
    config = {"output_dir": "out", "max_train_steps": 1, "resolution": 64}
    (tmp_path / "config" / "config.json").write_text(json.dumps(config))
    entries = [{"id": "i", "instance_data_dir": "images"}]
    (tmp_path / "config" / "multidatabackend.json").write_text(json.dumps(entries))
    answer = sd3tune("dataset", "config/config.json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("warning: dataset `i`: 1 image is behind links that leave") == 1


def test_names_in_a_cache_that_came_along_do_not_lead_out(images: Path) -> None:
    private = images.parent / "elsewhere" / "private.png"
    names = ("a.png", "../elsewhere/private.png", str(private))
    memory = KnownFiles(images.parent / "cache", "d")
    for name in names:
        memory.files[name] = Known(Folder(images).stamp(name), 96, 64, None)
    memory.write()
    for more in ({"preserve_data_backend_cache": True}, {"skip_file_discovery": ("metadata",)}):
        got = found(images, **more)
        assert [s.name for s in got.samples] == ["a.png"] and not got.rejected
    with serving(sends(private.read_bytes())) as server:
        memory.files[f"{server.address}/x.png"] = memory["a.png"]
        memory.write()
        kept = rows(images, "a.png", preserve_data_backend_cache=True, allow_private_hosts=True)
        assert [s.name for s in kept.samples] == ["a.png"] and server.asked == []


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.csv", "pipe.parquet", "/proc/self/environ"])
def test_a_table_is_a_regular_file(images: Path, name: str) -> None:
    path = Path(name) if name.startswith("/") else images / name
    if not path.exists():
        os.mkfifo(path)
    with pytest.raises(DataError) as e:
        found(images, caption_strategy="csv", csv={"path": path})
    assert ", not a regular file" in str(e.value) or "has no column" in str(e.value)
    assert e.value.hint in ("check the file and its path", "its columns: none")


def test_a_line_of_a_table_has_an_end(images: Path) -> None:
    path = images / "t.csv"
    with path.open("wb") as f:
        f.write(b"filename,caption\n")
        f.truncate(64 * 2**20)
    with pytest.raises(DataError, match=f"a line is longer than {image_tables.LINE_CHARACTERS}"):
        found(images, caption_strategy="csv", csv={"path": path})


def test_cells_that_are_no_caption_for_their_length_are_left_out(images: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture(images / "b.png")
    path = images / "t.parquet"
    text = ["x" * (image_tables.TEXT_CHARACTERS + 1), "short"]
    parquet.write_table(pa.table({"filename": ["a.png", "b.png"], "caption": text}), path)
    got = found(images, caption_strategy="parquet", parquet={"path": path})
    assert captions(got) == {"b.png": ("short",)}
    many = pa.DictionaryArray.from_arrays([0] * 300, ["x" * 2**20])  # a megabyte in the file
    names = [f"{i}.png" for i in range(300)]
    parquet.write_table(pa.table({"filename": names, "caption": many}), path)
    with pytest.raises(DataError, match="300 rows of it take 300 MiB"):
        found(images, caption_strategy="parquet", parquet={"path": path})


def test_settings_are_read_from_regular_files(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("filters.txt")
    with pytest.raises(
        ConfigError, match=r"filters\.txt` cannot be read: it is a \w+, not a regular"
    ):
        found(images, caption_filter_list=tmp_path / "filters.txt")
    Path("c.json").write_text('{"output_dir": "out", "max_train_steps": 1}')
    for name in ("/dev/zero", "filters.txt"):
        with pytest.raises(ConfigError, match=r"cannot be read: it is a \w+, not a regular file"):
            load_datasets(Path(name), Config.load(Path("c.json")))


def test_a_file_that_was_exchanged_meanwhile_is_not_waited_for(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe in its place, after it was looked at and before it is opened."""
    real = os.open

    def late(path: str, flags: int) -> int:
        (images / "a.png").unlink()
        os.mkfifo(images / "a.png")
        return real(path, flags)

    monkeypatch.setattr("sd3tune.filesystem.opening.os.open", late)
    with pytest.raises(OSError, match=r"it is a \w+, not a regular file"):
        Folder(images).open("a.png")


def test_a_file_of_any_length_is_not_read_whole(images: Path) -> None:
    with (images / "a.png").open("r+b") as f:
        f.truncate(sources.IMAGE_BYTES + 1)
    with pytest.raises(DataError, match="it holds 2,147,483,649 bytes; the limit is 2,147,483,648"):
        found(images)
    assert opening.opened("/proc/self/environ", 100).read() == b""
