"""An adapter of another trainer as the beginning of a run: init_lora, rank, alpha, trigger word,
and from sd-scripts' metadata (`ss_*`) the settings it was trained with.

Source of the names: sd-scripts' train_network.py (Apache-2.0), Stability's modelspec 1.0.1, and the
metadata that OneTrainer and ai-toolkit write into their files.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from sd3tune.filesystem import opening, safetensors_header
from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats.adapter_description import describe
from sd3tune.formats.initial_adapter import refuse_unfit
from sd3tune.imports import kohya, onetrainer
from sd3tune.imports import shared_rules as rules
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.translation import Chosen, Translation
from sd3tune.tables.architectures import ARCHITECTURES

# ss_ names of sd-scripts -> its options; `ss_` plus the option's name needs no entry.
SS_NAMES = {
    "ss_num_train_images": "", "ss_num_epochs": "max_train_epochs", "ss_epoch": "",
    "ss_sd_model_name": "pretrained_model_name_or_path", "ss_lr_warmup_steps": "lr_warmup_steps",
    "ss_gradient_accumulation_steps": "gradient_accumulation_steps",
    "ss_batch_size_per_device": "train_batch_size", "ss_optimizer": "optimizer_type",
}  # fmt: skip
SS_SETTINGS = (
    "learning_rate unet_lr network_dim network_alpha network_dropout mixed_precision seed "
    "gradient_checkpointing max_train_steps lr_scheduler max_grad_norm weighting_scheme logit_mean "
    "logit_std mode_scale training_shift min_snr_gamma noise_offset caption_dropout_rate loss_type "
    "huber_c huber_schedule"
).split()
TRIGGERS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_word", "ss_trigger_words",
            "activation text")  # fmt: skip
STEPS = ("ss_steps", "sd3tune_step", "ss_training_steps")


def is_adapter_file(path: Path) -> bool:
    """Whether the content is a safetensors file: the length of its header, then an object."""
    try:
        with opening.opened(path) as f:
            start = f.read(9)
        return (
            len(start) == 9
            and 0 < int.from_bytes(start[:8], "little") < 10**8
            and (start[8:] == b"{")
        )
    except OSError:
        return False


def adapter_translation(path: Path) -> Translation:
    """A run that continues an adapter. Raises ModelError where it cannot be read, and ConfigError
    where its metadata holds no numbers."""
    header = safetensors_header.read(path)
    settings, inner = training_settings(header), onetrainer_config(path, header)
    if settings:
        t = kohya.translate(Document(path, "toml", settings))
        t.trainer = f"an adapter of {kohya.NAME}"
    elif inner is not None:
        t = onetrainer.translate(inner)
        t.trainer = f"an adapter of {onetrainer.NAME}"
    else:
        t = Translation("an adapter", {})
        rules.results_folder(t, "")
    continue_from(t, path)
    return t


def continue_from(t: Translation, path: Path) -> None:
    """Lets the run begin with an adapter. Raises ModelError, and ConfigError for a file that no run
    begins with."""
    header = safetensors_header.read(path)
    seen = describe(header)
    ranks = [int(rank) for rank in seen.ranks]
    rank = max(ranks, default=0)
    refuse_unfit(path, lycoris=False, rank=10**6)
    t.map("adapter", path.name, init_lora=str(path.absolute()))
    if rank:
        t.map("its tensors: rank", rank, lora_rank=rank)
        scale = Counter(seen.scales).most_common(1)[0][0] if seen.scales else "1"
        alpha = float(f"{float(scale) * rank:.7g}")
        t.map(f"its {seen.alpha_from}: alpha", alpha, lora_alpha=alpha)
    t.config.setdefault("lora_dropout", 0.0)
    if seen.model in ARCHITECTURES and "pretrained_model_name_or_path" not in t.config:
        t.map("its tensors: model", seen.model, model_flavour=seen.model)
    if (steps := steps_before(header)) is not None:
        reason = f"{steps} steps were trained before; steps of this run count from 0"
        t.chosen.append(Chosen("max_train_steps", t.config.get("max_train_steps"), reason))
    if (word := trigger(header)) is not None:
        t.chosen.append(Chosen("instance_prompt", word, "the trigger word of the adapter: captions "
                        "of the dataset should have it"))  # fmt: skip
        for dataset in t.datasets:
            if dataset.get("caption_strategy") == "instanceprompt":
                dataset.setdefault("instance_prompt", word)


def onetrainer_config(path: Path, header: Header) -> Document | None:
    """The configuration that OneTrainer writes into its files where it is told to."""
    for text in header.metadata.values():
        if text.startswith("{") and "training_method" in text:
            document = Document(path, "json", _parsed(text))
            if onetrainer.recognised(document):
                return document
    return None


def steps_before(header: Header) -> str | None:
    """How many steps the adapter was trained, as its metadata says."""
    info = _parsed(header.metadata.get("training_info", ""))  # ai-toolkit
    if isinstance(info.get("step"), int):
        return str(info["step"])
    return next((header.metadata[key][:20] for key in STEPS if key in header.metadata), None)


def trigger(header: Header) -> str | None:
    """The trigger word: as the metadata states it, or the tag that every caption had."""
    for key in TRIGGERS:
        if text := header.metadata.get(key, "").strip():
            return text.split("\n")[0][:200]
    frequency = _parsed(header.metadata.get("ss_tag_frequency", ""))
    counts: Counter[str] = Counter()
    for tags in frequency.values():
        counts.update({k: v for k, v in tags.items() if isinstance(v, int)}
                      if isinstance(tags, dict) else {})  # fmt: skip
    if not counts:
        return None
    top = counts.most_common(2)
    if len(top) == 1 or top[0][1] > top[1][1]:
        return top[0][0].strip()[:200] or None
    return None


def training_settings(header: Header) -> dict[str, Any]:
    """The options of sd-scripts that its metadata holds; empty where another program wrote it."""
    data = header.metadata
    if "ss_network_module" not in data and "ss_learning_rate" not in data:
        return {}
    found: dict[str, Any] = {"network_module": data.get("ss_network_module", "networks.lora_sd3")}
    for key, text in data.items():
        name = SS_NAMES.get(key, key.removeprefix("ss_"))
        if (name in SS_SETTINGS or key in SS_NAMES) and name and text not in ("None", ""):
            found[name] = _scalar(text)
    if "max_train_epochs" in found and "max_train_steps" in found:
        found.pop("max_train_epochs")
    _optimizer(found)
    found.pop("pretrained_model_name_or_path", None)
    if datasets := _datasets(data):
        found["datasets"] = datasets
    return found


def _optimizer(found: dict[str, Any]) -> None:
    """ "torch.optim.adamw.AdamW(weight_decay=0.01)" as its name and its options."""
    text = str(found.get("optimizer_type", ""))
    if text:
        name, _, options = text.partition("(")
        found["optimizer_type"] = name.rpartition(".")[2]
        if words := [w.strip() for w in options.rstrip(")").split(",") if "=" in w]:
            found["optimizer_args"] = words


def _datasets(data: Any) -> list[dict[str, Any]]:
    """The folders of ss_dataset_dirs, or of ss_datasets, as [[datasets]] has them."""
    dirs = _parsed(data.get("ss_dataset_dirs", ""))
    listed = [
        {"image_dir": name, "num_repeats": d.get("n_repeats", 1)}
        for name, d in dirs.items()
        if isinstance(d, dict) and isinstance(d.get("n_repeats", 1), int)
    ]
    return [{"subsets": listed}] if listed else []


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = opening.parsed(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _scalar(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text
