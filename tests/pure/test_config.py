"""The vocabulary as users write it: JSON with and without dashes, config.env, the command line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.config.files.env_file import read_env
from sd3tune.config.files.prompts import load_prompts
from sd3tune.config.files.reading import literal, project_folder, read_words
from sd3tune.config.problems import Problems
from sd3tune.errors import ConfigError

LEAST = {"output_dir": "output", "max_train_steps": 100}


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    def from_values(*overrides: str, **values: object) -> Config:
        path = tmp_path / "config" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(LEAST | values))
        return Config.load(path, overrides)

    return from_values


@pytest.mark.parametrize("written", [[7, 8, 9], "[7,8,9]", "7,8,9", ["7", "8", "9"]])
def test_skip_layers_may_be_written_in_four_ways(written: object, load) -> None:  # type: ignore[no-untyped-def]
    config = load(**{"--validation_guidance_skip_layers": written})
    assert config.validation_guidance_skip_layers == (7, 8, 9)
    assert load(validation_guidance_skip_layers=7).validation_guidance_skip_layers == (7,)


def test_the_quickstart_s_blocks_load_as_printed(load) -> None:  # type: ignore[no-untyped-def]
    config = load(
        **{
            "model_type": "lora",
            "model_family": "sd3",
            "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
            "validation_resolution": "1024x1024,1280x768",
            "validation_prompt": "your main test prompt here",
            "base_model_precision": "int8-quanto",
            "text_encoder_1_precision": "no_change",
            "text_encoder_2_precision": "no_change",
            "text_encoder_3_precision": "no_change",
            "optimizer": "adamw_bf16",
            "--validation_guidance_skip_layers": [7, 8, 9],
            "--validation_guidance_skip_layers_start": 0.01,
            "--validation_guidance_skip_layers_stop": 0.2,
            "--validation_guidance_skip_scale": 2.8,
            "--validation_guidance": 4.0,
            "--flow_use_uniform_schedule": True,
            "--flow_schedule_auto_shift": True,
        }
    )
    assert config.validation_resolution == ((1024, 1024), (1280, 768))
    assert config.pretrained_model_name_or_path == "stabilityai/stable-diffusion-3.5-large"
    assert config.flow_schedule_auto_shift and config.validation_guidance == 4.0


def test_the_quickstart_s_datasets_load_as_printed(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "datasets" / "pseudo-camera-10k").mkdir(parents=True)
    entries = [
        {"id": "pseudo-camera-10k-sd3", "type": "local", "crop": True, "crop_aspect": "square",
         "crop_style": "center", "resolution": 1024, "minimum_image_size": 0,
         "maximum_image_size": 1024, "target_downsample_size": 1024,
         "resolution_type": "pixel_area", "cache_dir_vae": "output/cache/vae/{model_family}/{id}",
         "instance_data_dir": "datasets/pseudo-camera-10k", "disabled": False,
         "skip_file_discovery": "", "caption_strategy": "filename",
         "metadata_backend": "discovery"},
        {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True,
         "cache_dir": "cache/text/sd3/pseudo-camera-10k", "disabled": False,
         "write_batch_size": 128},
        {"id": "later", "type": "aws", "disabled": True},
    ]  # fmt: skip
    config = load()
    config.data_backend_config.write_text(json.dumps(entries))
    datasets = load_datasets(config.data_backend_config, config)
    (images,) = datasets.images
    assert images.instance_data_dir == tmp_path / "datasets" / "pseudo-camera-10k"
    assert images.cache_dir_vae == tmp_path / "output/cache/vae/sd3/pseudo-camera-10k-sd3"
    assert datasets.text.cache_dir == tmp_path / "cache/text/sd3/pseudo-camera-10k"


def test_the_quickstart_s_env_block_expands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config" / "config.env"
    path.parent.mkdir()
    path.write_text(
        "# choices: int8-quanto, …\n"
        'export TRAINER_EXTRA_ARGS="--base_model_precision=int8-quanto"\n\n'
        'export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --text_encoder_1_precision=no_change'
        ' --text_encoder_2_precision=no_change"\n'
        "TRAINER_EXTRA_ARGS+=\" --validation_prompt='a red wall'\"\n"
        'export OPTIMIZER="adamw_bf16" # needs bf16\n'
        "export OUTPUT_DIR='out'\nMAX_NUM_STEPS=12\nMODEL_NAME=some/model\nALLOW_TF32=true\n"
    )
    config = Config.load(path)
    assert config.base_model_precision == "int8-quanto"
    assert config.text_encoder_1_precision == config.text_encoder_2_precision == "no_change"
    assert (config.optimizer, config.max_train_steps) == ("adamw_bf16", 12)
    assert config.validation_prompt == "a red wall"
    assert config.output_dir == tmp_path / "out"


def test_the_command_line_overrides_the_file(load) -> None:  # type: ignore[no-untyped-def]
    config = load("learning_rate=0.5", "--lora_rank=4", "gradient_checkpointing=false", lora_rank=9)
    assert (config.learning_rate, config.lora_rank) == (0.5, 4)
    assert config.gradient_checkpointing is False


def test_a_length_on_the_command_line_replaces_the_other_in_the_file(load) -> None:  # type: ignore[no-untyped-def]
    config = load("num_train_epochs=2", max_train_steps=100)
    assert (config.num_train_epochs, config.max_train_steps) == (2, None)
    config = load("max_train_steps=7", num_train_epochs=3, max_train_steps=None)
    assert (config.num_train_epochs, config.max_train_steps) == (None, 7)


def test_false_in_quotes_is_false_and_auto_is_left_open(load) -> None:  # type: ignore[no-untyped-def]
    config = load(gradient_checkpointing="false", mixed_precision="auto", use_ema=False,
                  report_to="none", push_to_hub=False)  # fmt: skip
    assert config.gradient_checkpointing is False and config.mixed_precision is None


def test_paths_start_at_the_folder_that_holds_config(tmp_path: Path, load) -> None:  # type: ignore[no-untyped-def]
    assert load().output_dir == tmp_path / "output"
    assert project_folder(tmp_path / "config" / "mine" / "config.json") == tmp_path
    assert project_folder(tmp_path / "elsewhere.json") == Path.cwd()
    assert load("output_dir=here").output_dir == Path.cwd() / "here"


def test_flavours_name_their_repositories(load) -> None:  # type: ignore[no-untyped-def]
    assert load().pretrained_model_name_or_path.endswith("stable-diffusion-3.5-medium")
    assert load(model_flavour="large").pretrained_model_name_or_path.endswith("3.5-large")


def test_prompts_come_from_the_library_then_the_prompt(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    library = tmp_path / "config" / "library.json"
    config = load(user_prompt_library="config/library.json", validation_prompt="a wall")
    library.write_text('{"cat": "a cat", "dog": {"tags": "a dog"}}')
    assert [(p.shortname, p.text) for p in load_prompts(config)] == [
        ("unconditional", ""), ("cat", "a cat"), ("dog", "a dog"), ("validation", "a wall")
    ]  # fmt: skip
    for bad in ('{"a/b": "x"}', '{"cat": {"words": "x"}}', '{"cat": ""}', "[]"):
        library.write_text(bad)
        with pytest.raises(ConfigError):
            load_prompts(config)


@given(text=st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_env_file_is_settings_or_an_error_of_ours(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    path.write_text("A=1\n" + text, encoding="utf-8", errors="replace")
    problems = Problems()
    assert isinstance(read_env(path, problems).values, dict)
    assert all(p.message and p.hint for p in problems.ordered())


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_word_is_a_setting_or_an_error_of_ours(words: list[str]) -> None:
    problems = Problems()
    assert isinstance(read_words(words, problems).values, dict)
    assert all(p.message and p.hint for p in problems.ordered())


@given(
    st.one_of(
        st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.none()
    )
)
def test_values_read_as_json_where_they_are_json(value: object) -> None:
    assert literal(json.dumps(value)) == value
