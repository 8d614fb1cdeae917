# ruff: noqa: E501  (tables: one case a line)
"""config.json: bad input in exact words, values as people write them, precedence, paths."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import Config
from sd3tune.errors import ConfigError
from sd3tune.tables.schemes import SCHEMES

LAYERS = "validation_guidance_skip_layers"
Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Writes config/config.json with two valid settings and the given ones, and loads it."""
    monkeypatch.chdir(tmp_path)

    def made(*words: str, text: str | None = None, **settings: Any) -> Config:
        path = Path("config/config.json")
        path.parent.mkdir(exist_ok=True)
        values = {"output_dir": "out", "max_train_steps": 10} | settings
        path.write_text(json.dumps(values) if text is None else text)
        return Config.load(path, words)

    return made


F, C = "`config/config.json`", "the command line"
OPTIONS_HINT = "Options of the optimizer as `weight_decay=0.01,eps=1e-6`."
BAD: list[tuple[dict[str, Any], list[str], str, str]] = [
    # (settings, command line, message, hint)
    ({"lora_ranc": 8}, [], f"{F}: unknown setting `lora_ranc`", "did you mean `lora_rank`?"),
    ({}, ["lora_ranc=8"], f"{C}: unknown setting `lora_ranc`", "did you mean `lora_rank`?"),
    ({"seed now": 1}, [], f"{F}: `seed now` is not the name of a setting", "names are letters, digits and underscores; a key that begins with _ is a comment"),
    ({"seed": 1, "--seed": 1}, [], f"{F} sets `seed` twice, with and without dashes", "remove one of the two"),
    ({"validation_steps": 1, "validation_step_interval": 2}, [], f"{F}: `validation_step_interval=2` sets `validation_step_interval` a second time", "remove one of the two"),
    ({"gradient_checkpointing": "maybe"}, [], f"{F}: `gradient_checkpointing=maybe` must be true or false", "Recompute activations in the backward pass instead of keeping them. Default: true."),
    ({"lora_rank": True}, [], f"{F}: `lora_rank=true` must be a whole number", "Rank of the low-rank update; doubling it doubles the adapter file. Default: 16."),
    ({}, ["lora_rank=1.5"], f"{C}: `lora_rank=1.5` must be a whole number", "Rank of the low-rank update; doubling it doubles the adapter file. Default: 16."),
    ({"lora_rank": 2**63}, [], f"{F}: `lora_rank={2**63}` must be below 9.22337e+18", "Rank of the low-rank update; doubling it doubles the adapter file. Default: 16."),
    ({"learning_rate": "fast"}, [], f"{F}: `learning_rate=fast` must be a number", "Peak learning rate. Default: 0.0001."),
    ({"learning_rate": 0}, [], f"{F}: `learning_rate=0` must be above 0", "Peak learning rate. Default: 0.0001."),
    ({"caption_dropout_probability": 2}, [], f"{F}: `caption_dropout_probability=2` must be at most 1", "write caption_dropout_probability=0.02, if that is meant. Share of captions replaced by the blank one, so that the model learns to draw without a prompt, as classifier-free guidance needs. Default: 0.1."),
    ({"validation_prompt": 5}, [], f"{F}: `validation_prompt=5` must be text", "Prompt of one validation picture."),
    ({"output_dir": ""}, [], f"{F}: `output_dir` is missing", "add it: The folder for the adapter, checkpoints, pictures and caches."),
    ({"output_dir": "~no-such-user/o"}, [], f"{F}: `output_dir=~no-such-user/o`: no such home folder", "write the path in full"),
    ({"output_dir": "a\0b"}, [], f"{F}: `output_dir=a?b` cannot be a path", "each part of a path takes 1 to 255 bytes, without null characters"),
    ({"output_dir": "{env:SD3TUNE_NOT_SET}"}, [], f"{F}: `output_dir` uses {{env:SD3TUNE_NOT_SET}}, and SD3TUNE_NOT_SET is not set", "export SD3TUNE_NOT_SET=…"),
    ({"validation_prompt": "\ud800"}, [], f"{F}: `\\ud800` is not valid Unicode", "write it as UTF-8"),
    ({"max_train_steps": None}, [], f"{F}: neither max_train_steps nor num_train_epochs is set", "set one of them"),
    ({"num_train_epochs": 2}, [], f"{F}: max_train_steps=10 and num_train_epochs=2 are both set", "set one of them"),
    ({"validation_resolution": "1000x1000"}, [], f"{F}: `validation_resolution=1000x1000` has a size whose sides are not multiples of 16 from 64 on", "use validation_resolution=992x992"),
    ({LAYERS: [True]}, [], f"{F}: `{LAYERS}=[True]` must be block numbers such as [7, 8, 9]", "Skip-layer guidance for SD3.5 medium: blocks left out of an extra pass, as [7, 8, 9]."),
    ({"optimizer_config": "eps=x"}, [], f"{F}: `optimizer_config=eps=x` `eps=x`: the value must be a number, true or false", OPTIONS_HINT),
    ({"optimizer_config": "eps=null"}, [], f"{F}: `optimizer_config=eps=null` `eps` must be a number, true or false", OPTIONS_HINT),
    ({"optimizer_config": "eps=1,eps=2"}, [], f"{F}: `optimizer_config=eps=1,eps=2` sets an option twice", OPTIONS_HINT),
    ({"sageattention_usage": "training"}, [], f"{F}: `sageattention_usage=training` is not supported: SageAttention has no backward pass, so that attention would not be trained", "use sageattention_usage=inference"),
    ({"aspect_bucket_alignment": 32}, [], f"{F}: `aspect_bucket_alignment=32` is not supported: sides are multiples of 64 pixels for SD3", "use aspect_bucket_alignment=64"),
    ({"init_lokr_norm": 0.5}, [], f"{F}: `init_lokr_norm=0.5` is not supported: it would begin with another model than the base model", "leave it out; LoKr begins with a product of zero, as the lycoris package makes it"),
    ({"push_to_hub": True}, [], f"{F}: push_to_hub=true names no repository", "set hub_model_id=NAME, which is then in your own namespace"),
    ({"hub_model_id": "a/b/c"}, [], f"{F}: `hub_model_id=a/b/c` must be `name` or `namespace/name` of letters, digits, dots, dashes and underscores, at most 96 characters, without `--`, `..` or `.git` at its end", "The repository with push_to_hub: `name` in your own namespace, or `namespace/name`. Left out: tracker_project_name, else output_name."),
    ({"hub_model_id": "https://huggingface.co/a/b"}, [], f"{F}: `hub_model_id=https://huggingface.co/a/b` is an address; write `namespace/name`, and set HF_ENDPOINT for the hub", "The repository with push_to_hub: `name` in your own namespace, or `namespace/name`. Left out: tracker_project_name, else output_name."),
    ({"hub_model_id": "{env:HOME}"}, [], f"{F}: `hub_model_id` uses {{env:HOME}}, which is a value of this machine: values of the environment go into credentials and local paths only", "write the value of hub_model_id itself, or leave it out"),
    ({"modelspec_comment": "{timestamp}"}, [], f"{F}: `modelspec_comment={{timestamp}}` has the placeholder {{timestamp}}; only {{current_step}} is known, so that equal runs write equal files", "A text for the result's metadata (`modelspec.comment`), or a list of lines. `{current_step}` becomes the step."),
    ({"post_checkpoint_script": "rm -r x"}, [], f"{F}: `post_checkpoint_script=rm -r x` is not supported: a configuration that somebody shared would start programs on this machine", "leave it out; `sd3tune train && PROGRAM` runs a program after a run, and webhook_config reports each checkpoint"),
    ({"push_to_hub": True, "hub_model_id": "x", "publishing_config": "s3.json"}, [], f"{F}: `publishing_config=s3.json` is not supported: results are published on hubs of Hugging Face", "set push_to_hub and hub_model_id; HF_ENDPOINT names another hub"),
    ({"push_to_hub": True, "hub_model_id": "x", "push_checkpoints_to_hub": True, "model_type": "full"}, [], f"{F}: push_checkpoints_to_hub uploads adapters, and checkpoints of model_type=full hold none", "leave it out; the result is uploaded at the end"),
    ({"allow_tf32": "maybe"}, [], f"{F}: `disable_tf32=maybe` must be true or false", "Compute float32 products with all their bits, also where NVIDIA cards may shorten them to ten bits (TF32): slower. Untested on hardware. Default: false."),
    ({"accelerate_extra_args": "--multi_gpu"}, [], f"{F}: `accelerate_extra_args=--multi_gpu` is not supported: sd3tune starts its processes without accelerate", "write num_processes, num_machines, machine_rank, main_process_ip and mixed_precision"),
    ({"dynamo_mode": "reduce-overhead", "dynamo_backend": "inductor"}, [], f"{F}: dynamo_mode=reduce-overhead is not supported with dynamo_backend=inductor: CUDA graphs are not proven with buckets and gradient checkpointing", "set dynamo_mode=max-autotune-no-cudagraphs, or leave it out"),
    ({"prediction_type": "epsilon"}, [], f"{F}: `prediction_type=epsilon` has no effect on flow matching", "leave it out"),
    ({"controlnet": True}, [], f"{F}: `controlnet=true` belongs to another model family", "leave it out"),
    ({"adam_beta1": 0.9}, [], f"{F}: `adam_beta1=0.9` is used with DeepSpeed only", "write optimizer_beta1=0.9"),
    ({"crop": True}, [], f"{F}: `crop=true` belongs to a dataset", "set it in multidatabackend.json"),
    ({}, ["faster"], "`faster` is not KEY=VALUE", "write settings as learning_rate=1e-4"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[2][-60:])
def test_bad_settings_are_refused_in_these_words(load: Load, case: Any) -> None:
    settings, words, message, hint = case
    with pytest.raises(ConfigError) as e:
        load(*words, **settings)
    assert (str(e.value), e.value.hint) == (message, hint)
    assert "\n" not in message + hint


@pytest.mark.parametrize("value", [[7, 8, 9], "[7,8,9]", "7,8,9"])
def test_skipped_layers_are_read_in_every_way_they_are_written(load: Load, value: Any) -> None:
    assert load(**{f"--{LAYERS}": value}).validation_guidance_skip_layers == (7, 8, 9)
    assert load(f"{LAYERS}={json.dumps(value)}").validation_guidance_skip_layers == (7, 8, 9)
    assert load(**{LAYERS: 7}).validation_guidance_skip_layers == (7,)


@pytest.mark.parametrize("value", [False, "false", "False", "no", 0])
def test_false_in_quotes_is_false(load: Load, value: Any) -> None:
    assert load(gradient_checkpointing=value).gradient_checkpointing is False


def test_the_command_line_overrides_the_file_under_any_name(load: Load) -> None:
    assert load("learning_rate=0.5", learning_rate=1e-5).learning_rate == 0.5
    assert load("--seed=2", "seed=3", seed=1).seed == 3
    assert load("validation_steps=5", validation_step_interval=7).validation_step_interval == 5
    assert load("lora_alpha=null", lora_alpha=4).lora_alpha is None


def test_text_settings_keep_what_only_looks_like_a_number(load: Load) -> None:
    assert load("revision=7e10").revision == "7e10"
    assert load("validation_prompt=1984").validation_prompt == "1984"
    assert load(validation_prompt="auto", mixed_precision="auto").validation_prompt == "auto"
    assert load(mixed_precision="auto").mixed_precision is None


def test_old_names_and_spellings_mean_todays(load: Load) -> None:
    assert load(save_total_limit=2).checkpoints_total_limit == 2
    assert load(checkpointing_steps=3).checkpoint_step_interval == 3
    assert load(lr_scheduler="cosine_with_warmup").lr_scheduler == "cosine"
    assert load(lr_scheduler="constant", lr_warmup_steps=3).lr_scheduler == "constant_with_warmup"
    assert load(lr_scheduler="constant").lr_scheduler == "constant"
    assert load(caption_strategy="instance_prompt").caption_strategy == "instanceprompt"
    large = "stabilityai/stable-diffusion-3.5-large"
    assert load(model_flavour="3.5-large").pretrained_model_name_or_path == large


OFF = {
    "use_ema": False, "push_to_hub": "false", "report_to": "none", "lora_type": "standard",
    "use_dora": False, "validation_torch_compile": False, "input_perturbation": 0.0,
    "scheduled_sampling_probability": 0, "init_lora": None, "allow_tf32": True,
    "ignore_final_epochs": True, "webhook_config": {},
}  # fmt: skip


@pytest.mark.parametrize("name", OFF)
def test_what_asks_for_nothing_is_let_through(load: Load, name: str) -> None:
    assert load(**{name: OFF[name]}).to_json() == load().to_json()


def test_relative_paths_start_at_the_project_or_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "project" / "config" / "deep" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"output_dir": "out", "max_train_steps": 1, "user_prompt_library": "~/p"}')
    monkeypatch.chdir(tmp_path)
    config = Config.load(path, ["resume_from_checkpoint=here"])
    assert config.output_dir == tmp_path / "project" / "out"
    assert config.data_backend_config == path.parent / "multidatabackend.json"
    assert config.user_prompt_library == Path.home() / "p"
    assert config.resume_from_checkpoint == str(tmp_path / "here")
    assert Config.load(path, ["output_dir=out"]).output_dir == tmp_path / "out"


