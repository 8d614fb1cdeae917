"""The name of a result, and what its metadata says of the data and the run."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from sd3tune.train.result_metadata import about
from tests.plans import MEDIUM, plan, samples

SOME = {"instance_data_dir": "i", "resolution": 1024, "resolution_type": "pixel_area",
        "cache_dir_vae": "c"}  # fmt: skip
FIXED = {"caption_strategy": "instanceprompt"}
IN_FILES = {"caption_strategy": "textfile"}


def planned(*datasets: dict[str, Any], captions: tuple[str, ...] = ("x",), **settings: Any) -> Plan:
    values = {"output_dir": "runs/cats", "data_backend_config": "d", "max_train_steps": 10}
    own = [ImageDataset.model_validate(SOME | {"id": f"d{i}"} | d) for i, d in enumerate(datasets)]
    captioned = zip(samples(), captions * 20, strict=False)
    seen = [replace(s, captions=(c,), repeats=1) for s, c in captioned]
    facts = chips.facts(chips.chip("h100-sxm"))
    return resolve(RunInputs(Config(**values | settings), facts, find(MEDIUM), seen, own))


def test_the_name_of_the_result_is_the_users() -> None:
    assert plan("h100-sxm").result.file == "pytorch_lora_weights.safetensors"
    for name in ("my style v1.2", "Katze-süß", "x_1.safetensors", "pytorch_lora_weights"):
        made = plan("h100-sxm", output_name=name).result
        assert made.file == f"{name.removesuffix('.safetensors')}.safetensors"


@pytest.mark.parametrize(
    "name",
    ["a/b", "../x", "a\\b", ".hidden", "", " ", "x" * 101, "ü" * 60, "a:b", "a\nb", "con", "NUL.x",
     "trained", "ema.safetensors", "dot.", "-x", "a*"],
)  # fmt: skip
def test_a_name_that_is_not_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="output_name"):
        plan("h100-sxm", output_name=name)


def test_trigger_words_are_the_prompts_that_captions_have() -> None:
    made = planned(
        FIXED | {"instance_prompt": "zwx cat"},
        IN_FILES | {"instance_prompt": "sks dog", "prepend_instance_prompt": True},
        IN_FILES | {"instance_prompt": "unused"},
        FIXED | {"instance_prompt": "zwx cat"},
        FIXED | {"instance_prompt": "a cat", "is_regularisation_data": True},
    )
    assert made.result.trigger_words == ("zwx cat", "sks dog")
    assert about(made, 3)["modelspec.trigger_phrase"] == "zwx cat, sks dog"
    assert "modelspec.trigger_phrase" not in about(planned({}), 3)


def test_common_tags_are_counted_and_a_single_caption_stays_private() -> None:
    captions = ("cat, grey, my neighbour's address", "cat, black", "cat , grey", "a dog")
    made = planned({}, captions=captions)  # 20 images, each caption five times
    assert next(iter(made.result.tags["d"].items())) == ("cat", 15)
    one_each = planned({}, captions=tuple(f"cat, number {i}" for i in range(20)))
    assert one_each.result.tags == {"d": {"cat": 20}}
    assert json.loads(about(one_each, 1)["ss_tag_frequency"]) == {"d": {"cat": 20}}
    assert "ss_tag_frequency" not in about(planned({}, captions=tuple(map(str, range(20)))), 1)


def test_the_metadata_says_what_is_true_of_the_run_and_no_path() -> None:
    settings: dict[str, Any] = {
        "learning_rate": 2e-4, "train_batch_size": 2, "gradient_accumulation_steps": 3,
        "lr_scheduler": "cosine", "lr_warmup_steps": 5, "optimizer": "adamw_bf16", "seed": 9,
        "lora_dropout": 0.2,
    }  # fmt: skip
    says = about(planned({}, **settings), 7)
    expected = {
        "modelspec.title": "cats", "base_model": "sd3.5-medium", "sd3tune_step": "7",
        "ss_base_model_version": "sd3.5-medium", "ss_steps": "7", "ss_max_train_steps": "10",
        "ss_num_train_images": "40", "ss_batch_size_per_device": "2", "ss_total_batch_size": "6",
        "ss_gradient_accumulation_steps": "3", "ss_learning_rate": "0.0002", "ss_seed": "9",
        "ss_lr_scheduler": "cosine", "ss_lr_warmup_steps": "5", "ss_optimizer": "adamw_bf16",
        "ss_mixed_precision": "bf16", "ss_network_dropout": "0.2",
        "ss_network_module": "sd3tune.adapters.lora", "ss_output_name": "pytorch_lora_weights",
    }  # fmt: skip
    assert {key: says[key] for key in expected} == expected
    assert not any("/" in value and key != "modelspec.architecture" for key, value in says.items())
    whole = about(planned({}, model_type="full", optimizer=None), 7)
    assert not any(key.startswith("ss_network") for key in whole)
