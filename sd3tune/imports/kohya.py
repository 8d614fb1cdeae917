"""kohya's sd-scripts for SD3: sd3_train_network.py and sd3_train.py, as toml or as a command line.

Source: sd-scripts' documents on sd3_train_network, train_network and datasets, and its training
loop (Apache-2.0). Datasets: kohya_datasets.py.
"""

from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.imports import shared_rules as rules
from sd3tune.imports.command_line import Command
from sd3tune.imports.densities import Density, checked
from sd3tune.imports.foreign_file import Document, read
from sd3tune.imports.kohya_datasets import DATASET_KEYS, datasets
from sd3tune.imports.prompt_lines import prompt_file
from sd3tune.imports.translation import Translation, flattened

NAME = "kohya's sd-scripts"
SCRIPTS = ("sd3_train_network.py", "sd3_train.py")
OTHER_MODELS = (
    "train_network.py", "sdxl_train_network.py", "flux_train_network.py", "sdxl_train.py",
    "flux_train.py", "fine_tune.py", "train_db.py", "lumina_train_network.py",
)  # fmt: skip
# Names that only sd-scripts uses; a file with any of them is one of its files.
MARKS = {
    "network_module", "network_dim", "network_alpha", "max_train_epochs", "save_every_n_epochs",
    "train_data_dir", "dataset_config", "optimizer_type", "optimizer_args", "clip_l", "t5xxl",
    "network_train_unet_only", "caption_extension", "save_model_as", "enable_bucket",
}  # fmt: skip
DEFAULTS = "the default of sd-scripts"
NO_EFFECT = "has no effect on SD3 in sd-scripts either"


def recognised(document: Document) -> bool:
    """Whether the content is a configuration, a command or a dataset of sd-scripts."""
    data = document.data
    if isinstance(data, Command):
        if data.script in OTHER_MODELS:
            raise ConfigError(
                f"{document.where}: {data.script} trains another model than SD3",
                hint="sd3tune trains Stable Diffusion 3 and 3.5",
            )
        return data.script in SCRIPTS or (not data.script and bool(MARKS & data.options.keys()))
    if not isinstance(data, dict) or document.syntax not in ("toml", "json"):
        return False
    return _lists_subsets(data) or len(MARKS & _flat(data).keys()) >= 2


def _lists_subsets(data: dict[str, Any]) -> bool:
    entries = data.get("datasets")
    return isinstance(entries, list) and any(
        isinstance(d, dict) and "subsets" in d for d in entries
    )


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """Sections of a toml only group: their names say nothing, and lists of tables are datasets."""
    return {k.rpartition(".")[2]: v for k, v in flattened(data).items()}


def translate(document: Document) -> Translation:
    """Raises ConfigError for values that are not what their names say."""
    data, folder = document.data, document.folder
    launcher: dict[str, Any] = {}
    if isinstance(data, Command):
        settings, launcher = dict(data.options), dict(data.launcher)
    else:
        settings = _flat({k: v for k, v in data.items() if k not in ("datasets", "general")})
        if not _lists_subsets(data) and isinstance(data.get("general"), dict):
            settings |= data["general"]
    script = data.script if isinstance(data, Command) else ""
    settings = _from_gui(_with_config_file(settings, document))
    t = Translation(NAME, settings)
    full = script == "sd3_train.py"
    _launcher(t, launcher)
    _model(t, document, full)
    rules.results_folder(t, "output_dir logging_dir")
    _adapter(t, document, full)
    steps = _length(t, document)
    _optimiser(t, document, steps)
    _noise(t, document)
    _text(t)
    inherited = {k: t.left.pop(k) for k in list(t.left) if k in DATASET_KEYS}
    datasets(t, data if isinstance(data, dict) else {}, inherited, document)
    prompt_file(t, "sample_prompts", folder)
    t.drop_all(
        "noise_offset noise_offset_random_strength multires_noise_iterations adaptive_noise_scale "
        "multires_noise_discount min_snr_gamma debiased_estimation_loss zero_terminal_snr "
        "scale_v_pred_loss_like_noise_pred v_pred_like_loss v2 v_parameterization clip_skip "
        "ip_noise_gamma ip_noise_gamma_random_strength max_token_length weighted_captions",
        NO_EFFECT,
    )
    t.rest()
    return t