def test_a_model_is_a_folder_when_there_is_one_and_a_repository_otherwise(
    load: Load, tmp_path: Path
) -> None:
    assert load(pretrained_model_name_or_path="a/b").pretrained_model_name_or_path == "a/b"
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = load(pretrained_model_name_or_path="a/b").pretrained_model_name_or_path
    assert found == str(tmp_path / "a" / "b")


JSON_BLOCKS = [
    {"model_type": "lora", "model_family": "sd3",
     "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
     "output_dir": "/home/user/outputs/models", "validation_resolution": "1024x1024,1280x768",
     "validation_guidance": 3.0, "validation_prompt": "your main test prompt here",
     "user_prompt_library": "config/user_prompt_library.json"},
    {"base_model_precision": "int8-quanto", "text_encoder_1_precision": "no_change",
     "text_encoder_2_precision": "no_change", "text_encoder_3_precision": "no_change",
     "optimizer": "adamw_bf16"},
    {"--validation_guidance_skip_layers": [7, 8, 9],
     "--validation_guidance_skip_layers_start": 0.01,
     "--validation_guidance_skip_layers_stop": 0.2, "--validation_guidance_skip_scale": 2.8,
     "--validation_guidance": 4.0, "--flow_use_uniform_schedule": True,
     "--flow_schedule_auto_shift": True},
]  # fmt: skip


