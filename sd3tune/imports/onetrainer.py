"""OneTrainer's configuration: a JSON object with `training_method` and `model_type`.

Source: the names and defaults that its window shows and its configuration files hold, its wiki
(Training, Concepts); its program (AGPL) was not read. Where none of
them states a rule, the report says what was assumed.
"""

from sd3tune.errors import ConfigError
from sd3tune.imports import shared_rules as rules
from sd3tune.imports.densities import Density, checked
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.kohya_datasets import identifier, square
from sd3tune.imports.onetrainer_concepts import concepts_of, samples_of
from sd3tune.imports.translation import Translation, flattened

NAME = "OneTrainer"
DEFAULTS = "OneTrainer's default"
OTHER_NETWORK = (
    "needs lora_type=lycoris and a lycoris_config.json; a LoRA of the same rank is trained instead"
)
MODELS = {
    "STABLE_DIFFUSION_35": "sd3.5-large",
    "STABLE_DIFFUSION_3": "sd3-medium",
}
METHODS = {"LORA": "lora", "FINE_TUNE": "full"}
PRECISIONS = {"FLOAT_8": "fp8-quanto", "INT_8": "int8-quanto", "NFLOAT_4": "nf4-bnb",
              "FLOAT_W8A8": "fp8-quanto", "INT_W8A8": "int8-quanto"}  # fmt: skip
MARKS = {"training_method", "concept_file_name", "base_model_name", "output_model_destination",
         "timestep_distribution", "workspace_dir", "learning_rate_scheduler"}  # fmt: skip
PARTS = ("unet", "prior", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3",
         "text_encoder_4", "vae", "effnet_encoder", "decoder", "decoder_text_encoder",
         "decoder_vqgan")  # fmt: skip


def recognised(document: Document) -> bool:
    """Whether the content is one of OneTrainer's configurations or lists of concepts."""
    data = document.data
    if document.syntax != "json":
        return False
    if isinstance(data, list):
        return (
            bool(data)
            and all(isinstance(d, dict) and "path" in d for d in data)
            and any({"text", "image", "balancing"} & d.keys() for d in data)
        )
    return isinstance(data, dict) and len(MARKS & data.keys()) >= 2


def translate(document: Document) -> Translation:
    """Raises ConfigError for values that are not what their names say."""
    data = document.data if isinstance(document.data, dict) else {"concepts": document.data}
    concepts, samples = data.get("concepts"), data.get("samples")
    kept = {k: v for k, v in data.items() if k not in ("concepts", "samples", "optimizer_defaults")}
    t = Translation(NAME, flattened(kept))
    _model(t, document)
    rules.results_folder(t, "workspace_dir cache_dir debug_dir")
    _adapter(t, document)
    _length(t, document)
    _optimiser(t, document)
    _noise(t, document)
    _ema(t)
    concepts_of(t, concepts, document)
    samples_of(t, samples, document)
    for part in PARTS:
        for key in [k for k in t.left if k.startswith(f"{part}.")]:
            value = t.left.pop(key)
            is_quiet = value in (None, False, 0, 1, "NONE", "NEVER", "") or key.endswith(
                ("stop_training_after", "stop_training_after_unit", "train_embedding")
            )
            if is_quiet or key.endswith(".weight_dtype"):
                t.idle.append(key)
            else:
                t.drop(key, value, "belongs to a part that is not trained here")
    for key in [k for k in t.left if k.startswith(("cloud.", "secrets.", "embedding."))]:
        t.left.pop(key)
        t.idle.append(key)  # its value may be a password
    t.rest()
    return t


def _model(t: Translation, document: Document) -> None:
    kind = str(t.take("model_type", "STABLE_DIFFUSION_35")).upper()
    if kind not in MODELS:
        raise ConfigError(
            f"{document.where}: `model_type={kind[:60]}` is not Stable Diffusion 3 or 3.5",
            hint="sd3tune trains Stable Diffusion 3 and 3.5",
        )
    base = t.take("base_model_name")
    rules.model(t, "base_model_name", base, document.folder)
    if not base:
        t.map("model_type", kind, model_flavour=MODELS[kind])
    method = str(t.take("training_method", "LORA")).upper()
    if method not in METHODS:
        raise ConfigError(
            f"{document.where}: `training_method={method[:60]}` is not supported",
            hint="LORA and FINE_TUNE are",
        )
    t.map("training_method", method, model_type=METHODS[method])
    dtype = str(t.take("train_dtype", "FLOAT_16")).upper()
    ours = {"BFLOAT_16": "bf16", "FLOAT_16": "fp16", "FLOAT_32": "no", "TFLOAT_32": "no"}.get(dtype)
    if ours:
        t.map("train_dtype", dtype, mixed_precision=ours)
    else:
        t.drop("train_dtype", dtype, "is not a number format of training here")
    precision = t.take("transformer.weight_dtype") or t.take("prior.weight_dtype")
    weights = str(precision or t.take("weight_dtype") or "").upper()
    if weights in PRECISIONS and METHODS[method] == "lora":
        t.map("transformer.weight_dtype", weights, base_model_precision=PRECISIONS[weights])
    elif weights:
        t.idle.append("weight_dtype")
    if (goal := t.take("output_model_destination")) is not None:
        name = identifier(str(goal)).rpartition(".")[0] or identifier(str(goal))
        t.map("output_model_destination", goal, output_name=name)


