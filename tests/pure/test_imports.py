"""Configurations of other trainers become files of sd3tune: what is mapped, and what is not."""

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from sd3tune.cli.import_lines import document, lines
from sd3tune.errors import ConfigError, Sd3tuneError
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.project import CONFIG, DATASETS, Imported, files_of, write
from sd3tune.imports.trainers import TRAINERS, translated
from sd3tune.imports.translation import Translation
from tests import foreign_configs as published
from tests import safetensors_files


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "masks", "models/sd3.5", "classes", "img/10_dog", "img/3_cat", "reg"):
        Path(name).mkdir(parents=True)


def toml(values: dict[str, Any]) -> str:
    """A toml of plain values and of lists of tables."""
    text = "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items() if not nested(v))
    for name, value in values.items():
        if isinstance(value, dict):
            text += f"[{name}]\n" + toml(value)
        for entry in value if nested(value) and isinstance(value, list) else []:
            rest = {k: v for k, v in entry.items() if k != "subsets"}
            text += f"[[{name}]]\n" + toml(rest)
            for subset in entry.get("subsets", []):
                text += f"[[{name}.subsets]]\n" + toml(subset)
    return text


def nested(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def read(text: str | dict[str, Any] | list[Any], name: str = "theirs") -> Translation:
    Path(name).write_text(text if isinstance(text, str) else json.dumps(text))
    return translated(Path(name))


def unmapped(t: Translation) -> dict[str, str]:
    return {row.theirs: row.reason for row in t.unmapped}


def of_dataset(t: Translation, number: int = 0) -> dict[str, Any]:
    return t.datasets[number]


PUBLISHED: dict[str, tuple[str, str, dict[str, Any]]] = {  # text, trainer, what the settings become
    "kohya guide": (toml(published.KOHYA_GUIDE), "kohya's sd-scripts", {
        "lora_rank": 16, "lora_alpha": 1, "lora_dropout": 0.0, "num_train_epochs": 10,
        "optimizer": "bnb-adamw8bit", "learning_rate": 1e-4, "lr_scheduler": "constant",
        "flow_use_uniform_schedule": True, "flow_schedule_shift": 1.0, "loss_weighting": "none",
        "tokenizer_max_length": 256, "caption_dropout_probability": 0.0, "blocks_to_swap": 32,
        "checkpoint_epoch_interval": 1, "train_batch_size": 1, "max_grad_norm": 1.0}),
    "kohya 16 GB": (toml(published.KOHYA_16GB), "kohya's sd-scripts", {
        "lora_rank": 4, "lora_alpha": 1.0, "base_model_precision": "fp8-quanto", "seed": 42,
        "flow_schedule_shift": 3.0, "flow_use_uniform_schedule": True, "loss_weighting": "x0"}),
    "OneTrainer issue": (json.dumps(published.ONETRAINER_ISSUE), "OneTrainer", {
        "lora_rank": 16, "lora_alpha": 1.0, "num_train_epochs": 20, "train_batch_size": 2,
        "gradient_accumulation_steps": 2, "lr_scheduler": "cosine", "lr_warmup_steps": 100,
        "use_ema": True, "ema_decay": 0.998, "ema_device": "cpu", "resolution": 1024,
        "base_model_precision": "fp8-quanto", "flow_schedule_shift": 1.0,
        "flow_sigmoid_scale": 1.0, "loss_weighting": "none", "mixed_precision": "bf16",
        "output_name": "20260504111"}),
    "OneTrainer script": (json.dumps(published.ONETRAINER_SCRIPT), "OneTrainer", {
        "lora_rank": 32, "lora_alpha": 32, "lr_scheduler": "constant", "optimizer_beta2": 0.99,
        "lora_dropout": 0, "max_grad_norm": 1.0}),
    "ai-toolkit example": (yaml.safe_dump(published.AI_TOOLKIT_EXAMPLE), "ai-toolkit", {
        "lora_rank": 16, "lora_alpha": 16, "max_train_steps": 2000, "optimizer": "bnb-adamw8bit",
        "optimizer_config": "eps=1e-06,weight_decay=0.01", "flow_use_uniform_schedule": True,
        "use_ema": True, "base_model_precision": "fp8-quanto", "validation_guidance": 4,
        "validation_resolution": "1024x1024", "checkpoints_total_limit": 4}),
    "ai-toolkit UI": (json.dumps(published.AI_TOOLKIT_UI), "ai-toolkit", {
        "lora_rank": 32, "lora_alpha": 32, "gradient_accumulation_steps": 4,
        "max_train_steps": 3000, "max_grad_norm": 0.25,
        "optimizer_config": "eps=2.5e-07,weight_decay=0.0001", "flow_schedule_shift": 1.0}),
    "diffusers README": (published.DIFFUSERS_README, "the diffusers script", {
        "lora_rank": 4, "lora_alpha": 4, "max_train_steps": 500, "gradient_accumulation_steps": 4,
        "optimizer_config": "eps=1e-08,weight_decay=0.0001", "lora_init_type": "gaussian",
        "flow_schedule_shift": 3.0, "flow_sigmoid_scale": 1.0, "loss_weighting": "x0",
        "validation_epoch_interval": 25, "report_to": "wandb", "tokenizer_max_length": 77}),
    "diffusers prior": (published.DIFFUSERS_PRIOR, "the diffusers script", {
        "lora_rank": 32, "lora_alpha": 32, "num_processes": 2, "optimizer": "bnb-adamw8bit",
        "optimizer_config": "eps=1e-08,weight_decay=0.01", "loss_weighting": "none"}),
    "ComfyUI API": (json.dumps(published.COMFYUI_API), "ComfyUI's trainer", {
        "lora_rank": 16, "lora_alpha": 1.0, "max_train_steps": 1500, "max_grad_norm": 0.0,
        "loss_weighting": "x0", "loss_type": "l2", "flow_use_uniform_schedule": True,
        "flow_schedule_shift": 3.0, "seed": 42, "mixed_precision": "bf16"}),
    "ComfyUI workflow": (json.dumps(published.COMFYUI_WORKFLOW), "ComfyUI's trainer", {
        "lora_rank": 8, "train_batch_size": 2, "gradient_accumulation_steps": 4,
        "optimizer": "torch-sgd", "learning_rate": 5e-4, "mixed_precision": "no"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_keeps_its_meaning(name: str) -> None:
    text, trainer, settings = PUBLISHED[name]
    t = read(text)
    assert t.trainer == trainer
    assert {k: t.config.get(k) for k in settings} == settings


NOT_MAPPED = {  # their key, and a part of the reason
    "kohya guide": {"t5xxl": "come with the model", "sdpa": "is not needed"},
    "OneTrainer issue": {"compile": "torch.compile", "validation": "evaluation"},
    "OneTrainer script": {"image.enable_random_flip": "no augmentation"},
    "ai-toolkit UI": {"network.linear_alpha": "alpha is rank", "trigger_word": "every caption"},
    "diffusers prior": {"num_class_images": "fill the folder"},
    "ComfyUI workflow": {"algorithm": "lycoris", "loss_function": "l2 is used",
                         "existing_lora": "init_lora"},
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_MAPPED)
def test_what_has_no_equivalent_is_listed_with_its_reason(name: str) -> None:
    found = unmapped(read(PUBLISHED[name][0]))
    for key, part in NOT_MAPPED[name].items():
        assert part in found[key], found


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_key_of_theirs_is_dropped_silently(name: str) -> None:
    """Every written name occurs somewhere in the report."""
    t = read(PUBLISHED[name][0])
    report = json.dumps(json.loads(document(Imported(t, files_of(t)))), default=str)
    assert not t.left
    for key in written_names(json_of(PUBLISHED[name][0])):
        assert key in report, key


def json_of(text: str) -> Any:
    if "--" in text and ".py" in text:
        return {w[2:].split("=")[0]: 1 for w in text.split() if w.startswith("--")}
    try:
        return json.loads(text)
    except ValueError:
        return {line.split(" = ")[0]: 1 for line in text.splitlines() if " = " in line} or (
            yaml.safe_load(text)
        )


GROUPS = {"job", "config", "process", "network", "save", "datasets", "train", "model", "sample",
          "ema_config", "optimizer", "concepts", "text", "image", "transformer", "text_encoder",
          "nodes", "links", "inputs", "class_type", "optimizer_params", "samples", "prompt", "id",
          "widgets_values", "latents", "name", "positive", "lora", "version", "images",
          "texts", "prefix", "seed", "sampler", "instance_data_dir"}  # fmt: skip


def written_names(data: Any) -> set[str]:
    if isinstance(data, list):
        return {name for entry in data for name in written_names(entry)}
    if not isinstance(data, dict):
        return set()
    own = {k for k in data if k not in GROUPS and not k.isdigit()}
    return own | {name for value in data.values() for name in written_names(value)}


def test_an_unknown_key_is_listed_and_not_guessed() -> None:
    t = read(toml(published.KOHYA_GUIDE | {"frobnicate": 3}))
    assert unmapped(t)["frobnicate"] == "is not a name that sd3tune knows"


def test_kohya_datasets_keep_sizes_captions_masks_and_regularisation() -> None:
    Path("hoge").mkdir()
    Path("hoge/a.txt").write_text("a, b")
    t = read(toml(published.KOHYA_DATASETS))
    hoge, fuga, reg, piyo, masks = t.datasets
    assert hoge["caption_strategy"] == "textfile" and "instance_prompt" not in hoge
    assert hoge["resolution"] == 512 and hoge["train_batch_size"] == 4
    assert hoge["caption_shuffle"] == {"count": 8, "position_start": 2, "include_original": False}
    assert fuga["caption_shuffle"]["position_start"] == 3
    # nothing lies in the folder: sd-scripts takes the class tokens as the caption
    assert (reg["caption_strategy"], reg["instance_prompt"]) == ("instanceprompt", "human")
    assert reg["is_regularisation_data"] is True and reg["caption_shuffle"]["position_start"] == 1
    assert "their own noise" in unmapped(t)["is_reg"]
    assert piyo["repeats"] == 9 and piyo["resolution"] == 768
    assert piyo["max_upscale_threshold"] == 0 and piyo["conditioning_data"] == masks["id"]
    assert masks["dataset_type"] == "conditioning"
    assert masks["instance_data_dir"] == str(Path("masks").absolute())
    assert "nearest to its aspect" in unmapped(t)["min_bucket_reso"]


def test_folders_of_kohya_say_how_often_and_what_is_on_the_pictures() -> None:
    command = (
        "accelerate launch sd3_train_network.py \\\n  --train_data_dir img --reg_data_dir=reg \\\n"
        "  --network_dim 8 --max_train_steps 100 --caption_extension .txt"
    )
    t = read(command)
    dog, cat, reg = t.datasets
    assert (dog["id"], dog["repeats"], dog["instance_prompt"]) == ("10_dog", 9, "dog")
    assert (cat["repeats"], cat["instance_prompt"]) == (2, "cat")
    assert reg["is_regularisation_data"] and reg["instance_data_dir"] == str(Path("reg").absolute())


def test_a_batch_file_of_windows_is_read_with_its_backslashes() -> None:
    t = read(
        "@echo off\nREM --network_dim 64\nset DIM=12\nset DATA=.\\img\n"
        "accelerate launch sd3_train_network.py ^\n  --network_dim %DIM% ^\n"
        '  --pretrained_model_name_or_path "C:\\models\\sd3.5 large.safetensors" ^\n'
        "  --train_data_dir %DATA% --max_train_steps 10 ^\n  --caption_extension .txt\npause\n"
    )
    assert t.config["lora_rank"] == 12 and [d["id"] for d in t.datasets] == ["10_dog", "3_cat"]
    assert t.config["pretrained_model_name_or_path"] == "C:\\models\\sd3.5 large.safetensors"


def test_a_command_names_files_that_are_read_too(tmp_path: Path) -> None:
    Path("base.toml").write_text(toml(published.KOHYA_16GB))
    Path("data.toml").write_text(toml(published.KOHYA_DATASETS))
    Path("prompts.txt").write_text("# mine\na dog on a sofa --w 1024 --h 768 --n blurry --s 28\n")
    t = read(
        "#!/bin/sh\n# --network_dim 64\nDATA=data.toml\n"
        "accelerate launch --num_cpu_threads_per_process 1 sd3_train_network.py --network_dim=2 "
        "--config_file base.toml --dataset_config $DATA --sample_prompts prompts.txt && echo done"
    )
    assert t.config["lora_rank"] == 2 and t.config["seed"] == 42 and len(t.datasets) == 5
    assert t.prompts == {"prompt-1": "a dog on a sofa"}
    assert t.config["validation_negative_prompt"] == "blurry"


def test_ai_toolkit_takes_each_image_at_each_of_its_sizes() -> None:
    t = read(published.AI_TOOLKIT_UI)
    small, masks, large, others = t.datasets
    assert (small["resolution"], large["resolution"]) == (512, 768)
    assert small["repeats"] == 1 and small["caption_dropout_probability"] == 0.05
    assert (small["instance_prompt"], small["prepend_instance_prompt"]) == ("p3r5on", True)
    assert small["conditioning_data"] == masks["id"] != others["id"]
    assert t.prompts == {"prompt-1": "p3r5on reading"}


def test_concepts_of_onetrainer_are_found_in_their_own_file() -> None:
    Path("concepts.json").write_text(json.dumps(published.ONETRAINER_CONCEPTS))
    one = read(published.ONETRAINER_ISSUE)
    assert of_dataset(one)["caption_strategy"] == "filename"
    assert of_dataset(read(published.ONETRAINER_CONCEPTS))["id"] == "dog"
    two = of_dataset(read(published.ONETRAINER_SCRIPT))
    assert (two["id"], two["repeats"], two["caption_strategy"]) == ("natsume", 2, "textfile")
    assert two["caption_shuffle"]["position_start"] == 2


def test_the_images_of_a_class_are_regularisation_data() -> None:
    t = read(published.DIFFUSERS_PRIOR)
    dog, classes = t.datasets
    assert (dog["instance_prompt"], dog["resolution_type"]) == ("sks dog", "pixel")
    assert classes["is_regularisation_data"] and classes["instance_prompt"] == "a dog"
    levels = t.config["flow_custom_timesteps"]
    assert len(levels) == 200 and levels == sorted(levels)


WRONG: list[tuple[str, str, str]] = [  # text, a part of the error, a part of the hint
    ("[" * 100_000, "nested too deeply", "correct the file"),
    ('{"a": ' * 5000 + "1" + "}" * 5000, "nested too deeply", ""),
    ("job: !!python/object/apply:os.system ['true']\nconfig: 1\n", "could not determine", ""),
    ("a: &a [x, x]\n" + "".join(f"k{i}: &k{i} [{'*a, ' * 40}*a]\n" for i in range(9)),
     "repeats too much", ""),
    ("config: {process: []}\0", "null characters", ""),
    ('{"network_dim": 1, "network_dim": 2}', "twice", ""),
    ("config:\n  process: 1\n  process: 2\n", "twice", ""),
    ("config:\n  process: 3\n", "holds no process", ""),
    ("hello", "cannot be read", ""),
    ('{"model_family": "sd3", "lora_rank": 4, "model_type": "lora"}', "of sd3tune", "plan"),
    ('{"some": "thing"}', "not a configuration of a trainer", "OneTrainer"),
    ("sd3_train_network.py --network_dim $(rm -rf x)", "output of another command", "executed"),
    ("accelerate launch sdxl_train_network.py --network_dim 4", "another model", ""),
    ("python sd3_train_network.py --network_dim 4 --output_name 'x", "closing quotation", ""),
    (json.dumps(published.ONETRAINER_ISSUE | {"model_type": "FLUX_2"}), "not Stable Diffusion", ""),
    (json.dumps(published.ONETRAINER_ISSUE | {"noising_weight": "x"}), "is not a number", ""),
    (toml(published.KOHYA_GUIDE | {"training_shift": -1}), "shift -1.0 is not", ""),
    (toml(published.KOHYA_GUIDE | {"logit_std": 0, "weighting_scheme": "logit_normal"}),
     "width 0.0", ""),
    (toml(published.KOHYA_GUIDE | {"max_train_epochs": 3, "lr_warmup_steps": "soon",
                                   "lr_scheduler": "linear"}), "is not a number", ""),
    ("datasets = [3]\nnetwork_dim = 1\nnetwork_alpha = 2\n", "is `3`, not a table", "[[datasets]]"),
    ("x = nan\nnetwork_dim = 1\nnetwork_alpha = 2\n", "holds the number nan", ""),
]  # fmt: skip


@pytest.mark.parametrize("text, error, hint", WRONG)
def test_what_cannot_be_read_is_an_error_with_a_hint(text: str, error: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        t = read(text)
        write(t, Path("out"))
    assert error in str(caught.value), caught.value
    assert hint in caught.value.hint


JUNK: tuple[Any, ...] = (
    "x",
    None,
    [],
    {},
    -1,
    1e300,
    True,
    [1, "a", {}],
    {"a": {"b": 1}},
    "\ud800",
)


def variants(data: Any) -> Iterator[Any]:
    """The document with each value in turn replaced by something else, one at a time."""
    items: list[Any] = list(data.items()) if isinstance(data, dict) else list(enumerate(data))
    for key, value in items:
        for junk in (JUNK[(len(str(key)) + i) % len(JUNK)] for i in range(2)):
            changed = copy.copy(data)
            changed[key] = junk
            yield changed
        for inner in variants(value) if isinstance(value, dict | list) else ():
            changed = copy.copy(data)
            changed[key] = inner
            yield changed


DOCUMENTS: dict[str, Any] = {
    "kohya": published.KOHYA_GUIDE | {"lr_scheduler": "linear", "lr_warmup_steps": 3,
                                      "network_args": ["a=1"], "optimizer_args": ["eps=1"]},
    "kohya datasets": published.KOHYA_DATASETS | published.KOHYA_16GB,
    "OneTrainer": published.ONETRAINER_ISSUE | {"concepts": published.ONETRAINER_CONCEPTS,
                                                "samples": [{"prompt": "x"}],
                                                "learning_rate_scaler": "BOTH"},
    "OneTrainer script": published.ONETRAINER_SCRIPT,
    "ai-toolkit": published.AI_TOOLKIT_EXAMPLE,
    "ai-toolkit UI": published.AI_TOOLKIT_UI,
    "ComfyUI": published.COMFYUI_API,
    "ComfyUI workflow": published.COMFYUI_WORKFLOW,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_senseless_value_is_an_error_or_listed_and_never_a_traceback(name: str) -> None:
    path = Path("theirs")
    for changed in variants(DOCUMENTS[name]):
        for trainer in TRAINERS:
            document = Document(path, "json", changed)
            with suppress(Sd3tuneError):
                if trainer.recognised(document):
                    files = files_of(trainer.translate(document))
                    json.dumps(files)


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    with Path("huge").open("wb") as f:
        f.truncate(5 * 2**20)
    with pytest.raises(ConfigError, match="more than any configuration"):
        translated(Path("huge"))


def test_files_are_written_once_and_never_over_others() -> None:
    t = read(published.AI_TOOLKIT_UI)
    done = write(t, Path("out"))
    assert not done.still
    config = json.loads(Path("out", CONFIG).read_text())
    assert config["data_backend_config"] == DATASETS and config["output_dir"] == "output"
    assert json.loads(Path("out", "config/user_prompt_library.json").read_text()) == t.prompts
    before = {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        write(read(published.ONETRAINER_SCRIPT), Path("out"))
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before


def test_what_the_plan_would_refuse_is_said_at_once() -> None:
    done = write(read(toml(published.KOHYA_DATASETS | published.KOHYA_16GB)), Path("out"))
    text = "\n".join(str(line) for line in lines(done, "out"))
    assert "still to do" in text and "fuga" in text


def test_a_value_that_ours_does_not_take_stays_out_of_the_file() -> None:
    t = read(toml(published.KOHYA_16GB | {"max_grad_norm": -1, "mixed_precision": "int3"}))
    config = files_of(t)[CONFIG]
    assert "max_grad_norm" not in config and "mixed_precision" not in config
    assert {"max_grad_norm", "mixed_precision"} <= unmapped(t).keys()


def test_passwords_are_never_shown() -> None:
    secrets = {"secrets": {"huggingface_token": "hf_abcdef"}, "cloud": {"password": "hunter2"}}
    t = read(published.ONETRAINER_SCRIPT | secrets)
    t2 = read(
        toml(published.KOHYA_16GB | {"wandb_api_key": "hunter2", "huggingface_token": "hf_a"})
    )
    for each in (t, t2):
        shown = document(Imported(each, files_of(each)))
        shown += str(lines(Imported(each, files_of(each)), None))
        assert "hunter2" not in shown and "hf_a" not in shown


def adapter(name: str, **metadata: str) -> Path:
    key = "lora_unet_joint_blocks_0_x_block_attn_proj"
    shapes = {f"{key}.lora_down.weight": (8, 1536), f"{key}.lora_up.weight": (1536, 8)}
    return safetensors_files.write(Path(name), shapes, {f"{key}.alpha": 4.0}, metadata)


def test_an_adapter_of_kohya_brings_its_whole_configuration() -> None:
    path = adapter(
        "theirs", ss_network_module="networks.lora_sd3", ss_network_dim="8", ss_network_alpha="4.0",
        ss_learning_rate="0.0002", ss_optimizer="torch.optim.adamw.AdamW(weight_decay=0.1)",
        ss_steps="900", ss_max_train_steps="900", ss_num_epochs="3", ss_seed="5",
        ss_dataset_dirs='{"photos": {"n_repeats": 3, "img_count": 9}}', ss_max_grad_norm="1.0",
        ss_tag_frequency='{"photos": {"sks dog": 9, "sofa": 4}}', ss_lr_scheduler="cosine",
    )  # fmt: skip
    t = translated(path)
    assert t.config["init_lora"] == str(path.absolute())
    assert (t.config["lora_rank"], t.config["lora_alpha"]) == (8, 4.0)
    assert (t.config["learning_rate"], t.config["seed"]) == (2e-4, 5)
    assert t.config["optimizer_config"] == "eps=1e-08,weight_decay=0.1"
    assert of_dataset(t)["repeats"] == 2
    reasons = {(c.ours, str(c.result)): c.reason for c in t.chosen}
    assert "trigger word" in reasons["instance_prompt", "sks dog"]
    assert "900 steps" in reasons["max_train_steps", "900"]


def test_an_adapter_without_metadata_still_says_rank_alpha_and_model() -> None:
    t = translated(adapter("plain", **{"modelspec.trigger_phrase": "p3r5on"}))
    assert (t.config["lora_rank"], t.config["lora_alpha"]) == (8, 4.0)
    assert t.config["model_flavour"] == "sd3-medium"
    assert [c.result for c in t.chosen if c.ours == "instance_prompt"] == ["p3r5on"]


def test_files_of_ai_toolkit_and_onetrainer_say_how_they_were_trained() -> None:
    one = translated(adapter("one", training_info='{"step": 2000, "epoch": 7}'))
    assert any("2000 steps" in c.reason for c in one.chosen)
    two = translated(adapter("two", ot_config=json.dumps(published.ONETRAINER_SCRIPT)))
    assert (two.config["learning_rate"], two.config["lora_alpha"]) == (2e-5, 4.0)
    assert two.datasets[0]["repeats"] == 2 and two.trainer == "an adapter of OneTrainer"


def test_damaged_metadata_is_no_traceback() -> None:
    junk = {"ss_network_module": "x", "ss_learning_rate": "fast", "ss_dataset_dirs": "[1]",
            "ss_tag_frequency": '{"a": 3}', "training_info": "{", "ot": '{"training_method": 1}',
            "ss_optimizer": "(((", "ss_network_dim": "None"}  # fmt: skip
    t = translated(adapter("junk", **junk))
    assert "learning_rate" in unmapped(t) or files_of(t)[CONFIG].get("learning_rate") != "fast"
    assert "learning_rate" not in files_of(t)[CONFIG]


def test_the_file_of_kohyas_window_counts_warm_up_in_percent() -> None:
    t = read({"LoRA_type": "Standard", "network_dim": 8, "network_alpha": 4, "epoch": 3,
              "max_train_steps": 200, "lr_warmup": 10, "lr_scheduler": "cosine",
              "optimizer": "AdamW8bit", "max_resolution": "512,512", "max_train_epochs": 0,
              "train_data_dir": "img", "learning_rate": 1e-4, "unet_lr": 0.0})  # fmt: skip
    assert t.config["num_train_epochs"] == 3 and t.config["resolution"] == 512
    assert t.config["optimizer"] == "bnb-adamw8bit" and t.config["learning_rate"] == 1e-4
    assert len(t.datasets) == 2 and "share of the run" in unmapped(t)["lr_warmup_steps"]


def test_what_is_not_an_adapter_is_refused(tmp_path: Path) -> None:
    from sd3tune.errors import ModelError

    model = safetensors_files.write(Path("model"), {"model.weight": (2, 2)})
    with pytest.raises(ModelError, match="is not an adapter"):
        translated(model)
