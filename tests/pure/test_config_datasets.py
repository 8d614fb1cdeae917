# ruff: noqa: E501  (tables: one case a line)
"""multidatabackend.json and the prompt library."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks
from sd3tune.config.datasets.listing import Datasets, load_datasets
from sd3tune.config.docstrings import docstring
from sd3tune.config.files.prompts import Prompt, load_prompts
from sd3tune.data.buckets import geometry, unwanted
from sd3tune.errors import ConfigError

IMAGES: dict[str, Any] = {"id": "a", "instance_data_dir": "photos"}
TEXT: dict[str, Any] = {"id": "t", "dataset_type": "text_embeds"}
D = "`config/multidatabackend.json`"
Load = Callable[..., Datasets]


def config(**settings: Any) -> Config:
    path = Path("config/config.json")
    path.write_text(json.dumps({"output_dir": "out", "max_train_steps": 1} | settings))
    return Config.load(path)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "photos").mkdir()

    def made(*entries: Any, **settings: Any) -> Datasets:
        path = Path("config/multidatabackend.json")
        path.write_text(json.dumps(entries))
        return load_datasets(path, config(**settings))

    return made


QUICKSTART = [
    {"id": "pseudo-camera-10k-sd3", "type": "local", "crop": True, "crop_aspect": "square",
     "crop_style": "center", "resolution": 1024, "minimum_image_size": 0,
     "maximum_image_size": 1024, "target_downsample_size": 1024, "resolution_type": "pixel_area",
     "cache_dir_vae": "output/cache/vae/sd3/pseudo-camera-10k", "instance_data_dir": "photos",
     "disabled": False, "skip_file_discovery": "", "caption_strategy": "filename",
     "metadata_backend": "discovery"},
    {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True,
     "cache_dir": "cache/text/sd3/pseudo-camera-10k", "disabled": False,
     "write_batch_size": 128},
]  # fmt: skip


def test_the_quickstarts_datasets_load(load: Load, tmp_path: Path) -> None:
    found = load(*QUICKSTART)
    (images,) = found.images
    assert (images.crop, images.crop_style, images.resolution) == (True, "center", 1024)
    assert images.cache_dir_vae == tmp_path / "output/cache/vae/sd3/pseudo-camera-10k"
    assert found.text.cache_dir == tmp_path / "cache/text/sd3/pseudo-camera-10k"


def test_what_is_left_out_comes_from_the_global_settings(load: Load, tmp_path: Path) -> None:
    found = load(IMAGES, resolution=512, caption_strategy="textfile", vae_batch_size=2)
    (images,) = found.images
    got = (images.resolution, images.caption_strategy, images.vae_batch_size)
    assert got == (512, "textfile", 2)
    assert images.cache_dir_vae == tmp_path / "out/cache/vae/sd3/a"
    assert found.text.cache_dir == tmp_path / "out/cache/text/sd3"
    assert load(IMAGES | {"resolution": 768}, resolution=512).images[0].resolution == 768


@pytest.mark.parametrize(
    "written, held",
    [
        ({"instance_prompt": "p3r5on"}, "p3r5on"),
        ({"prepend_instance_prompt": True, "instance_prompt": "p3r5on"}, True),
        ({"only_instance_prompt": True, "instance_prompt": "p3r5on"}, True),
        ({"disable_multiline_split": True}, True),
        ({"max_upscale_threshold": 0.25}, 0.25),
        ({"skip_file_discovery": "vae, text"}, ("vae", "text")),
        ({"preserve_data_backend_cache": True}, True),
        ({"metadata_update_interval": 3600}, 3600),
        ({"read_batch_size": 7}, 7),
        ({"image_processing_batch_size": 8}, 8),
    ],
)
def test_a_setting_of_all_datasets_is_the_default_of_each(
    load: Load, written: dict[str, Any], held: Any
) -> None:
    (name, *_) = written
    images = load(IMAGES, IMAGES | {"id": "b", name: None}, **written).images
    assert [getattr(d, name) for d in images] == [held, held]
    (own,) = load(IMAGES | written).images
    assert getattr(own, name) == held


def test_placeholders_and_other_spellings(load: Load, tmp_path: Path) -> None:
    entry = IMAGES | {
        "cache_dir_vae": "{output_dir}/{model_family}/{id}",
        "crop": "False",
        "crop_style": "centre",
        "metadata_backend": "json",
        "caption_strategy": "instance_prompt",
        "instance_prompt": "x",
    }
    (images,) = load(entry).images
    assert images.cache_dir_vae == tmp_path / "out/sd3/a" and images.crop is False
    assert (images.crop_style, images.metadata_backend) == ("center", "discovery")
    assert images.caption_strategy == "instanceprompt"


def test_what_asks_for_nothing_is_let_through(load: Load) -> None:
    idle = {
        "default": False,
        "start_epoch": 1,
        "is_regularisation_data": False,
        "parquet": None,
        "hash_filenames": True,
        "compress_cache": False,
    }
    loaded = load(IMAGES | idle, TEXT)
    note = "dataset `a`: default, compress_cache not used: the value asks for nothing"
    assert loaded.notes == (note,)
    assert replace(loaded, notes=()) == load(IMAGES, TEXT)


@pytest.mark.parametrize("value", [True, "true", "True"])
def test_compression_is_let_through_and_said_not_to_happen(load: Load, value: Any) -> None:
    masks = {"id": "m", "dataset_type": "conditioning", "instance_data_dir": "photos"}
    images = IMAGES | {"conditioning_data": "m"}
    entries = [entry | {"compress_cache": value} for entry in (images, TEXT, masks)]
    why = "not used: cache entries are stored to their true length instead"
    assert load(*entries).notes == tuple(f"dataset `{x}`: compress_cache {why}" for x in "atm")
    assert load(IMAGES, compress_disk_cache=value).notes == (f"compress_disk_cache {why}",)
    off = load(IMAGES | {"compress_cache": False}, compress_disk_cache="false").notes
    assert len(off) == 2 and all("the value asks for nothing" in note for note in off)


def test_a_size_to_crop_from_that_does_nothing_is_said_to(load: Load) -> None:
    note = "dataset `a`: target_downsample_size not used: it needs maximum_image_size; set both or neither"
    entry = IMAGES | {"crop": True, "target_downsample_size": 2048}
    assert load(entry).notes == load(IMAGES | {"crop": True}, target_downsample_size=2048).notes
    assert load(entry).notes == load(entry | {"maximum_image_size": 0}).notes == (note,)
    assert load(entry | {"maximum_image_size": 2048}).notes == ()
    assert load(entry | {"target_downsample_size": 0}).notes == ()


def test_an_aspect_ratio_of_zero_or_null_turns_nothing_away(load: Load) -> None:
    (images,) = load(
        IMAGES | {"minimum_aspect_ratio": 0, "maximum_aspect_ratio": None, "resolution": 64}
    ).images
    for size in ((64, 6400), (6400, 64)):
        assert unwanted(size, geometry(size, images, "x"), images) is None


def test_fetched_masks_are_kept_in_the_output_and_not_beside_their_table(
    load: Load, tmp_path: Path
) -> None:
    Path("rows.csv").write_text("filename\nhttp://127.0.0.1/a.png\n")
    masks = {"id": "m", "dataset_type": "conditioning", "type": "csv", "csv": {"path": "rows.csv"}}
    found = load(IMAGES | {"conditioning_data": "m"}, masks).masks["m"]
    assert found.csv_cache_dir == tmp_path / "out/cache/masks/m"
    own = load(IMAGES, masks | {"csv_cache_dir": "kept"}).masks["m"]
    assert own.csv_cache_dir == tmp_path / "kept"


def help_of(kind: type[Any], name: str) -> str:
    return docstring(kind, name)


SHUFFLE_HELP = help_of(ImageDataset, "caption_shuffle")
ASPECTS_HELP = help_of(ImageDataset, "crop_aspect_buckets")
SKIP_HELP = help_of(ImageDataset, "skip_file_discovery")
MASK_HELP = help_of(Masks, "conditioning_type") + " Default: mask."
BAD: list[tuple[list[Any], str, str]] = [
    ([], f"{D} has no enabled image dataset", 'add one with "dataset_type": "image" and "instance_data_dir"'),
    ([IMAGES | {"disabled": True}], f"{D} has no enabled image dataset", 'add one with "dataset_type": "image" and "instance_data_dir"'),
    ([IMAGES, IMAGES], f"{D}: two datasets have the id `a`", "rename one of them"),
    ([IMAGES | {"id": "../a"}], f"{D}: the id `../a` cannot name a folder", "use letters, digits, spaces, dots, dashes and underscores, at most 100"),
    ([{"instance_data_dir": "photos"}], f"{D}: entry 1 has no id", 'give every dataset an "id" of its own'),
    ([IMAGES | {"disabled": "maybe"}], f"{D}: entry 1: `disabled=maybe` must be true or false", "write true or false"),
    ([IMAGES | {"type": "webshart"}], f"{D}: dataset `a`: `type=webshart` is not supported: shards of the webshart package are not read", "type is local, aws, huggingface, csv; disabled=true skips a dataset"),
    ([IMAGES | {"type": "aws"}], f"{D}: dataset `a`: type=aws needs aws_bucket_name", "add it"),
    ([IMAGES | {"aws_bucket_name": "b"}], f"{D}: dataset `a`: aws_bucket_name belongs to type=aws, this dataset has type=local", "leave one of them out"),
    ([IMAGES, TEXT | {"type": "aws"}], f"{D}: dataset `t`: type=aws needs aws_bucket_name", "add it"),
    ([IMAGES, TEXT | {"type": "csv"}], f"{D}: dataset `t`: `type=csv` is not supported: encoded captions are kept in a folder or in a bucket", "type is local, aws; disabled=true skips a dataset"),
    ([IMAGES | {"dataset_type": "video"}], f"{D}: dataset `a`: `dataset_type=video` is not for SD3 images", "dataset_type is image, eval, conditioning, text_embeds; disabled=true skips a dataset"),
    ([IMAGES | {"data_generator": "canny"}], f"{D}: dataset `a`: `data_generator=canny` is not supported: conditioning images are not made from others", "leave it out; masks are files of a dataset of their own, named in conditioning_data"),
    ([IMAGES | {"hash_filenames": False}], f"{D}: dataset `a`: `hash_filenames=false` is not supported: entries of a cache are named by a hash of their content", "leave it out"),
    ([IMAGES | {"caption_shuffle": {"n": 1}}], f"{D}: dataset `a`: `caption_shuffle` has no key `n`", SHUFFLE_HELP),
    ([IMAGES | {"caption_shuffle": {"count": 0}}], f"{D}: dataset `a`: `caption_shuffle.count=0` must be at least 1", SHUFFLE_HELP),
    ([IMAGES | {"crop_aspect": "closest"}], f"{D}: dataset `a`: crop_aspect=closest needs crop_aspect_buckets", "add them, as [0.75, 1.0, 1.5]"),
    ([IMAGES | {"crop_aspect_buckets": [{"aspect": 1.0, "weight": 0.5}, {"aspect": 2.0, "weight": 0.4}]}], f"{D}: dataset `a`: `crop_aspect_buckets=[{{'aspect': 1.0, 'weight': 0.5}}, {{'aspect': 2.0, 'weight': 0.4}}]` has weights that sum to 0.9, not 1", ASPECTS_HELP),
    ([IMAGES | {"crop_aspect_buckets": [1.0, {"aspect": 2.0, "weight": 1}]}], f"{D}: dataset `a`: `crop_aspect_buckets=[1.0, {{'aspect': 2.0, 'weight': 1}}]` mixes plain and weighted aspects", ASPECTS_HELP),
    ([IMAGES | {"resolution": 1, "resolution_type": "area", "minimum_image_size": 512}], f"{D}: dataset `a`: minimum_image_size=512 would be megapixels with resolution_type=area", "use resolution_type=pixel_area for pixels"),
    ([IMAGES | {"resolution": 1, "resolution_type": "area", "maximum_image_size": 20, "target_downsample_size": 2}], f"{D}: dataset `a`: maximum_image_size=20 would be megapixels with resolution_type=area", "use resolution_type=pixel_area for pixels, or set SIMPLETUNER_MAXIMUM_IMAGE_SIZE_OVERRIDE=1"),
    ([IMAGES | {"resolution_type": "pixel", "maximum_image_size": 511, "target_downsample_size": 1024}], f"{D}: dataset `a`: maximum_image_size=511 is below 512 pixels", "use resolution_type=area for megapixels"),
    ([IMAGES | {"caption_strategy": "parquet"}], f"{D}: dataset `a`: caption_strategy=parquet needs a table", "add parquet: {path, …}"),
    ([IMAGES | {"metadata_backend": "csv", "csv": {"path": "x.csv"}}], f"{D}: dataset `a`: metadata_backend=csv needs width_column and height_column", "add them, or use metadata_backend=discovery"),
    ([IMAGES | {"csv": {"path": "x.csv", "width_column": "w"}}], f"{D}: dataset `a`: `csv`: width_column and height_column need each other, set both or neither", "A .csv with captions or sizes, and the names of its columns."),
    ([IMAGES | {"csv": {"filename_column": "f"}}], f"{D}: dataset `a`: `csv.path` is missing", "A .csv with captions or sizes, and the names of its columns."),
    ([IMAGES | {"csv": {"path": "x.csv"}, "csv_file": "y.csv"}], f"{D}: dataset `a`: `csv` and `csv_file` are both set", "keep one of them"),
    ([IMAGES | {"caption_strategy": "huggingface"}], f"{D}: dataset `a`: caption_strategy=huggingface needs type=huggingface", "change one of them"),
    ([IMAGES | {"conditioning_data": "m"}], f"{D}: dataset `a`: `conditioning_data=m` names no enabled dataset of dataset_type=conditioning", "the ids of dataset_type=conditioning: there is none"),
    ([IMAGES | {"conditioning_data": ["m", "n"]}], f"{D}: dataset `a`: `conditioning_data=['m', 'n']` must be one id: an image has one mask", "id of the dataset with a mask for each image."),
    ([IMAGES, {"id": "m", "dataset_type": "conditioning", "instance_data_dir": "photos", "conditioning_type": "canny"}], f"{D}: dataset `m`: `conditioning_type=canny` must be one of 'mask', 'segmentation'", MASK_HELP),
    ([IMAGES | {"text_embeds": "u"}, TEXT], f"{D}: dataset `a`: `text_embeds=u` names no enabled dataset of dataset_type=text_embeds", "the ids of dataset_type=text_embeds: `t`"),
    ([IMAGES | {"probability": 0}], f"{D}: every image dataset has a probability of 0 or less", "give one of them a probability above 0"),
    ([IMAGES | {"start_step": 5}], f"{D}: no dataset is active when training begins", "leave out start_epoch and start_step in one of them"),
    ([IMAGES | {"start_epoch": 3, "end_epoch": 2}], f"{D}: dataset `a`: end_epoch=2 comes before start_epoch=3", "raise end_epoch, or nothing is drawn from the dataset"),
    ([IMAGES | {"skip_file_discovery": "vae,captions"}], f"{D}: dataset `a`: `skip_file_discovery=vae,captions` has `captions`: it takes words out of vae, aspect, metadata, text", SKIP_HELP),
    ([IMAGES | {"cache_dir_vae": "c"}, TEXT | {"cache_dir": "c"}], f"{D}: dataset `a`: `cache_dir_vae={{cwd}}/c` is also the cache_dir of `t`", "give each a folder of its own"),
    ([IMAGES | {"is_regularisation_data": True, "is_regularization_data": True}], f"{D}: entry 1: `is_regularization_data` sets `is_regularisation_data` a second time", "remove one of the two"),
    ([IMAGES | {"disable": True, "disabled": False}], f"{D}: entry 1: `disable` sets `disabled` a second time", "remove one of the two"),
    ([IMAGES | {"disabled": True, "disable": False}], f"{D}: entry 1: `disable` sets `disabled` a second time", "remove one of the two"),
    ([IMAGES | {"minimum_aspect_ratio": -1}], f"{D}: dataset `a`: `minimum_aspect_ratio=-1` must be at least 0", help_of(ImageDataset, "minimum_aspect_ratio")),
    ([IMAGES | {"crop": "maybe"}], f"{D}: dataset `a`: `crop=maybe` must be true or false", "Crop images to crop_aspect. Off: images keep their aspect, in the nearest bucket. Default: false."),
    ([IMAGES | {"instance_data_dir": ""}], f"{D}: dataset `a`: type=local needs instance_data_dir", "add it"),
    ([IMAGES | {"cache_dir_vae": "~no-such-user/x"}], f"{D}: dataset `a`: `cache_dir_vae=~no-such-user/x`: no such home folder", "write the path in full"),
    ([IMAGES | {"maximum_image_size": 9}], f"{D}: dataset `a`: maximum_image_size=9 needs target_downsample_size", "set both or neither"),
    ([IMAGES | {"default": True}], f"{D}: dataset `a`: `default=true` belongs to a text_embeds entry", "leave it out"),
    ([IMAGES | {"dataset_type": {"a": 1}}], f"{D}: dataset `a`: `dataset_type={{'a': 1}}` is not known", "dataset_type is image, eval, conditioning, text_embeds; disabled=true skips a dataset"),
    ([IMAGES | {"text_encoder_batch_size": 1}], f"{D}: dataset `a`: `text_encoder_batch_size=1` is a setting of the whole run", "write it in config.json"),
    ([{"id": "a", "type": "huggingface", "dataset_name": "a/b", "caption_strategy": "filename"}], f"{D}: dataset `a`: caption_strategy=filename needs files, type=huggingface has rows", "use caption_strategy=huggingface"),
    ([{"id": "a", "type": "csv", "csv": {"path": "x.csv", "identifier_includes_extension": False}}], f"{D}: dataset `a`: csv.identifier_includes_extension=false leaves no file to open with type=csv", "write whole names in the table"),
    ([IMAGES, TEXT | {"crop": True}], f"{D}: dataset `t`: `crop=true` belongs to an image dataset", "leave it out"),
    ([IMAGES, TEXT | {"default": True}, TEXT | {"id": "u", "default": True}], f"{D}: `t` and `u` are both the default text_embeds", "keep default on one"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[1][-50:])
def test_bad_datasets_are_refused_in_these_words(load: Load, case: Any) -> None:
    entries, message, hint = case
    with pytest.raises(ConfigError) as e:
        load(*entries)
    assert (str(e.value), e.value.hint) == (message.replace("{cwd}", str(Path.cwd())), hint)


def test_all_missing_folders_are_named_at_once(load: Load, tmp_path: Path) -> None:
    gone = [IMAGES | {"id": name, "instance_data_dir": f"no-{name}"} for name in "xy"]
    with pytest.raises(ConfigError) as e:
        load(IMAGES, *gone)
    assert "no-x` of dataset `x`" in str(e.value) and "no-y` of dataset `y`" in str(e.value)
    assert e.value.hint == f"relative paths start at `{tmp_path}`"


def prompts(library: Any, **settings: Any) -> tuple[Prompt, ...]:
    Path("config/library.json").write_text(json.dumps(library))
    return load_prompts(config(user_prompt_library="config/library.json", **settings))


@pytest.mark.parametrize(
    "kind, problem",
    [({"type": "webshart"}, "type=webshart"), ({"type": ["x"]}, "type=['x']"),
     ({"dataset_type": "images"}, "dataset_type=images"),
     ({"dataset_type": "text_embeds", "type": "csv"}, "type=csv")],
)  # fmt: skip
def test_a_wrong_type_hides_no_other_problem_of_its_entry(
    load: Load, kind: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as e:
        load({"id": "a", "nonsense": 1, "write_batch_size": -1, **kind}, 
             {"id": "b", "instance_data_dir": "photos", "crop": "?"})  # fmt: skip
    messages = [p.message for p in e.value.problems]
    for part in (problem, "`nonsense`", "`write_batch_size=-1`", "dataset `b`: `crop=?`"):
        assert sum(part in message for message in messages) == 1, messages
    if kind.get("dataset_type") != "images":
        assert not any("needs instance_data_dir" in m for m in messages)


def test_prompts_come_in_file_order_and_the_own_one_last(load: Load) -> None:
    library = {"b": "x", "a": {"caption": "y", "tags": "z"}}
    want = (Prompt("b", "x"), Prompt("a", "y"), Prompt("validation", "v"))
    assert prompts(library, validation_prompt="v") == (Prompt("unconditional", ""), *want)
    off = {"validation_disable_unconditional": True}
    assert prompts(library, validation_prompt="v", **off) == want
    whole = prompts(library, validation_prompt="v", validation_prompt_library=True)
    names = [p.shortname for p in whole]
    assert names[0] == "unconditional" and names[-3:] == ["b", "a", "validation"]
    assert len(names) > 12 and all(name.startswith("builtin_") for name in names[1:-3])
    assert len({p.text for p in whole}) == len(whole) == len(set(names))
    assert prompts(library, validation_disable=True) == ()
    assert load_prompts(config()) == ()


NO_NAME = "use letters, digits, spaces, dots, dashes and underscores, at most 100"
NO_PROMPT = 'write "shortname": "prompt" or "shortname": {"prompt": "…"}'
TWICE = "rename it; upper and lower case are the same file on some systems"
BAD_PROMPTS: list[tuple[Any, str, str]] = [
    ({"a/b": "x"}, "shortname `a/b` cannot be part of a file name", NO_NAME),
    ({"a\nb": "x"}, "shortname `a b` cannot be part of a file name", NO_NAME),
    ({"a": {}}, "entry `a` has no prompt", NO_PROMPT),
    ({"a": 1}, "entry `a` has no prompt", NO_PROMPT),
    ({"A": "x", "a": "y"}, "shortname `a` would write over another prompt's pictures", TWICE),
    ({"validation": "x"}, "shortname `validation` would write over another prompt's pictures", TWICE),
    ({"unconditional": "x"}, "shortname `unconditional` would write over another prompt's pictures", TWICE),
    ({"a": {"prompt": "x", "promt": "y"}}, "entry `a`: `promt` is not a key of a prompt", "did you mean `prompt`?"),
    ({"a": {"prompt": "x", "lyrics": "y"}}, "entry `a`: `lyrics` belongs to another model family", "leave it out"),
    ({"a": {"prompt": "x", "adapter_strength": "no"}}, "entry `a`: `adapter_strength=no` must be a number from 0", "1 is the adapter as it is trained"),
    ({"a": "\ud800"}, "entry `a`: `\\ud800` is not valid Unicode", "write it as UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(
    "settings, why",
    [({"model_type": "full"}, "model_type=full has no adapter"),
     ({"lora_init_type": "pissa"}, "the adapter of lora_init_type=pissa holds a part")],
)  # fmt: skip
def test_a_strength_of_a_prompt_is_for_adapters_that_can_be_scaled(
    load: Load, settings: dict[str, Any], why: str
) -> None:
    library = {"a": {"prompt": "x", "adapter_strength": 0.5}, "b": {"prompt": "y"}}
    strengths = [p.strength for p in prompts(library)]
    assert strengths == [None, 0.5, None]
    with pytest.raises(ConfigError) as e:
        prompts(library, **settings)
    assert f"entry `a`: `adapter_strength=0.5`: {why}" in str(e.value)


@pytest.mark.parametrize("case", BAD_PROMPTS, ids=lambda case: case[1][:40])
def test_bad_prompts_are_refused_in_these_words(load: Load, tmp_path: Path, case: Any) -> None:
    library, message, hint = case
    with pytest.raises(ConfigError) as e:
        prompts(library, validation_prompt="v")
    assert str(e.value) == f"`{tmp_path}/config/library.json`: {message}"
    assert e.value.hint == hint