@pytest.mark.parametrize("block", JSON_BLOCKS, ids=["first", "quantised", "skip-layer"])
def test_the_quickstart_loads_as_printed(load: Load, block: dict[str, Any]) -> None:
    config = load(**block)
    for key, value in block.items():
        if isinstance(value, str | float) and key != "user_prompt_library":
            got = config.to_json()[key.removeprefix("--")]
            assert got == (value if "resolution" not in key else [[1024, 1024], [1280, 768]])


def test_the_quickstarts_previews_load_as_printed(load: Load) -> None:
    config = load(validation_preview=True, validation_preview_steps=1)
    assert config.validation_preview and config.validation_preview_steps == 1


def test_a_long_path_is_refused_before_the_file_system_sees_it(load: Load) -> None:
    with pytest.raises(ConfigError, match=re.escape("cannot be a path")):
        load(pretrained_model_name_or_path="a" * 5000)
    with pytest.raises(ConfigError, match="cannot be a path"):
        Config.load(Path(os.sep + "a" * 300))


NAMES_OF_6_1 = """
    fp8uz-quanto int8-torchao int8dq-torchao int8dq-int4-torchao fp8-torchao fp8wo-torchao
    fp8-int4-torchao int4-torchao int8-sdnq uint8-sdnq int16-sdnq uint16-sdnq fp16-sdnq fp8-sdnq
    int6-sdnq int5-sdnq uint5-sdnq uint4-sdnq uint3-sdnq uint2-sdnq fp8-native
    fp8-transformerengine
""".split()


@pytest.mark.parametrize("name", NAMES_OF_6_1)
def test_every_known_precision_is_refused_with_one_that_exists(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not supported: .*; use (\S+)") as e:
        SCHEMES.check(name)
    nearest = str(e.value).rpartition("; use ")[2]
    assert SCHEMES.check(nearest) == nearest
    assert nearest in (
        "no_change",
        "int8-quanto",
        "int4-quanto",
        "int2-quanto",
        "fp8-quanto",
        "nf4-bnb",
        "int8-w8a8",
        "fp8-w8a8",
    )
