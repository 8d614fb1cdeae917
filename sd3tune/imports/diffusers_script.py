"""The training scripts of diffusers for SD3: train_dreambooth_lora_sd3.py, train_dreambooth_sd3.py.

Source: their arguments with their help texts, diffusers' README_sd3.md, and the loop of
the scripts (Apache-2.0). The model's scheduler shifts the levels by 3; an index into its timesteps,
which fall, is drawn: the level is 1 minus what was drawn, shifted.
"""

import re
from typing import Any

from sd3tune.imports import shared_rules as rules
from sd3tune.imports.command_line import Command
from sd3tune.imports.densities import Density, checked
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.kohya_datasets import identifier
from sd3tune.imports.translation import Translation

NAME = "the diffusers script"
DEFAULTS = "the script's default"
SCRIPTS = re.compile(r"train_dreambooth(_lora)?_sd3\w*\.py")
MARKS = {"instance_data_dir", "instance_prompt", "class_data_dir", "precondition_outputs",
         "with_prior_preservation", "num_class_images", "rank"}  # fmt: skip
SHIFT = 3.0  # of the scheduler of every SD3 and SD3.5 repository
ATTENTION = "attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj"
ATTENTION += " attn.add_v_proj attn.to_add_out"


def recognised(document: Document) -> bool:
    """Whether the content is a command of one of the scripts."""
    data = document.data
    if isinstance(data, Command):
        named = bool(SCRIPTS.fullmatch(data.script))
        return named or (not data.script and len(MARKS & data.options.keys()) >= 2)
    return (
        document.syntax == "json"
        and isinstance(data, dict)
        and (
            len(MARKS & data.keys()) >= 2
            and {"precondition_outputs", "weighting_scheme", "num_class_images"} & data.keys()
            != set()
        )
    )


def translate(document: Document) -> Translation:
    """Raises ConfigError for values that are not what their names say."""
    data = document.data
    t = Translation(NAME, dict(data.options) if isinstance(data, Command) else dict(data))
    is_lora = not isinstance(data, Command) or "lora" in data.script or not data.script
    for name, value in (data.launcher if isinstance(data, Command) else {}).items():
        if name == "num_processes":
            t.map(f"accelerate {name}", value, num_processes=value)
        elif name == "mixed_precision" and "mixed_precision" not in t.left:
            t.left["mixed_precision"] = value
        else:
            t.drop(f"accelerate {name}", value, "is an option of accelerate, which is not used")
    rules.model(t, "pretrained_model_name_or_path", t.take("pretrained_model_name_or_path"),
                document.folder)  # fmt: skip
    rules.results_folder(t, "output_dir logging_dir")
    t.choose("what the script trains", model_type="lora" if is_lora else "full")
    if is_lora:
        _adapter(t)
    _length(t, document)
    _optimiser(t, document)
    _noise(t, document)
    _datasets(t, document)
    epochs = t.take("validation_epochs")
    if epochs is not None:
        t.map("validation_epochs", epochs, validation_epoch_interval=epochs)
    t.rest()
    return t


def _adapter(t: Translation) -> None:
    rank = t.set("rank", 4, "lora_rank", DEFAULTS)
    t.set("lora_alpha", rank, "lora_alpha", "the script scales by 1: alpha is rank")
    t.set("lora_dropout", 0.0, "lora_dropout", DEFAULTS)
    t.choose("the script's initialisation", lora_init_type="gaussian")
    layers = t.take("lora_layers")
    if layers:
        listed = [name.strip() for name in str(layers).split(",") if name.strip()]
        t.map("lora_layers", layers, peft_lora_target_modules=listed)
    else:
        t.choose("the script adapts the joint attention alone, not attn2 of SD3.5 medium",
                 peft_lora_target_modules=ATTENTION.split())  # fmt: skip
    if blocks := t.take("lora_blocks"):
        t.drop("lora_blocks", blocks, "all blocks are adapted; name single modules in "
               "peft_lora_target_modules")  # fmt: skip
    t.drop_all("train_text_encoder text_encoder_lr text_encoder_rank",
               "text encoders are not trained")  # fmt: skip


