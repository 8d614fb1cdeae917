"""ai-toolkit's configuration: a yaml (or json) file with `job` and `config.process`.

Source: config/examples of ai-toolkit with their comments, and its training code (MIT). Its loss is
that of the flow; accumulated batches are summed, not averaged; its AdamW has eps 1e-6.
"""

from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.imports import shared_rules as rules
from sd3tune.imports.densities import Density
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.kohya_datasets import add_masks, identifier, shuffled, square
from sd3tune.imports.prompt_lines import add_prompts, size
from sd3tune.imports.translation import Translation, flattened

NAME = "ai-toolkit"
DEFAULTS = "ai-toolkit's default"
DENSITIES = {"sigmoid": Density(), "linear": Density("uniform")}
QUANTISED = {"qfloat8": "fp8-quanto", "float8": "fp8-quanto", "qint8": "int8-quanto",
             "int8": "int8-quanto", "qint4": "int4-quanto", "uint4": "int4-quanto"}  # fmt: skip


def recognised(document: Document) -> bool:
    """Whether the content is a job of ai-toolkit."""
    data = document.data
    if document.syntax not in ("yaml", "json") or not isinstance(data, dict):
        return False
    config = data.get("config")
    return isinstance(config, dict) and "process" in config


def translate(document: Document) -> Translation:
    """Raises ConfigError for values that are not what their names say."""
    config = document.data["config"]
    processes = config["process"]
    first = processes[0] if isinstance(processes, list) and processes else processes
    if not isinstance(first, dict):
        raise ConfigError(
            f"{document.where}: config.process holds no process", hint="give a training job"
        )
    datasets, prompts = first.get("datasets"), _prompts(first.get("sample"))
    t = Translation(NAME, flattened({k: v for k, v in first.items() if k != "datasets"}))
    for number, other in enumerate(processes[1:] if isinstance(processes, list) else [], 2):
        t.drop(f"process {number}", str(other)[:60], "only the first process of a job is taken")
    if name := config.get("name"):
        t.map("config.name", name, output_name=identifier(str(name)))
    for key in ("sample.prompts", "sample.samples"):
        t.take(key)
    t.idle += [k for k in ("type", "device", "performance_log_every") if t.left.pop(k, None)]
    _model(t, document)
    rules.results_folder(t, "training_folder")
    _adapter(t, document)
    _length(t, document)
    _optimiser(t, document)
    _noise(t, document)
    _ema(t)
    trigger = t.take("trigger_word")
    for dataset in datasets if isinstance(datasets, list) else []:
        if isinstance(dataset, dict):
            _dataset(t, dataset, trigger, document)
        else:
            t.drop("datasets", str(dataset)[:60], "is not a table")
    _samples(t, prompts, trigger)
    for key in ("meta", "job"):
        if key in document.data:
            t.idle.append(key)
    t.rest()
    return t


def _model(t: Translation, document: Document) -> None:
    written = t.take("model.name_or_path")
    arch = str(t.take("model.arch", "sd3")).lower()
    others = [k for k in ("is_flux", "is_xl", "is_pixart", "is_auraflow", "is_lumina2")
              if rules.flag(t.left.get(f"model.{k}", False))]  # fmt: skip
    if others or not arch.startswith("sd3"):
        raise ConfigError(
            f"{document.where}: the model is {others[0] if others else arch}, not SD3",
            hint="sd3tune trains Stable Diffusion 3 and 3.5",
        )
    rules.model(t, "model.name_or_path", written, document.folder)
    if rules.flag(t.take("model.quantize", False)):
        kind = str(t.take("model.qtype", "qfloat8"))
        ours = QUANTISED.get(kind)
        if ours:
            t.map("model.quantize", kind, base_model_precision=ours)
        else:
            t.drop("model.qtype", kind, "is not a scheme of sd3tune")
    if rules.flag(t.take("model.quantize_te", False)):
        t.map("model.quantize_te", True, text_encoder_3_precision="int8-quanto")
    t.drop_all("model.low_vram", "is a switch for memory: `sd3tune plan` says what fits")
    dtype = str(t.take("train.dtype", "bf16")).lower()
    formats = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "fp32": "no",
               "float32": "no"}  # fmt: skip
    t.map("train.dtype", dtype, mixed_precision=formats.get(dtype, "bf16"))