def _adapter(t: Translation, document: Document) -> None:
    if t.config["model_type"] == "full":
        return
    if (kind := str(t.take("peft_type", "LORA")).upper()) != "LORA":
        t.drop("peft_type", kind, OTHER_NETWORK)
    t.set("lora_rank", 16, "lora_rank", DEFAULTS)
    t.set("lora_alpha", 1.0, "lora_alpha", f"{DEFAULTS}: alpha is 1, not the rank")
    t.set("dropout_probability", 0.0, "lora_dropout", DEFAULTS)
    if rules.flag(t.take("lora_decompose", False)):
        t.map("lora_decompose", True, use_dora=True)
    if path := t.take("lora_model_name"):
        t.map("lora_model_name", path, init_lora=rules.path_of(path, document.folder))
    preset = t.take("layer_filter_preset")
    layers = str(t.take("layer_filter", "") or "")
    if "attn" in layers and "ff" not in layers:
        t.map("layer_filter", layers, peft_lora_target_modules=None)
    elif layers and "ff" not in layers:
        t.drop("layer_filter", layers, "names other layers than attention and feed-forward")
    elif layers or preset in ("full", None, "attn-mlp"):
        modules = rules.layers(every="ff" not in layers)
        t.choose(f"layer_filter={layers or 'all layers'}", peft_lora_target_modules=modules)
    elif preset:
        t.drop("layer_filter_preset", preset, "attention alone is adapted")


def _length(t: Translation, document: Document) -> None:
    t.set("batch_size", 1, "train_batch_size", DEFAULTS)
    t.set("epochs", 100, "num_train_epochs", DEFAULTS)
    t.set("gradient_accumulation_steps", 1, "gradient_accumulation_steps",
          "both take the mean over all batches of a step")  # fmt: skip
    t.set("seed", 42, "seed", DEFAULTS)
    kept = str(t.take("gradient_checkpointing", "ON")).upper()
    t.map("gradient_checkpointing", kept, gradient_checkpointing=kept not in ("OFF", "FALSE"))
    if kept == "CPU_OFFLOADED":
        t.map("gradient_checkpointing", kept, gradient_checkpointing_backend="unsloth")
    sizes = str(t.take("resolution", "512")).split(",")
    t.map("resolution", sizes[0], resolution=square(sizes[0]))
    for more in sizes[1:]:
        t.drop("resolution", more, "is another size of the same images: add a dataset with it")
    _saving(t, "save_every", "checkpoint", document.where)
    _saving(t, "save_after", "checkpoint", document.where)
    _saving(t, "sample_after", "validation", document.where)


def _saving(t: Translation, key: str, ours: str, where: str) -> None:
    every, unit = t.take(key), str(t.take(f"{key}_unit", "NEVER")).upper()
    if every is None or unit == "NEVER":
        t.idle += [key] if every is not None else []
        return
    kind = {"STEP": "step", "EPOCH": "epoch"}.get(unit)
    if kind is None:
        t.drop(key, f"{every} {unit}", "is counted in steps or epochs here")
        return
    t.map(key, f"{every} {unit}", **{f"{ours}_{kind}_interval": rules.whole(every, key, where)})


def _optimiser(t: Translation, document: Document) -> None:
    named = {k.partition(".")[2]: t.left.pop(k) for k in list(t.left) if k.startswith("optimizer.")}
    word = named.pop("optimizer", None) or t.take("optimizer")
    options = {k: v for k, v in named.items() if v is not None and v is not False}
    t.idle += [f"optimizer.{k}" for k in named if k not in options]
    for name in list(options):
        if name not in ("beta1", "beta2", "eps", "weight_decay", "momentum", "d_coef"):
            options.pop(name)
            t.idle.append(f"optimizer.{name}")
    rules.optimizer(t, "optimizer.optimizer" if word else "", word or "ADAMW", options)
    rate = t.set("learning_rate", 3e-6, "learning_rate", DEFAULTS)
    where = document.where
    own = t.take("transformer.learning_rate") or t.take("prior.learning_rate")
    if own and own != rate:
        t.map("transformer.learning_rate", own, learning_rate=own)
    if (scaler := str(t.take("learning_rate_scaler", "NONE")).upper()) != "NONE":
        _scaled(t, scaler, where)
    warm = t.take("learning_rate_warmup_steps", 200)
    key = "learning_rate_scheduler" if "learning_rate_scheduler" in t.left else ""
    word = t.take("learning_rate_scheduler", "CONSTANT")
    steps = rules.number(warm, "learning_rate_warmup_steps", where)
    rules.scheduler(t, key, word, steps > 0)
    if warm:
        rules.warm_up(t, "learning_rate_warmup_steps", warm, None, document.where)
    if (cycles := t.take("learning_rate_cycles")) not in (None, 1, 1.0):
        count = max(1, round(rules.number(cycles, "learning_rate_cycles", where)))
        t.map("learning_rate_cycles", cycles, lr_num_cycles=count)
    t.set("clip_grad_norm", 1.0, "max_grad_norm", DEFAULTS)


