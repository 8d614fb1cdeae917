# ruff: noqa: E501  (tables: one case a line)
"""multidatabackend.json and the prompt library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.datasets import Datasets, load_datasets
from sd3tune.config.prompts import Prompt, load_prompts
from sd3tune.config.settings import Config
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
    idle = {"default": False, "start_epoch": 1, "is_regularisation_data": False, "parquet": None}
    assert load(IMAGES | idle, TEXT) == load(IMAGES, TEXT)


BAD: list[tuple[list[Any], str, str]] = [
    ([], f"{D} has no enabled image dataset", 'add one with "dataset_type": "image" and "instance_data_dir"'),
    ([IMAGES | {"disabled": True}], f"{D} has no enabled image dataset", 'add one with "dataset_type": "image" and "instance_data_dir"'),
    ([IMAGES, IMAGES], f"{D}: two datasets have the id `a`", "rename one of them"),
    ([IMAGES | {"id": "../a"}], f"{D}: the id `../a` cannot name a folder", "use letters, digits, spaces, dots, dashes and underscores, at most 100"),
    ([{"instance_data_dir": "photos"}], f"{D}: entry 1 has no id", 'give every dataset an "id" of its own'),
    ([IMAGES | {"disabled": "maybe"}], f"{D}: entry 1: `disabled=maybe` must be true or false", "write true or false"),
    ([IMAGES | {"type": "aws"}], f"{D}: dataset `a`: `type=aws` is not supported yet", "type is local so far; disabled=true skips a dataset"),
    ([IMAGES | {"dataset_type": "eval"}], f"{D}: dataset `a`: `dataset_type=eval` is not supported yet", "dataset_type is image or text_embeds so far; disabled=true skips a dataset"),
    ([IMAGES | {"caption_shuffle": {"n": 1}}], f"{D}: dataset `a`: `caption_shuffle={{'n': 1}}` is not supported yet", "leave it out for now"),
    ([IMAGES | {"crop": "maybe"}], f"{D}: dataset `a`: `crop=maybe` must be true or false", "Cut images to crop_aspect; off, they keep their aspect in the nearest bucket. Default: false."),
    ([IMAGES | {"instance_data_dir": ""}], f"{D}: dataset `a`: `instance_data_dir` is missing", "add it: The folder; searched with its sub-folders, never written to."),
    ([IMAGES | {"cache_dir_vae": "~no-such-user/x"}], f"{D}: dataset `a`: `cache_dir_vae=~no-such-user/x`: no such home folder", "write the path in full"),
    ([IMAGES | {"maximum_image_size": 9}], f"{D}: dataset `a`: maximum_image_size=9 needs target_downsample_size", "set both or neither"),
    ([IMAGES | {"default": True}], f"{D}: dataset `a`: `default=true` belongs to a text_embeds entry", "leave it out"),
    ([IMAGES, TEXT | {"crop": True}], f"{D}: dataset `t`: `crop=true` belongs to an image dataset", "leave it out"),
    ([IMAGES, TEXT | {"default": True}, TEXT | {"id": "u", "default": True}], f"{D}: `t` and `u` are both the default text_embeds", "keep default on one"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[1][-50:])
def test_bad_datasets_are_refused_in_these_words(load: Load, case: Any) -> None:
    entries, message, hint = case
    with pytest.raises(ConfigError) as e:
        load(*entries)
    assert (str(e.value), e.value.hint) == (message, hint)


def test_all_missing_folders_are_named_at_once(load: Load, tmp_path: Path) -> None:
    gone = [IMAGES | {"id": name, "instance_data_dir": f"no-{name}"} for name in "xy"]
    with pytest.raises(ConfigError) as e:
        load(IMAGES, *gone)
    assert "no-x` of dataset `x`" in str(e.value) and "no-y` of dataset `y`" in str(e.value)
    assert e.value.hint == f"relative paths start at `{tmp_path}`"


def prompts(library: Any, **settings: Any) -> tuple[Prompt, ...]:
    Path("config/library.json").write_text(json.dumps(library))
    return load_prompts(config(user_prompt_library="config/library.json", **settings))


def test_prompts_come_in_file_order_and_the_own_one_last(load: Load) -> None:
    library = {"b": "x", "a": {"caption": "y", "tags": "z"}}
    want = (Prompt("b", "x"), Prompt("a", "y"), Prompt("validation", "v"))
    assert prompts(library, validation_prompt="v") == want
    assert prompts(library, validation_disable=True) == ()
    assert load_prompts(config()) == ()


NO_NAME = "use letters, digits, spaces, dots, dashes and underscores, at most 100"
NO_PROMPT = 'write "shortname": "prompt" or "shortname": {"prompt": "…"}'
TWICE = "rename it; upper and lower case are the same file on some systems"
BAD_PROMPTS: list[tuple[Any, str, str]] = [
    ({"a/b": "x"}, "shortname `a/b` cannot be part of a file name", NO_NAME),
    ({"a\nb": "x"}, "shortname `a b` cannot be part of a file name", NO_NAME),
    ({"a": {}}, "entry `a` holds no prompt", NO_PROMPT),
    ({"a": 1}, "entry `a` holds no prompt", NO_PROMPT),
    ({"A": "x", "a": "y"}, "shortname `a` would write over another prompt's pictures", TWICE),
    ({"validation": "x"}, "shortname `validation` would write over another prompt's pictures", TWICE),
    ({"a": "\ud800"}, "entry `a`: `\\ud800` is not valid Unicode", "write it as UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_PROMPTS, ids=lambda case: case[1][:40])
def test_bad_prompts_are_refused_in_these_words(load: Load, tmp_path: Path, case: Any) -> None:
    library, message, hint = case
    with pytest.raises(ConfigError) as e:
        prompts(library, validation_prompt="v")
    assert str(e.value) == f"`{tmp_path}/config/library.json`: {message}"
    assert e.value.hint == hint
