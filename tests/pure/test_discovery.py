"""What a dataset is found to be: files, captions, tables, rows; and why files are set aside."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sd3tune.config.datasets.image_dataset import ImageDataset, Masks
from sd3tune.data import image_tables
from sd3tune.data.captions import shuffled
from sd3tune.data.digests import Known, KnownFiles
from sd3tune.data.discover import discover
from sd3tune.data.folder import Folder
from sd3tune.data.sources import source_of
from sd3tune.errors import ConfigError, DataError
from tests.image_folders import captions, dataset, found, picture, reasons


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b/a_red_car.png", "b/cat.jpg", "z.png"):
        picture(tmp_path / "images" / name)
    return tmp_path / "images"


def test_files_are_named_by_their_path_and_hidden_ones_left_out(images: Path) -> None:
    picture(images / ".hidden.png")
    picture(images / ".cache" / "x.png")
    (images / "b" / "loop").symlink_to(images)
    assert captions(found(images)) == {
        "b/a_red_car.png": ("a red car",),
        "b/cat.jpg": ("cat",),
        "z.png": ("z",),
    }


def test_text_files_hold_one_caption_a_line(images: Path) -> None:
    (images / "z.txt").write_text("a wall,  white\n\n a door \n", encoding="utf-8-sig")
    (images / "b/cat.txt").write_bytes("un café\r\n".encode())
    (images / "b/a_red_car.txt").write_bytes(b"\xff\xfe broken")
    got = found(images, caption_strategy="textfile")
    assert captions(got) == {"z.png": ("a wall, white", "a door"), "b/cat.jpg": ("un café",)}
    assert reasons(got) == {"a_red_car.png": "caption file a_red_car.txt is not UTF-8 at byte 0"}
    one = found(images, caption_strategy="textfile", disable_multiline_split=True)
    assert captions(one)["z.png"] == ("a wall, white a door",)


def test_the_instance_prompt_stands_alone_or_in_front(images: Path) -> None:
    alone = found(images, instance_prompt="sks", caption_strategy="instanceprompt")
    assert set(captions(alone).values()) == {("sks",)}
    only = found(images, instance_prompt="sks", only_instance_prompt=True)
    assert set(captions(only).values()) == {("sks",)}
    front = found(images, instance_prompt="sks", prepend_instance_prompt=True)
    assert captions(front)["b/cat.jpg"] == ("sks cat",)


def test_filters_remove_texts_and_expressions_and_replace(images: Path, tmp_path: Path) -> None:
    (images / "z.txt").write_text("photo of a car (red), 4k, 8k\nphoto of")
    entries = ["photo of", "(red)", r"\b\dk\b", "s/car/lorry/"]
    want = ("a lorry",)
    got = found(images, caption_strategy="textfile", caption_filter_list=entries)
    assert captions(got) == {"z.png": ("a lorry , ,".strip(" ,"),)} == {"z.png": want}
    for name, text in (("f.txt", "\n".join(entries)), ("f.json", json.dumps(entries))):
        (tmp_path / name).write_text(text)
        got = found(images, caption_strategy="textfile", caption_filter_list=tmp_path / name)
        assert captions(got) == {"z.png": want}
    empty = found(images, caption_filter_list=["cat"])
    assert reasons(empty) == {"cat.jpg": "caption_filter_list leaves nothing of its caption"}
    with pytest.raises(ConfigError, match="not a valid regular expression"):
        found(images, caption_filter_list=["s/(/x/"])


def test_tags_that_a_filter_empties_go_with_their_comma(images: Path) -> None:
    (images / "z.txt").write_text("a car, red, 4k, 8k, big\n4k,a car,red\nas,, it , , is")
    got = found(images, caption_strategy="textfile", caption_filter_list=["red", r"\b\dk\b"])
    assert captions(got)["z.png"] == ("a car, big", "a car", "as,, it , , is")


def test_shuffling_keeps_the_front_and_every_tag(images: Path) -> None:
    (images / "z.txt").write_text("sks, one, two, three, four")
    how = {"count": 3, "seed": 1, "position_start": 1}
    (got,) = captions(found(images, caption_strategy="textfile", caption_shuffle=how)).values()
    assert got[0] == "sks, one, two, three, four" and 2 <= len(got) <= 4
    for caption in got:
        tags = caption.split(", ")
        assert tags[0] == "sks" and sorted(tags) == ["four", "one", "sks", "three", "two"]
    settings = dataset(images, caption_shuffle=how | {"include_original": False}).caption_shuffle
    assert settings is not None
    assert shuffled("a, b, c", settings) == shuffled("a, b, c", settings) != ["a, b, c"]


def table(path: Path, rows: str) -> Path:
    path.write_text(rows)
    return path


def test_a_csv_beside_the_images_holds_captions_and_sizes(images: Path, tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv",
        "filename,caption,other,w,h\nz.png,a wall,,96,64\nb/cat.jpg,,a cat,96,64\nno.png,x,,1,1\n",
    )
    columns = {"path": path, "fallback_caption_column": "other"}
    got = found(images, caption_strategy="csv", csv=columns)
    assert captions(got) == {"z.png": ("a wall",), "b/cat.jpg": ("a cat",)}
    assert reasons(got) == {"a_red_car.png": "no row for it in the csv table"}
    several = found(images, caption_strategy="csv",
                    csv={"path": path, "caption_column": ["caption", "other"]})  # fmt: skip
    assert captions(several) == {"z.png": ("a wall",), "b/cat.jpg": ("a cat",)}
    sized = columns | {"width_column": "w", "height_column": "h"}
    (images / "z.png").write_bytes(b"no header is read")
    got = found(images, caption_strategy="csv", metadata_backend="csv", csv=sized)
    assert {s.name: s.size for s in got.samples}["z.png"] == (96, 64)
    with pytest.raises(DataError, match="has no column `text`"):
        found(images, caption_strategy="csv", csv={"path": path, "caption_column": "text"})
    with pytest.raises(DataError, match="cannot be read"):
        found(images, caption_strategy="csv", csv={"path": tmp_path / "none.csv"})


def test_parquet_rows_may_leave_the_suffix_out_and_hold_lists(images: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(
        pa.table({"id": ["z", "b/cat"], "text": [["a wall", "a white wall"], ["a cat"]],
                  "w": [96, 10], "h": [64, 10]}),
        path,
    )  # fmt: skip
    columns = {"path": path, "filename_column": "id", "caption_column": "text",
               "identifier_includes_extension": False, "width_column": "w",
               "height_column": "h"}  # fmt: skip
    got = found(images, caption_strategy="parquet", metadata_backend="parquet", parquet=columns)
    assert captions(got) == {"z.png": ("a wall", "a white wall"), "b/cat.jpg": ("a cat",)}
    assert {s.name: s.size for s in got.samples} == {"z.png": (96, 64), "b/cat.jpg": (10, 10)}
    path.write_bytes(b"no table")
    with pytest.raises(DataError, match="not a parquet file"):
        found(images, caption_strategy="parquet", parquet=columns)


def test_several_rows_of_an_image_are_several_captions(images: Path, tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv", "filename,caption\nz.png,a wall\n./z.png,white\nz.png,a wall\n"
    )
    got = found(images, caption_strategy="csv", csv={"path": path})
    assert captions(got) == {"z.png": ("a wall", "white")}


def test_sizes_that_are_none_are_read_from_the_header(images: Path, tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv",
        "filename,caption,w,h\nz.png,x,0,64\nb/cat.jpg,x,-5,64\nb/a_red_car.png,x,inf,nan\n",
    )
    columns = {"path": path, "width_column": "w", "height_column": "h"}
    got = found(images, caption_strategy="csv", metadata_backend="csv", csv=columns)
    assert {s.size for s in got.samples} == {(96, 64)} and len(got.samples) == 3


def test_cells_that_are_no_text_are_no_captions(images: Path) -> None:
    nan = float("nan")
    assert image_tables.texts([nan, None, b"a wall", b"\xff", {"a": 1}, 7, "x\ny\0"]) == [
        "a wall", "7", "x y"]  # fmt: skip


def test_a_row_may_be_numbered_zero(images: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture(images / "0.png")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"filename": [0], "caption": ["the first"]}), path)
    columns = {"path": path, "identifier_includes_extension": False}
    got = found(images, caption_strategy="parquet", parquet=columns)
    assert captions(got) == {"0.png": ("the first",)}


def test_rows_with_addresses_that_are_none_are_set_aside(images: Path, tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv", "filename,caption\nhttp://[::1/x,a\nhttp://,b\nz.png,c\nx\0.png,d\n"
    )
    got = found(images, type="csv", caption_strategy="csv", csv={"path": path})
    assert captions(got) == {"z.png": ("c",)} and len(got.rejected) == 3


def test_masks_behind_addresses_are_fetched_into_the_folder_that_was_set(
    server: str, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "tables").mkdir()
    path = table(tmp_path / "tables" / "t.csv", f"filename,caption\n{server}/z.png,\n")
    masks = Masks(id="m", type="csv", csv={"path": path}, csv_cache_dir=tmp_path / "kept",
                  allow_private_hosts=True)  # fmt: skip
    source = source_of(masks)
    assert source.read(f"{server}/z.png") == (images / "z.png").read_bytes()
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert list(path.parent.iterdir()) == [path]


def test_rows_of_a_csv_are_a_dataset_of_their_own(images: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "file,text\nb/cat.jpg,a cat\nz.png,a wall\nno.png,none\n")
    columns = {"path": path, "filename_column": "file", "caption_column": "text"}
    got = found(images, type="csv", caption_strategy="csv", csv=columns)
    assert captions(got) == {"b/cat.jpg": ("a cat",), "z.png": ("a wall",)}
    assert reasons(got) == {"no.png": "cannot be read: No such file or directory"}


@pytest.fixture
def server(images: Path) -> Iterator[str]:
    def handler(*args: object) -> http.server.SimpleHTTPRequestHandler:
        made = http.server.SimpleHTTPRequestHandler
        return type("Quiet", (made,), {"log_message": lambda *a: None})(  # type: ignore[no-any-return]
            *args, directory=str(images)
        )

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_images_behind_addresses_are_fetched_once(
    server: str, images: Path, tmp_path: Path
) -> None:
    rows = f"url,text\n{server}/z.png,a wall\n{server}/none.png,nothing\n"
    path = table(tmp_path / "t.csv", rows)
    settings = ImageDataset(
        id="d", type="csv", resolution=64, resolution_type="pixel_area", caption_strategy="csv",
        cache_dir_vae=tmp_path / "cache", csv_cache_dir=tmp_path / "kept", allow_private_hosts=True,
        csv={"path": path, "filename_column": "url", "caption_column": "text"},
    )  # fmt: skip
    got = discover(settings, source_of(settings))
    assert captions(got) == {f"{server}/z.png": ("a wall",)}
    assert "cannot be fetched: the server answers 404" in reasons(got)["none.png"]
    assert len(list((tmp_path / "kept").iterdir())) == 1
    shutil.rmtree(images)
    again = discover(settings, source_of(settings))
    assert again.samples == got.samples


def test_a_hub_dataset_gives_images_captions_and_sizes(images: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    features = hub.Features({"image": hub.Image(), "text": hub.Value("string"),
                             "other": hub.Value("string")})  # fmt: skip
    rows = {"image": [str(images / "z.png"), str(images / "b/cat.jpg"), None],
            "text": ["a wall", "", "nothing"], "other": ["", "a cat", ""]}  # fmt: skip
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    hub.Dataset.from_dict(rows, features).to_parquet(folder / "train-00000-of-00001.parquet")
    columns = {"caption_column": "text", "fallback_caption_column": "other"}
    settings = ImageDataset(
        id="d", type="huggingface", dataset_name=str(folder.parent), resolution=64,
        resolution_type="pixel_area", caption_strategy="huggingface",
        cache_dir_vae=tmp_path / "cache", huggingface=columns, allowed_roots=(images,),
    )  # fmt: skip
    source = source_of(settings)
    got = discover(settings, source)
    assert [(s.captions, s.size) for s in got.samples] == [(("a wall",), (96, 64)),
                                                          (("a cat",), (96, 64))]  # fmt: skip
    assert [r.reason for r in got.rejected] == ["cannot be read: the row has no image"]
    with source.open(got.samples[1].name) as file, Image.open(file) as image:
        assert image.format == "JPEG"
    wrong = settings.model_copy(update={"huggingface": settings.huggingface.model_copy(
        update={"image_column": "picture"})})  # fmt: skip
    with pytest.raises(DataError, match="no column `picture`"):
        discover(wrong, source_of(wrong))


def test_columns_of_a_hub_dataset_that_are_not_used_may_be_missing(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    picture(tmp_path / "z.png")
    features = hub.Features({"image": hub.Image(), "number": hub.Value("int64")})
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    rows = {"image": [str(tmp_path / "z.png")], "number": [7]}
    hub.Dataset.from_dict(rows, features).to_parquet(folder / "train-00000-of-00001.parquet")
    settings = dataset(tmp_path, type="huggingface", instance_data_dir=None,
                       dataset_name=str(folder.parent), instance_prompt="a wall",
                       caption_strategy="instanceprompt", conditioning_data="m",
                       allowed_roots=(tmp_path,))  # fmt: skip
    masks = Masks(id="m", type="huggingface", dataset_name=str(folder.parent))
    (got,) = discover(settings, source_of(settings), masks=source_of(masks)).samples
    assert got.captions == ("a wall",) and got.mask == got.name  # rows are paired by number
    columns = settings.huggingface.model_copy(update={"image_column": "number"})
    wrong = settings.model_copy(update={"huggingface": columns})
    with pytest.raises(DataError, match="does not hold images"):
        discover(wrong, source_of(wrong))


def test_images_that_differ_in_suffix_have_masks_of_their_own(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        picture(tmp_path / "images" / name)
        picture(tmp_path / "masks" / name)
    settings = dataset(tmp_path / "images", conditioning_data="m")
    got = discover(settings, source_of(settings), masks=Folder(tmp_path / "masks"))
    assert {s.name: s.mask for s in got.samples} == {"a.jpg": "a.jpg", "a.png": "a.png"}


def test_masks_are_paired_by_relative_path_whatever_their_suffix(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        picture(tmp_path / "images" / name)
    for name in ("a/1.jpg", "b/1.png"):
        picture(tmp_path / "masks" / name)
    settings = dataset(tmp_path / "images", conditioning_data="m")
    got = discover(settings, source_of(settings), masks=Folder(tmp_path / "masks"))
    assert {s.name: s.mask for s in got.samples} == {"a/1.png": "a/1.jpg", "b/1.png": "b/1.png"}
    assert reasons(got) == {"2.png": "no mask for it in dataset `m`"}


def test_a_subset_is_fixed_and_strict_refuses_what_would_be_set_aside(images: Path) -> None:
    some = [found(images, max_num_samples=2).samples for _ in range(2)]
    assert len(some[0]) == 2 and some[0] == some[1]
    (images / "bad.png").write_bytes(b"")
    assert reasons(found(images)) == {"bad.png": "the file is empty"}
    with pytest.raises(DataError, match=r"bad\.png`: the file is empty \(1 of 4 files"):
        found(images, strict=True)


def remembered(folder: Path, *names: str) -> None:
    memory = KnownFiles(folder.parent / "cache", "d")
    for name in names:
        memory.files[name] = Known(Folder(folder).stamp(name), 32, 16, None)
    memory.write()


def test_what_is_remembered_about_a_file_holds_until_it_changes(images: Path) -> None:
    remembered(images, "z.png")
    sizes = {s.name: s.size for s in found(images).samples}
    assert sizes == {"z.png": (32, 16), "b/cat.jpg": (96, 64), "b/a_red_car.png": (96, 64)}
    picture(images / "z.png", (48, 48))
    assert {s.name: s.size for s in found(images).samples}["z.png"] == (48, 48)


def test_listing_and_looking_can_be_skipped(images: Path) -> None:
    remembered(images, "z.png", "b/cat.jpg")
    picture(images / "z.png", (48, 48))
    listed = found(images, preserve_data_backend_cache=True).samples
    assert {s.name: s.size for s in listed} == {"z.png": (48, 48), "b/cat.jpg": (32, 16)}
    trusted = found(images, skip_file_discovery="metadata").samples
    assert {s.name: s.size for s in trusted} == {"z.png": (32, 16), "b/cat.jpg": (32, 16)}


def test_faces_are_looked_for_where_the_extra_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    data = pytest.importorskip("skimage.data")
    (tmp_path / "images").mkdir()
    astronaut = Image.fromarray(data.astronaut())  # her face is in the upper left middle
    wide = Image.new("RGB", (1400, 512), "grey")
    wide.paste(astronaut, (800, 0))
    wide.save(tmp_path / "images" / "astronaut.jpg")
    picture(tmp_path / "images" / "wall.png", (1400, 512))
    got = found(tmp_path / "images", resolution=512, crop=True, crop_style="face")
    crops = {s.name: s.geometry.crop for s in got.samples}
    left = crops["astronaut.jpg"][0]
    assert left < 800 + 224 - 100 < 800 + 224 + 100 < left + 512  # face and crop, in one
    assert crops["wall.png"] == (444, 0)


def test_a_missing_face_detector_is_explained(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sd3tune.data import faces

    faces.detector.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(DataError, match="needs OpenCV") as e:
        found(images, crop=True, crop_style="face")
    assert "sd3tune[face]" in e.value.hint