def _length(t: Translation, document: Document) -> None:
    t.set("train_batch_size", 4, "train_batch_size", DEFAULTS)
    t.set("resolution", 512, "resolution", DEFAULTS)
    steps, epochs = t.take("max_train_steps"), t.take("num_train_epochs")
    if steps is not None:
        t.map("max_train_steps", steps, max_train_steps=steps)
        if epochs is not None:
            t.drop("num_train_epochs", epochs, "max_train_steps takes its place there too")
    elif epochs is not None:
        t.map("num_train_epochs", epochs, num_train_epochs=epochs)
    else:
        t.choose(DEFAULTS, num_train_epochs=1)
    t.set("gradient_accumulation_steps", 1, "gradient_accumulation_steps",
          "both take the mean over all batches of a step")  # fmt: skip
    t.set("max_grad_norm", 1.0, "max_grad_norm", DEFAULTS)
    t.set("checkpointing_steps", 500, "checkpoint_step_interval", DEFAULTS)
    seed = t.take("seed")
    t.map("seed", seed, seed=seed) if seed is not None else t.choose("none is set", seed=0)
    checkpointing = t.take("gradient_checkpointing")
    t.choose("as written", gradient_checkpointing=rules.flag(checkpointing or False))


def _optimiser(t: Translation, document: Document) -> None:
    is_written = "optimizer" in t.left
    word = str(t.take("optimizer", "AdamW"))
    eight = rules.flag(t.take("use_8bit_adam", False))
    options = {"beta1": t.take("adam_beta1"), "beta2": t.take("adam_beta2"),
               "eps": t.take("adam_epsilon"),
               "weight_decay": t.take("adam_weight_decay")}  # fmt: skip
    if word.lower() == "prodigy":
        options["d_coef"] = t.take("prodigy_d_coef")
        options["beta3"] = t.take("prodigy_beta3")
        options["bias_correction"] = t.take("prodigy_use_bias_correction", True)
        options["safeguard_warmup"] = t.take("prodigy_safeguard_warmup", True)
        options["weight_decouple"] = t.take("prodigy_decouple", True)
    name = "adamw8bit" if eight and word.lower() == "adamw" else word
    key = "use_8bit_adam" if eight else "optimizer" if is_written else ""
    rules.optimizer(t, key, name, options, {"weight_decay": 1e-4})
    t.set("learning_rate", 1e-4, "learning_rate", DEFAULTS)
    if rules.flag(t.take("scale_lr", False)):
        t.map("scale_lr", True, lr_scale=True)
    warm = t.take("lr_warmup_steps", 500)
    key = "lr_scheduler" if "lr_scheduler" in t.left else ""
    word = str(t.take("lr_scheduler", "constant"))
    rules.scheduler(t, key, word, False)
    if word != "constant":
        rules.warm_up(t, "lr_warmup_steps", warm, None, document.where)
        t.drop_once("lr_warmup_steps", warm, "the first update has the rate 0 there; here the rate "
                    "rises from the first step on")  # fmt: skip
    else:
        t.idle.append("lr_warmup_steps")


