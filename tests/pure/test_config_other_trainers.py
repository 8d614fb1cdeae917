"""Files of other trainers: each of their names and values leads to what sd3tune calls it, and what
asks for nothing passes with a note."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config import inert, names
from sd3tune.config.config import FOREIGN, Reading, read
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.listing import read_datasets
from sd3tune.config.files.lycoris_config import load_lycoris
from sd3tune.config.other_trainers import RENAMED
from sd3tune.config.other_trainers_data import DATASET_NAMES, DATASET_RENAMED
from sd3tune.config.other_values import VALUES_ELSEWHERE
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()


def reading(words: Any = (), **settings: Any) -> Reading:
    Path("c.json").write_text(json.dumps({"output_dir": "o", "max_train_steps": 9} | settings))
    return read(Path("c.json"), words)


# From files of kohya's sd-scripts, OneTrainer, ai-toolkit and diffusers' scripts: (theirs, hint).
SETTINGS: list[tuple[dict[str, Any], str]] = [
    # sd-scripts, sd3_train_network.py
    ({"network_dim": 32}, "write lora_rank=32"),
    ({"network_alpha": 16}, "write lora_alpha=16"),
    ({"network_dropout": 0}, "write lora_dropout=0"),
    ({"network_module": "networks.lora_flux"}, "lora_type=lycoris"),
    ({"network_args": ["algo=lokr"]}, "lycoris_config.json"),
    ({"unet_lr": 1e-4}, "write learning_rate=0.0001"),
    ({"text_encoder_lr": 5e-5, "train_text_encoder": True}, "learning_rate is the transformer's"),
    ({"train_data_dir": "img"}, '"instance_data_dir": "img" in an entry of multidatabackend.json'),
    ({"reg_data_dir": "reg"}, "is_regularisation_data=true"),
    ({"save_filename_prefix": "x"}, "write output_name=x"),
    ({"max_train_epochs": 8}, "write num_train_epochs=8"),
    ({"save_every_n_steps": 100}, "write checkpoint_step_interval=100"),
    ({"save_every_n_epochs": 2}, "write checkpoint_epoch_interval=2"),
    ({"optimizer_type": "AdamW8bit"}, "write optimizer=bnb-adamw8bit"),
    ({"optimizer_args": ["weight_decay=0.1"]}, "optimizer_config"),
    ({"lr_scheduler_num_cycles": 3}, "write lr_num_cycles=3"),
    ({"sample_prompts": "p.txt"}, "user_prompt_library as the path of a JSON file"),
    ({"sample_every_n_steps": 50}, "write validation_step_interval=50"),
    ({"clip_skip": 2}, "leave it out"),
    ({"training_shift": 3.0}, "write flow_schedule_shift=3.0"),
    ({"weighting_scheme": "sigma_sqrt"}, "flow_use_uniform_schedule"),
    ({"caption_extension": ".txt"}, "caption_strategy=textfile"),
    ({"shuffle_caption": True}, '"caption_shuffle"'),
    ({"fp8_base": True}, "base_model_precision=fp8-quanto"),
    ({"min_snr_gamma": 5}, "leave it out"),
    ({"t5xxl": "t5.safetensors"}, "leave it out"),
    ({"prior_loss_weight": 0.5, "with_prior_preservation": True}, "is_regularisation_data=true"),
    ({"ip_noise_gamma": 0.1}, "write input_perturbation=0.1"),
    # diffusers, train_dreambooth_lora_sd3.py
    ({"rank": 4}, "write lora_rank=4"),
    ({"instance_data_dir": "img"}, "multidatabackend.json"),
    ({"repeats": 10}, "9 for 10"),
    ({"center_crop": True}, '"crop": true, "crop_style": "center"'),
    ({"scale_lr": True}, "write lr_scale=true"),
    ({"use_8bit_adam": True}, "optimizer=bnb-adamw8bit"),
    ({"adam_beta1": 0.9}, "write optimizer_beta1=0.9"),
    ({"adam_weight_decay": 0.01}, "write optimizer_config=weight_decay=0.01"),
    ({"validation_epochs": 5}, "write validation_step_interval"),
    ({"max_sequence_length": 77}, "write tokenizer_max_length=77"),
    # OneTrainer
    ({"epochs": 100, "max_train_steps": None}, "write num_train_epochs=100"),
    ({"batch_size": 4}, "write train_batch_size=4"),
    ({"base_model_name": "a/b"}, "write pretrained_model_name_or_path=a/b"),
    ({"learning_rate_scheduler": "COSINE"}, "write lr_scheduler=cosine"),
    ({"learning_rate_warmup_steps": 10}, "write lr_warmup_steps=10"),
    ({"clip_grad_norm": 1.0}, "write max_grad_norm=1.0"),
    ({"ema": "GPU"}, "write use_ema: "),
    ({"train_dtype": "BFLOAT_16"}, "write mixed_precision=bf16"),
    # what our setting would refuse is not offered
    ({"save_every": 0}, "leave it out"),
    ({"quantization": {"layer_filter": "blocks"}}, "write base_model_precision: "),
    ({"max_resolution": "1024,1024"}, "write resolution=1024"),
    ({"model_type": "STABLE_DIFFUSION_35"}, "use model_type=lora"),
    ({"optimizer": {"optimizer": "ADAMW_8BIT", "eps": 1e-8}}, "use optimizer=bnb-adamw8bit"),
    ({"output_model_destination": "models/a.safetensors"}, "its name as output_name"),
    ({"trigger_word": "p3r5on"}, '"prepend_instance_prompt": true'),
    ({"dataset_config": "d.toml"}, "entries of multidatabackend.json"),
    ({"prompts": ["a cat", "a dog"]}, "the path of a JSON file"),
    ({"flux_lora_target": "all"}, "leave it out"),
    ({"layer_filter": "blocks"}, "peft_lora_target_modules"),
    ({"concept_file_name": "c.json"}, "as entries of multidatabackend.json"),
    ({"lora_decompose": True}, "write use_dora=true"),
    ({"masked_training": True}, "conditioning"),
    ({"timestep_shift": 3.0}, "write flow_schedule_shift=3.0"),
    # ai-toolkit
    ({"lr": 1e-4}, "write learning_rate=0.0001"),
    ({"steps": 2000, "max_train_steps": None}, "write max_train_steps=2000"),
    ({"linear": 16}, "write lora_rank=16"),
    ({"save_every": 250}, "write checkpoint_step_interval=250"),
    ({"max_step_saves_to_keep": 4}, "write checkpoints_total_limit=4"),
    ({"trigger_word": "p3r5on"}, '"instance_prompt": "p3r5on"'),
    ({"name_or_path": "a/b"}, "write pretrained_model_name_or_path=a/b"),
    ({"guidance_scale": 4}, "write validation_guidance=4"),
    ({"job": "extension"}, "config import FILE"),
    ({"gradient_accumulation": 2}, "write gradient_accumulation_steps=2"),
    # older SimpleTuner
    ({"flux_schedule_shift": 3}, "write flow_schedule_shift=3"),
    ({"lora_initialisation_style": "pissa"}, "write lora_init_type=pissa"),
    # values
    ({"optimizer": "AdamW8bit"}, "use optimizer=bnb-adamw8bit"),
    ({"optimizer": "AdamW"}, "use optimizer=adamw"),
    ({"optimizer": "Prodigy"}, "use optimizer=prodigy"),
    ({"optimizer": "Lion8bit"}, "use optimizer=bnb-lion8bit"),
    ({"optimizer": "PagedAdamW8bit"}, "use optimizer=bnb-adamw8bit-paged"),
    ({"optimizer": "ADAMW_8BIT"}, "use optimizer=bnb-adamw8bit"),
    ({"lr_scheduler": "cosine_annealing"}, "use lr_scheduler=cosine"),
    ({"lr_scheduler": "COSINE"}, "use lr_scheduler=cosine"),
    ({"mixed_precision": "float16"}, "use mixed_precision=fp16"),
    ({"mixed_precision": "BFLOAT_16"}, "use mixed_precision=bf16"),
    ({"mixed_precision": "fp32"}, "use mixed_precision=no"),
    ({"base_model_precision": "qfloat8"}, "use base_model_precision=fp8-quanto"),
    ({"resolution": "1024,1024"}, "use resolution=1024"),
    ({"resolution": [1024, 768]}, "use resolution=887"),
    ({"loss_type": "mse"}, "use loss_type=l2"),
    ({"attention_mechanism": "xformers"}, "use attention_mechanism=native"),
    ({"lora_type": "lokr"}, "use lora_type=lycoris"),
    ({"model_family": "sd35"}, "use model_family=sd3"),
]  # fmt: skip


@pytest.mark.parametrize("written, hint", SETTINGS, ids=lambda v: str(v)[:40])
def test_a_name_or_value_of_another_trainer_leads_to_what_to_write(
    written: dict[str, Any], hint: str
) -> None:
    (problem, *others) = reading(**written).problems
    assert hint in problem.hint and "unknown setting" not in problem.message
    named = {p.message.partition("`: `")[2].partition("=")[0] for p in others}
    assert named <= set(written)  # nothing follows from it, such as a missing length
    (name, value), *_ = written.items()
    as_word = reading((f"{name}={json.dumps(value)}",)).problems
    assert any(hint in p.hint for p in as_word) or len(written) > 1


DATASET_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"image_dir": "photos"}, "write instance_data_dir=photos"),
    ({"folder_path": "photos"}, "write instance_data_dir=photos"),
    ({"num_repeats": 10}, "9 for 10"),
    ({"is_reg": True}, "write is_regularisation_data=true"),
    ({"class_tokens": "sks dog"}, "write instance_prompt=sks dog"),
    ({"caption_ext": "txt"}, '"caption_strategy": "textfile"'),
    ({"shuffle_tokens": True}, '"caption_shuffle"'),
    ({"keep_tokens": 1}, '"position_start"'),
    ({"flip_aug": True}, "leave it out"),
    ({"bucket_no_upscale": True}, '"max_upscale_threshold"'),
    ({"caption_dropout_rate": 0}, "write caption_dropout_probability=0"),
    ({"random_crop": True}, '"crop": true'),
    ({"batch_size": 2}, "write train_batch_size=2"),
    ({"resolution": "1024,1024"}, "use resolution=1024"),
    ({"name": "a"}, "write id=a"),
    ({"caption_strategy": "txt"}, "use caption_strategy=textfile"),
]


@pytest.mark.parametrize("written, hint", DATASET_KEYS, ids=lambda v: str(v)[:40])
def test_a_key_of_another_trainer_s_dataset_leads_to_ours(
    written: dict[str, Any], hint: str
) -> None:
    entry = {"id": "a", "instance_data_dir": "photos"} | written
    Path("d.json").write_text(json.dumps([entry]))
    (problem,) = read_datasets(Path("d.json"), reading().settings)[1]
    assert hint in problem.hint and problem.message.startswith("`d.json`: dataset `a`: ")


def test_what_sd3tune_always_does_cannot_be_switched_off_in_silence() -> None:
    for value, count in ((True, 0), (False, 1)):
        entry = {"id": "a", "instance_data_dir": "photos", "include_subdirectories": value}
        Path("d.json").write_text(json.dumps([entry | {"num_repeats": 1, "balancing": 1.0}]))
        problems = read_datasets(Path("d.json"), reading().settings)[1]
        assert len(problems) == count
        assert all("folders inside the folder are always read" in p.message for p in problems)


def test_a_lycoris_file_of_another_trainer_leads_to_ours() -> None:
    Path("l.json").write_text('{"algo": "lokr", "network_dim": 4, "alpha": 2}')
    with pytest.raises(ConfigError) as e:
        load_lycoris(Path("l.json"))
    assert [p.hint for p in e.value.problems] == ["write linear_dim=4", "write linear_alpha=2"]


def test_every_name_leads_to_a_setting_that_there_is_and_stands_in_one_row() -> None:
    assert set(RENAMED) <= set(AllSettings.model_fields)
    assert set(DATASET_RENAMED) - {"disabled"} <= set(ImageDataset.model_fields)
    keys = {*ImageDataset.model_fields, *Masks.model_fields, *TextEmbeds.model_fields}
    assert not set(DATASET_NAMES) & keys
    assert not {name for row in RENAMED.values() for name in row.split()} & set(names.REASONS)
    written = [name for row in RENAMED.values() for name in row.split()]
    assert len(written) == len(set(written))
    known = keys | set(AllSettings.model_fields) | {"weight_decay", "eps", "disabled"}
    for row in {*FOREIGN.values(), *DATASET_NAMES.values()}:
        assert set(re.findall(r"\b([a-z]\w+)=", row.hint)) <= known


@pytest.mark.parametrize("setting", VALUES_ELSEWHERE)
def test_every_value_leads_to_one_that_the_setting_takes(setting: str) -> None:
    for ours in set(VALUES_ELSEWHERE[setting].values()):
        if setting in AllSettings.model_fields:
            assert setting not in reading(**{setting: ours}).wrong, ours
        else:
            assert ImageDataset.model_fields[setting]
            entry = {"id": "a", "instance_data_dir": "photos", "crop": True, setting: ours}
            Path("d.json").write_text(json.dumps([entry]))
            assert read_datasets(Path("d.json"), reading().settings)[1] == ()


@pytest.mark.parametrize(
    "name", ["lora_ranc", "learning_rte", "train_batchsize", "optimiser_beta1"]
)
def test_a_misspelt_name_gets_the_nearest_setting(name: str) -> None:
    (problem,) = reading(**{name: 1}).problems
    assert re.fullmatch(r"did you mean `(\w+)`\?", problem.hint)


@pytest.mark.parametrize("name", ["snr_gama", "post_upload_scripts", "xyz"])
def test_no_guess_leads_to_a_setting_that_is_not_supported(name: str) -> None:
    (problem,) = reading(**{name: 1}).problems
    assert problem.hint == "docs/reference/settings.md lists them all"


OFF = (0, 0.0, "0", "0.0", "0.00", "0e0", "-0.0", False, "False", "None", "none", "", None, " 0 ")


@pytest.mark.parametrize(
    "name", ["snr_gamma", "publishing_config", "min_snr_gamma", "use_8bit_adam"]
)
@pytest.mark.parametrize("value", OFF, ids=repr)
def test_a_value_that_is_off_passes_with_a_note(name: str, value: Any) -> None:
    read_off = reading(**{name: value})
    assert read_off.problems == ()
    assert read_off.settings.notes == (f"{name} not used: the value asks for nothing",)


INERT: list[tuple[dict[str, Any], str]] = [
    ({"publishing_config": "x", "push_to_hub": False}, "push_to_hub is off"),
    ({"disable_bucket_pruning": True}, "no bucket is left out because it is small"),
    ({"set_grads_to_none": True}, "gradients are always dropped after a step"),
    ({"vae_cache_preprocess": False}, "the results are the same"),
    ({"singlora_ramp_up_steps": 100, "peft_lora_mode": "standard"}, "peft_lora_mode is off"),
    ({"text_encoder_lr": 5e-5}, "train_text_encoder is off"),
    (
        {"timestep_bias_portion": 0.25, "timestep_bias_strategy": "later"},
        "it has no effect on flow matching, nor has it in SimpleTuner",
    ),
    ({"pixart_sigma": "false"}, "the value asks for nothing"),
    ({"stable_diffusion_3": "true"}, "the value asks for nothing"),
    ({"weighting_scheme": "logit_normal"}, "the value asks for nothing"),
    ({"unmasked_probability": 0.1, "masked_training": False}, "masked_training is off"),
]


@pytest.mark.parametrize("written, why", INERT, ids=lambda v: str(v)[:40])
def test_a_setting_whose_switch_is_off_passes_with_a_note(
    written: dict[str, Any], why: str
) -> None:
    passed = reading(**written)
    assert passed.problems == ()
    (name, *_) = written
    assert passed.settings.notes[0].endswith(why) and " not used: " in passed.settings.notes[0]
    assert any(name.split("_")[0] in note for note in passed.settings.notes)


@pytest.mark.parametrize("switch, names_of_it", inert.SWITCHES.items())
def test_the_same_setting_is_refused_while_its_switch_is_on(switch: str, names_of_it: str) -> None:
    for name in names_of_it.split():
        on = "x" if switch == "init_lora" else True
        problems = reading(**{switch: on, name: 0.5}).problems
        assert any(f"`{name}=" in p.message for p in problems)


def test_what_a_run_leaves_out_may_be_the_word_none() -> None:
    written = dict.fromkeys(("validation_seed", "lora_alpha", "revision", "init_lora"), "None")
    written |= dict.fromkeys(("flow_custom_timesteps", "optimizer_config"), "none")
    passed = reading(**written, user_prompt_library=False)
    assert passed.problems == ()
    assert passed.settings.lora_alpha is None and passed.settings.revision is None