# Names of the file that the window of kohya_ss saves -> options of sd-scripts.
GUI_NAMES = {
    "epoch": "max_train_epochs", "max_resolution": "resolution", "optimizer": "optimizer_type",
    "lr_warmup": "lr_warmup_steps",
}  # fmt: skip
LEFT_OPEN = ("max_train_steps", "max_train_epochs", "lr_scheduler_num_cycles", "unet_lr")


def _from_gui(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings under the names of sd-scripts. The window writes 0 and "" for what is left open,
    and the warm-up as a percentage."""
    if "LoRA_type" not in settings:
        return settings
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if value == "" or (name in LEFT_OPEN and value in (0, "0")):
            continue
        if name == "lr_warmup":
            share = rules.number(value, name, "the file of the window") / 100
            found["lr_warmup_steps"] = share if share < 1 else 0
        else:
            found[GUI_NAMES.get(name, name)] = value
    return found


def _with_config_file(settings: dict[str, Any], document: Document) -> dict[str, Any]:
    """`--config_file FILE`: its settings, with those of the command line on top."""
    named = settings.get("config_file")
    if not isinstance(named, str):
        return settings
    path = document.folder / (named if named.endswith(".toml") else f"{named}.toml")
    if not path.exists():
        raise ConfigError(
            f"{document.where}: its config_file `{named}` is not there",
            hint="put the file beside it, or import that file instead",
        )
    inner = read(path).data
    settings = {k: v for k, v in settings.items() if k != "config_file"}
    return (_flat(inner) if isinstance(inner, dict) else {}) | settings


def _launcher(t: Translation, options: dict[str, Any]) -> None:
    """Options of `accelerate launch`."""
    for name, value in options.items():
        if name == "num_processes":
            t.map(f"accelerate {name}", value, num_processes=value)
        elif name == "mixed_precision" and "mixed_precision" not in t.left:
            t.left["mixed_precision"] = value
        else:
            t.drop(f"accelerate {name}", value, "is an option of accelerate, which is not used")


def _model(t: Translation, document: Document, full: bool) -> None:
    rules.model(t, "pretrained_model_name_or_path", t.take("pretrained_model_name_or_path"),
                document.folder)  # fmt: skip
    reason = "text encoders and VAE come with the model: name a folder of diffusers, or one file"
    t.drop_all("clip_l clip_g t5xxl vae", reason)
    t.choose("what the script trains", model_type="full" if full else "lora")
    if (flag := t.take("fp8_base")) and rules.flag(flag):
        t.map("fp8_base", flag, base_model_precision="fp8-quanto")
    t.drop_all("fp8_base_unet", "is a switch of fp8 for another model")
    t.set("seed", 0, "seed", "sd-scripts draws a new seed in each run")


def _adapter(t: Translation, document: Document, full: bool) -> None:
    module = str(t.take("network_module", "networks.lora_sd3"))
    if full:
        t.drop_all("network_dim network_alpha network_args network_dropout", "trains no adapter")
        return
    if "lycoris" in module or "loha" in module or "lokr" in module:
        t.drop("network_module", module, "write lora_type=lycoris and a lycoris_config.json; a "
               "LoRA of the same rank is trained instead")  # fmt: skip
    else:
        t.map("network_module", module, lora_type="standard")
    t.set("network_dim", 4, "lora_rank", DEFAULTS)
    t.set("network_alpha", 1.0, "lora_alpha", f"{DEFAULTS}: alpha is 1, not the rank")
    t.set("network_dropout", 0.0, "lora_dropout", DEFAULTS)
    if weights := t.take("network_weights"):
        t.map("network_weights", weights, init_lora=rules.path_of(weights, document.folder))
    t.choose("sd-scripts adapts every linear layer of a block",
             peft_lora_target_modules=rules.layers(every=True))  # fmt: skip
    words = t.take("network_args", [])
    for word in words if isinstance(words, list) else [words]:
        t.drop(f"network_args {word}", word, "has no equivalent: one rank holds for all layers; "
               "peft_lora_target_modules chooses them")  # fmt: skip


def _length(t: Translation, document: Document) -> int | None:
    """Sets the length; returns the steps where they are known without the images."""
    batch = t.take("train_batch_size")
    if batch is None:
        t.choose(DEFAULTS, train_batch_size=1)
    else:
        t.map("train_batch_size", batch, train_batch_size=batch)
    if (epochs := t.take("max_train_epochs")) is not None:
        t.map("max_train_epochs", epochs, num_train_epochs=epochs)
        if (steps := t.take("max_train_steps")) is not None:
            t.drop("max_train_steps", steps, "max_train_epochs takes its place in sd-scripts too")
        return None
    steps = t.set("max_train_steps", 1600, "max_train_steps", DEFAULTS)
    return rules.whole(steps, "max_train_steps", document.where)


def _optimiser(t: Translation, document: Document, steps: int | None) -> None:
    options = rules.options_of(t.take("optimizer_args", []))
    key, word = "optimizer_type", t.take("optimizer_type")
    for switch, name in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if rules.flag(t.take(switch, False)):
            key, word = switch, name
    rules.optimizer(t, key if word else "", word or "AdamW", options)
    rate = t.take("unet_lr") or None
    plain = t.take("learning_rate")
    if rate is not None:
        t.map("unet_lr", rate, learning_rate=rate)
        if plain is not None and plain != rate:
            t.drop("learning_rate", plain, "unet_lr takes its place for the transformer")
    elif plain is not None:
        t.map("learning_rate", plain, learning_rate=plain)
    else:
        t.choose(DEFAULTS, learning_rate=2e-6)
    warm = t.take("lr_warmup_steps")
    rules.scheduler(t, "lr_scheduler" if "lr_scheduler" in t.left else "",
                    t.take("lr_scheduler", "constant"), False)  # fmt: skip
    if warm is not None and t.config["lr_scheduler"] == "constant":
        t.drop("lr_warmup_steps", warm, "lr_scheduler=constant has no warm-up in sd-scripts either")
    elif warm is not None:
        rules.warm_up(t, "lr_warmup_steps", warm, steps, document.where)
    if (power := t.take("lr_scheduler_power")) is not None:
        t.map("lr_scheduler_power", power, lr_power=power)
    t.set("max_grad_norm", 1.0, "max_grad_norm", DEFAULTS)
    t.set("gradient_accumulation_steps", 1, "gradient_accumulation_steps",
          "both take the mean over all images of a step")  # fmt: skip


def _noise(t: Translation, document: Document) -> None:
    """sigma = shift(u) in [min_timestep, max_timestep] / 1000, u drawn as weighting_scheme says;
    the loss is that of the clean image times the weight of weighting_scheme."""

    def of(key: str, default: float) -> float:
        return rules.number(t.take(key, default), key, document.where)

    written = t.take("weighting_scheme")
    scheme = str(written or "uniform")
    kind = scheme if scheme in ("logit_normal", "mode") else "uniform"
    density = Density(kind, of("logit_mean", 0), of("logit_std", 1), of("mode_scale", 1.29),
                      of("training_shift", 1), of("min_timestep", 0) / 1000,
                      of("max_timestep", 1000) / 1000)  # fmt: skip
    reason = f"weighting_scheme={scheme}, training_shift={density.shift:g}: how sd-scripts draws"
    t.choose(reason, **checked(density, document.where).settings())
    weighting = {"sigma_sqrt": "none", "cosmap": "x0_cosmap"}.get(scheme, "x0")
    why = f"weighting_scheme={scheme}: sd-scripts measures the error of the clean image"
    t.choose(why, loss_weighting=weighting)
    loss = str(t.take("loss_type", "l2")).lower()
    if loss in ("huber", "smooth_l1"):
        t.map("loss_type", loss, loss_type=loss)
        t.drop("loss_type", loss, "bends at another place: there the error is that of the image")
    elif loss != "l2":
        t.drop("loss_type", loss, "is not a loss of sd3tune; l2 is used")


def _text(t: Translation) -> None:
    t.set("t5xxl_max_token_length", 256, "tokenizer_max_length", DEFAULTS)
    t.drop_all("apply_lg_attn_mask apply_t5_attn_mask", "SD3 was trained without masks of tokens")
    t.drop_all("clip_l_dropout_rate clip_g_dropout_rate t5_dropout_rate",
               "captions are dropped as a whole: caption_dropout_probability")  # fmt: skip
    t.drop_all("pos_emb_random_crop_rate enable_scaled_pos_embed",
               "positions are those of the model's own grid")  # fmt: skip