def _noise(t: Translation, document: Document) -> None:
    def of(key: str, default: float) -> float:
        return rules.number(t.take(key, default), key, document.where)

    scheme = str(t.take("weighting_scheme", "logit_normal"))
    kind = scheme if scheme in ("logit_normal", "mode") else "uniform"
    mean, std, scale = of("logit_mean", 0), of("logit_std", 1), of("mode_scale", 1.29)
    density = checked(Density(kind, -mean, std, scale, SHIFT), document.where)
    if kind == "mode":  # 1 - u of what was drawn
        density = Density("mode", scale=scale, shift=1)
        levels = [1 - s for s in density.settings()["flow_custom_timesteps"]]
        levels = sorted(max(1e-4, round(SHIFT * s / (1 + (SHIFT - 1) * s), 5)) for s in levels)
        t.choose(f"weighting_scheme={scheme}", flow_custom_timesteps=levels)
    else:
        t.choose(f"weighting_scheme={scheme}, shifted by 3 as the scheduler of SD3",
                 **density.settings())  # fmt: skip
    image = rules.flag(t.take("precondition_outputs", 1))
    weightings = {"sigma_sqrt": ("sigma_sqrt", "none"), "cosmap": ("cosmap", "x0_cosmap")}
    flow, clean = weightings.get(scheme, ("none", "x0"))
    t.choose(f"precondition_outputs={int(image)}, weighting_scheme={scheme}",
             loss_weighting=clean if image else flow)  # fmt: skip
    t.set("max_sequence_length", 77, "tokenizer_max_length", DEFAULTS)


def _datasets(t: Translation, document: Document) -> None:
    t.choose("the script drops no captions", caption_dropout_probability=0.0)
    folder, named = t.take("instance_data_dir"), t.take("dataset_name")
    prompt = t.take("instance_prompt")
    edge = t.config["resolution"]
    shared: dict[str, Any] = {"resolution": edge, "resolution_type": "pixel", "crop": True,
                              "crop_aspect": "square"}  # fmt: skip
    mapped: dict[str, tuple[Any, str]] = {}
    centre = rules.flag(t.take("center_crop", False))
    shared["crop_style"] = "center" if centre else "random"
    repeats = rules.whole(t.take("repeats", 1), "repeats", document.where)
    shared["repeats"] = max(0, repeats - 1)
    mapped["repeats"] = (repeats, "repeats")
    if prompt:
        mapped["instance_prompt"] = (prompt, "instance_prompt")
    captions = t.take("caption_column")
    if named:
        entry = {"id": identifier(str(named)), "type": "huggingface", "dataset_name": named}
        entry["huggingface"] = {"image_column": t.take("image_column", "image"),
                                "caption_column": captions or "caption"}  # fmt: skip
        if config := t.take("dataset_config_name"):
            entry["dataset_config"] = config
        if not captions:
            entry |= {"instance_prompt": prompt, "only_instance_prompt": True}
        mapped["dataset_name"] = (named, "dataset_name")
        t.dataset(entry | shared, mapped)
    elif folder:
        where = rules.path_of(folder, document.folder)
        entry = {"id": identifier(where), "type": "local", "instance_data_dir": where,
                 "caption_strategy": "instanceprompt", "instance_prompt": prompt}  # fmt: skip
        mapped["instance_data_dir"] = (folder, "instance_data_dir")
        t.dataset(entry | shared, mapped)
    _class_images(t, shared, document)
    t.drop_all("random_flip", "images are trained as they are: no augmentation")


def _class_images(t: Translation, shared: dict[str, Any], document: Document) -> None:
    folder, prompt = t.take("class_data_dir"), t.take("class_prompt")
    kept = rules.flag(t.take("with_prior_preservation", False))
    weight = t.take("prior_loss_weight", 1.0)
    count = t.take("num_class_images")
    if not kept:
        t.idle += [k for k, v in (("class_data_dir", folder), ("class_prompt", prompt)) if v]
        return
    where = rules.path_of(folder or "class-images", document.folder)
    entry = shared | {
        "id": f"{identifier(where)}-class", "type": "local", "instance_data_dir": where,
        "caption_strategy": "instanceprompt", "instance_prompt": prompt, "repeats": 0,
        "is_regularisation_data": True,
    }  # fmt: skip
    t.dataset(entry, {"class_data_dir": (folder, "instance_data_dir"),
                      "class_prompt": (prompt, "instance_prompt")})  # fmt: skip
    if weight != 1.0:
        t.drop("prior_loss_weight", weight, "every image counts the same")
    if count:
        t.drop("num_class_images", count, "images of the class are not drawn for you: fill the "
               "folder, for instance with `sd3tune sample`")  # fmt: skip