def _adapter(t: Translation, document: Document) -> None:
    kind = str(t.take("network.type", "")).lower()
    if not any(k.startswith("network.") for k in t.left) and not kind:
        t.choose("the job has no network", model_type="full")
        return
    t.choose("the job has a network", model_type="lora")
    if kind not in ("lora", ""):
        t.drop("network.type", kind, "needs lora_type=lycoris and a lycoris_config.json; a LoRA of "
               "the same rank is trained instead")  # fmt: skip
    key = next((k for k in ("network.linear", "network.rank") if k in t.left), "network.linear")
    rank = t.set(key, 4, "lora_rank", DEFAULTS)
    alpha = t.take("network.linear_alpha", t.take("network.alpha"))
    t.choose("ai-toolkit writes no alpha for SD3: the update is not scaled", lora_alpha=rank)
    if alpha is not None and alpha != rank:
        t.drop("network.linear_alpha", alpha, "has no effect on SD3 in ai-toolkit: alpha is rank")
    t.set("network.dropout", 0.0, "lora_dropout", DEFAULTS)
    t.choose("ai-toolkit adapts every linear layer of a block",
             peft_lora_target_modules=rules.layers(every=True))  # fmt: skip
    if path := t.take("network.pretrained_lora_path"):
        t.map("network.pretrained_lora_path", path, init_lora=rules.path_of(path, document.folder))