def _scaled(t: Translation, scaler: str, where: str) -> None:
    """Their rate is multiplied by the root of the batch, of the accumulation, or of both."""
    names = "train_batch_size", "gradient_accumulation_steps", "learning_rate"
    batch, steps, rate = (rules.number(t.config[name], name, where) for name in names)
    factors = {"BATCH": batch, "GRADIENT_ACCUMULATION": steps, "BOTH": batch * steps}
    if scaler not in factors:
        t.drop("learning_rate_scaler", scaler, "is not known; the rate is not scaled")
        return
    scaled = rate * max(0.0, factors[scaler]) ** 0.5
    t.map("learning_rate_scaler", scaler, learning_rate=float(f"{scaled:.7g}"))


def _noise(t: Translation, document: Document) -> None:
    """sigma from the distribution, then shifted, then mapped to the strengths' range. The loss is
    that of the flow, the mean over an image's latents and then over the images."""

    def of(key: str, default: float) -> float:
        return rules.number(t.take(key, default), key, document.where)

    word = str(t.take("timestep_distribution", "UNIFORM")).upper()
    bias, width = of("noising_bias", 0), of("noising_weight", 0)
    shift, low, high = (of("timestep_shift", 1), of("min_noising_strength", 0),
                        of("max_noising_strength", 1))  # fmt: skip
    if rules.flag(t.take("dynamic_timestep_shifting", False)):
        t.map("dynamic_timestep_shifting", True, flow_schedule_auto_shift=True)
    if word == "UNIFORM":
        density = Density("uniform", shift=shift, low=low, high=high)
    else:
        density = Density(mean=bias, std=width + 1, shift=shift, low=low, high=high)
        if word != "LOGIT_NORMAL":
            t.drop("timestep_distribution", word, "is not a distribution of sd3tune; logit-normal "
                   "levels are drawn")  # fmt: skip
    settings = checked(density, document.where).settings()
    if t.config.get("flow_schedule_auto_shift"):
        settings.pop("flow_schedule_shift", None)
    t.choose(f"timestep_distribution={word}, timestep_shift={shift:g}, noising_bias={bias:g}, "
             f"noising_weight={width:g} (the width is noising_weight + 1)", **settings)  # fmt: skip
    weighting = str(t.take("loss_weight_fn", "CONSTANT")).upper()
    if weighting != "CONSTANT":
        t.drop("loss_weight_fn", weighting, "is not a weighting of sd3tune; all levels count alike")
    t.choose("OneTrainer measures the error of the flow", loss_weighting="none")
    _strengths(t, document)
    t.choose("SD3's captions are cut at 77 tokens in OneTrainer", tokenizer_max_length=77)


def _strengths(t: Translation, document: Document) -> None:
    given = {k: rules.number(t.take(k, d), k, document.where) for k, d in
             (("mse_strength", 1), ("mae_strength", 0), ("log_cosh_strength", 0),
              ("huber_strength", 0))}  # fmt: skip
    huber = given["huber_strength"]
    if huber == 1 and not given["mse_strength"]:
        t.map("huber_strength", huber, loss_type="huber", huber_schedule="constant")
        t.set("huber_delta", 1.0, "huber_c", DEFAULTS)
        return
    for key in ("mae_strength", "log_cosh_strength", "huber_strength"):
        t.drop(key, given[key], "is not supported: one loss holds, loss_type=l2 here")
    if given["mse_strength"] not in (0, 1):
        t.drop("mse_strength", given["mse_strength"], "a factor on the loss changes nothing with "
               "Adam; lower max_grad_norm by it where gradients are clipped")  # fmt: skip


def _ema(t: Translation) -> None:
    word = str(t.take("ema", "OFF")).upper()
    if word in ("GPU", "CPU"):
        t.map("ema", word, use_ema=True, ema_device="cpu" if word == "CPU" else "accelerator")
        t.set("ema_decay", 0.999, "ema_decay", DEFAULTS)
        t.set("ema_update_step_interval", 5, "ema_update_interval", DEFAULTS)
    else:
        t.idle += [k for k in ("ema_decay", "ema_update_step_interval") if t.left.pop(k, None)]