def _length(t: Translation, document: Document) -> None:
    t.set("train.batch_size", 1, "train_batch_size", DEFAULTS)
    steps = rules.whole(t.take("train.steps", 1000), "train.steps", document.where)
    legacy = t.take("train.gradient_accumulation_steps")
    count = t.take("train.gradient_accumulation", legacy or 1)
    batches = max(1, rules.whole(count, "train.gradient_accumulation", document.where))
    if legacy and batches > 1:  # every batch counts as a step there
        t.map("train.steps", steps, max_train_steps=max(1, -(-steps // batches)))
    else:
        t.map("train.steps", steps, max_train_steps=steps)
    t.map("train.gradient_accumulation", batches, gradient_accumulation_steps=batches)
    norm = rules.number(t.take("train.max_grad_norm", 1.0), "train.max_grad_norm", document.where)
    reason = "ai-toolkit adds up accumulated batches, sd3tune takes their mean"
    t.choose(reason if batches > 1 else DEFAULTS, max_grad_norm=float(f"{norm / batches:.7g}"))
    t.set("seed", 0, "seed", "ai-toolkit draws a new seed in each run")
    every, kept = t.take("save.save_every"), t.take("save.max_step_saves_to_keep")
    if every is not None:
        t.map("save.save_every", every, checkpoint_step_interval=every)
    if kept is not None:
        t.map("save.max_step_saves_to_keep", kept, checkpoints_total_limit=kept)
    t.idle += [k for k in ("save.dtype", "save.save_format") if t.left.pop(k, None)]
    t.map("train.gradient_checkpointing", kept := t.take("train.gradient_checkpointing", True),
          gradient_checkpointing=kept)  # fmt: skip


def _optimiser(t: Translation, document: Document) -> None:
    named = {k.rpartition(".")[2]: t.left.pop(k) for k in list(t.left)
             if k.startswith("train.optimizer_params.")}  # fmt: skip
    betas = named.pop("betas", None)
    if isinstance(betas, list) and len(betas) == 2:
        named |= {"beta1": betas[0], "beta2": betas[1]}
    word = t.take("train.optimizer")
    batches = t.config["gradient_accumulation_steps"]
    eps = rules.number(named.pop("eps", 1e-6), "eps", document.where) / batches
    own = {"eps": float(f"{eps:.7g}")}  # a sum has a larger gradient than a mean
    rules.optimizer(t, "train.optimizer" if word else "", word or "adamw", named, own)
    rate = rules.number(t.take("train.lr", 1e-6), "train.lr", document.where)
    if "prodigy" in str(word).lower() and rate < 0.1:
        t.choose("ai-toolkit takes 1 for prodigy where lr is below 0.1", learning_rate=1.0)
    elif t.config["optimizer"] == "torch-sgd" and batches > 1:
        t.map("train.lr", rate, learning_rate=rate * batches)
    else:
        t.map("train.lr", rate, learning_rate=rate)
    warm = t.take("train.lr_scheduler_params.num_warmup_steps") or t.take("train.lr_warmup_steps")
    rules.scheduler(t, "train.lr_scheduler" if "train.lr_scheduler" in t.left else "",
                    t.take("train.lr_scheduler", "constant"), bool(warm))  # fmt: skip
    if warm:
        rules.warm_up(t, "train.lr_warmup_steps", warm, t.config["max_train_steps"], document.where)


def _noise(t: Translation, document: Document) -> None:
    """Levels are drawn by timestep_type; the loss is the mean over latents, then over images."""
    kind = str(t.take("train.timestep_type", "sigmoid")).lower()
    t.choose("ai-toolkit measures the error of the flow", loss_weighting="none")
    if kind in DENSITIES:
        t.choose(f"timestep_type={kind}", **DENSITIES[kind].settings())
    else:
        t.drop("train.timestep_type", kind, "is not a distribution of sd3tune; shifted levels are "
               "drawn by the number of tokens")  # fmt: skip
        t.choose(f"timestep_type={kind}", flow_schedule_auto_shift=True,
                 flow_use_uniform_schedule=True)  # fmt: skip
    if rules.flag(t.take("train.linear_timesteps", False)):
        t.drop("train.linear_timesteps", True, "its bell of weights has no equivalent; uniform "
               "levels count alike")  # fmt: skip
        t.choose("linear_timesteps", **Density("uniform").settings())
    bias = t.take("train.content_or_style", "balanced")
    t.drop_once("train.content_or_style", None if bias == "balanced" else bias,
                "its cubic distribution has no equivalent")  # fmt: skip
    loss = str(t.take("train.loss_type", "mse")).lower()
    if loss != "mse":
        t.drop("train.loss_type", loss, "is not a loss of sd3tune; l2 is used")
    t.idle += [k for k in ("train.noise_scheduler",) if t.left.pop(k, None)]
    for key in ("train.noise_offset", "train.min_snr_gamma", "train.snr_gamma"):
        if (value := t.take(key)) is not None:
            t.drop(key, value, "has no effect on flow matching")
    t.choose("prompts of SD3 are cut at 256 tokens in ai-toolkit", tokenizer_max_length=256)


def _ema(t: Translation) -> None:
    for key in [k for k in t.left if k.startswith("train.ema_config.")]:
        name = key.rpartition(".")[2]
        value = t.left.pop(key)
        if name == "use_ema":
            t.map(key, value, use_ema=rules.flag(value))
        elif name == "ema_decay":
            t.map(key, value, ema_decay=value)
        else:
            t.drop(key, value, "is not an option of the average here")


def _dataset(t: Translation, written: dict[str, Any], trigger: Any, document: Document) -> None:
    sizes = written.get("resolution", 512)
    for edge in sizes if isinstance(sizes, list) else [sizes]:
        _sized(t, dict(written) | {"resolution": edge}, trigger, document)


def _sized(t: Translation, left: dict[str, Any], trigger: Any, document: Document) -> None:
    """One dataset at one size: ai-toolkit takes each image at each of its sizes."""
    written = frozenset(left)
    path = left.pop("folder_path", left.pop("dataset_path", ""))
    folder = rules.path_of(path, document.folder)
    edge = left.pop("resolution")
    entry: dict[str, Any] = {"id": f"{identifier(folder)}-{square(edge)}", "type": "local",
                             "instance_data_dir": folder, "resolution": square(edge)}  # fmt: skip
    mapped: dict[str, tuple[Any, str]] = {"folder_path": (path, "instance_data_dir"),
                                          "resolution": (edge, "resolution")}  # fmt: skip

    def put(key: str, value: Any, **ours: Any) -> None:
        entry.update(ours)
        mapped[key] = (value, next(iter(ours)))

    put("caption_ext", left.pop("caption_ext", "txt"), caption_strategy="textfile")
    rate = left.pop("caption_dropout_rate", 0.0)
    put("caption_dropout_rate", rate, caption_dropout_probability=rate)
    word = left.pop("trigger_word", None) or trigger
    caption = left.pop("default_caption", None)
    if word:
        put("trigger_word", word, instance_prompt=word)
        put("trigger_word", word, prepend_instance_prompt=True)
        t.drop_once("trigger_word", word, "is put before every caption, also where the caption has "
                    "it; `[trigger]` in captions is not replaced")  # fmt: skip
    elif caption:
        t.drop("default_caption", caption, "every image needs a caption beside it")
    if rules.flag(left.pop("shuffle_tokens", False)):
        put("shuffle_tokens", True, caption_shuffle=shuffled(left.pop("keep_tokens", 0)))
    times = rules.whole(left.pop("num_repeats", 1), "num_repeats", document.where)
    put("num_repeats", times, repeats=max(0, times - 1))
    if rules.flag(left.pop("is_reg", False)):
        put("is_reg", True, is_regularisation_data=True)
    masks = left.pop("mask_path", None)
    if masks and "masked_loss_normalize" not in t.config:
        t.choose("ai-toolkit divides a mask by its mean", masked_loss_normalize=True)
    lightest = left.pop("mask_min_value", 0.0)
    if masks and lightest:
        t.drop_once("mask_min_value", lightest, "black counts as 0 here: brighten the masks")
    mapped = {k: row for k, row in mapped.items() if k in written or k == "trigger_word"}
    for key, value in left.items():
        if key.startswith("cache_"):
            t.idle.append(key)
        else:
            t.drop_of_dataset(key, value)
    t.dataset(entry, mapped, written)
    if masks:
        add_masks(t, entry, "mask_path", rules.path_of(masks, document.folder))


def _prompts(sample: Any) -> list[Any]:
    if not isinstance(sample, dict):
        return []
    listed = sample.get("samples") or sample.get("prompts") or []
    listed = listed if isinstance(listed, list) else []
    return [p.get("prompt") if isinstance(p, dict) else p for p in listed]


def _samples(t: Translation, prompts: list[Any], trigger: Any) -> None:
    if rules.flag(t.take("train.disable_sampling", False)):
        t.map("train.disable_sampling", True, validation_disable=True)
    texts = [str(p).replace("[trigger]", str(trigger or "")) for p in prompts if p]
    add_prompts(t, "sample.prompts", f"{len(texts)} prompts", texts)
    names = {"sample_every": "validation_step_interval", "guidance_scale": "validation_guidance",
             "sample_steps": "validation_num_inference_steps", "seed": "validation_seed",
             "neg": "validation_negative_prompt"}  # fmt: skip
    for theirs, ours in names.items():
        if (value := t.take(f"sample.{theirs}")) is not None:
            t.map(f"sample.{theirs}", value, **{ours: value})
    if "sample.width" in t.left:
        size(t, t.take("sample.width"), t.take("sample.height", 1024), "sample.width, height")
    t.idle += [k for k in ("sample.sampler", "sample.sample_start_step") if k in t.left]
    t.left.pop("sample.sampler", None)
    t.left.pop("sample.sample_start_step", None)
    if rules.flag(t.take("sample.walk_seed", False)):
        t.drop("sample.walk_seed", True, "every prompt has its own noise anyway")
