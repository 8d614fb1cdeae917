"""The files that follow from the answers: config.json, the datasets and the prompts. Pure."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sd3tune.config.config import MODELS, PATHS, TEXTS, absolute
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.files.reading import read_words
from sd3tune.config.files.settings_file import LENGTHS, renamed
from sd3tune.config.problems import COMMAND_LINE, Problems
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.configure.image_folder import ID, ImageFolder
from sd3tune.errors import ConfigError
from sd3tune.sd3.variants import Model
from sd3tune.tables.presets import PRESETS, Preset

DATASETS, PROMPTS = "multidatabackend.json", "user_prompt_library.json"
AUTOMATIC = "automatic"  # quality: the planner decides everything
NONE = "none"
SEED = 42
SHARE_OF_LENGTH = 5  # warm-up takes at most a fifth of a run
OF_PICTURES = (
    "validation_prompt", "user_prompt_library", "validation_disable", "validation_prompt_library",
)  # fmt: skip
OF_LORA = "lora_"


@dataclass(frozen=True)
class Documents:
    """What is written; JSON values."""

    config: Mapping[str, Any]
    datasets: Sequence[Mapping[str, Any]]
    prompts: Mapping[str, str]


@dataclass(frozen=True)
class Paths:
    """How paths are written: relative to the project where they lie in it, unless `absolute`.
    config: the file that the documents are for."""

    project: Path
    config: Path
    absolute: bool = False

    def shown(self, path: Path) -> str:
        """A path as a file says it."""
        whole = path if path.is_absolute() else self.project / path
        if self.absolute or not whole.is_relative_to(self.project):
            return str(whole)
        return os.path.relpath(whole, self.project)

    def beside(self, name: str) -> str:
        """A file beside config.json."""
        return os.path.relpath(self.config.absolute().with_name(name), self.project)


@dataclass(frozen=True)
class AskedRun:
    """The answers, as values. words: `key=value` of the command line, which win. quality: a preset
    by memory or a recipe; None: everything is left to the planner. length: steps, or epochs."""

    source: str
    model: Model
    folder: ImageFolder
    purpose: Preset
    word: str
    length: Mapping[str, int]
    quality: Preset | None
    prompts: tuple[str, ...]
    output: Path
    tracker: str
    words: tuple[str, ...] = ()


def documents(asked: AskedRun, paths: Paths) -> Documents:
    """Raises ConfigError for words that are not KEY=VALUE."""
    typed = {k: _as_file_says(k, v, paths) for k, v in typed_settings(asked.words).items()}
    if "data_backend_config" in typed:
        raise ConfigError(
            "`data_backend_config` cannot be set here: configure writes that file",
            hint=f"leave it out; {DATASETS} is written beside the configuration",
        )
    of_dataset = {k: v for k, v in typed.items() if _belongs_to_dataset(k)}
    of_run = {k: v for k, v in typed.items() if k not in of_dataset}
    prompts = {} if of_run.keys() & {*OF_PICTURES} else _library(asked.prompts)
    if length := {name: of_run[name] for name in LENGTHS if isinstance(of_run.get(name), int)}:
        asked = replace(asked, length=length)
    chosen = _config(asked, paths, bool(prompts))
    if of_run.keys() & {*OF_PICTURES}:
        chosen.pop("validation_disable", None)
    if of_run.keys() & {"model_flavour"}:
        chosen.pop("pretrained_model_name_or_path")
    config = chosen | of_run
    entry, *others = _datasets(asked, paths, config)
    # What is typed for the run is the default of the dataset, whose own key would win over it.
    entry = {k: v for k, v in entry.items() if k not in of_run} | of_dataset
    return Documents(config, [entry, *others], prompts)


def _as_file_says(name: str, value: Any, paths: Paths) -> Any:
    """A path of the command line starts where the user stands; in a file it starts at the
    project."""
    if name not in (*PATHS, *MODELS) or not isinstance(value, str):
        return value
    whole = absolute(name, value, Path.cwd(), COMMAND_LINE)
    return paths.shown(Path(whole)) if Path(whole).is_absolute() else whole


def _config(asked: AskedRun, paths: Paths, library: bool) -> dict[str, Any]:
    chosen = dict(asked.purpose.settings)
    if asked.quality is not None:
        chosen |= asked.quality.settings_for(asked.model.name)
    if chosen["model_type"] == "full":
        chosen = {k: v for k, v in chosen.items() if not k.startswith(OF_LORA)}
    chosen["resolution"] = min(chosen.get("resolution", 1024), usual_resolution(asked.model))
    _shorten_warmup(chosen, asked.length)
    pictures: dict[str, Any] = {"validation_disable": True}
    if library:
        pictures = {"user_prompt_library": paths.beside(PROMPTS)}
    else:
        chosen = {k: v for k, v in chosen.items() if not k.startswith("validation_")}
    local = Path(asked.source).exists() and Path(asked.source).is_absolute()
    head = {
        "model_type": chosen.pop("model_type"),
        "model_family": "sd3",
        "pretrained_model_name_or_path": (
            paths.shown(Path(asked.source)) if local else asked.source
        ),
        "output_dir": paths.shown(asked.output),
        "data_backend_config": paths.beside(DATASETS),
        "seed": SEED,
    }
    tracker = {} if asked.tracker == NONE else {"report_to": asked.tracker}
    return {**head, **asked.length, **chosen, **pictures, **tracker}


def _shorten_warmup(chosen: dict[str, Any], length: Mapping[str, int]) -> None:
    """A warm-up that takes more than its share of a short run would never reach the peak."""
    steps = length.get("max_train_steps")
    warmup = chosen.pop("lr_warmup_steps", 0)
    if steps is not None:
        warmup = min(warmup, steps // SHARE_OF_LENGTH)
    if warmup and steps is not None:
        chosen["lr_warmup_steps"] = warmup


def usual_resolution(model: Model) -> int:
    """1024, or what a model with fewer positions draws in any aspect up to 1 to 3, in pixels."""
    side = model.transformer.longest_side // 3 // 64 * 64
    return max(64, min(1024, side))


def _datasets(asked: AskedRun, paths: Paths, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The images first."""
    folder = asked.folder
    masked = asked.quality is None or asked.quality.masks
    masks = folder.masks if masked else None
    entry: dict[str, Any] = {
        "id": ID,
        "type": "local",
        "instance_data_dir": paths.shown(folder.path),
        "caption_strategy": folder.caption_strategy,
    }
    if folder.caption_strategy == "instanceprompt":
        entry["instance_prompt"] = asked.purpose.caption.format(word=asked.word).strip()
    elif asked.word:
        entry |= {"instance_prompt": asked.word, "prepend_instance_prompt": True}
    if repeats := _repeats(folder, config):
        entry["repeats"] = repeats
    if masks is not None:
        entry["conditioning_data"] = "masks"
    listed = [entry]
    if masks is not None:
        listed.append({
            "id": "masks", "type": "local", "dataset_type": "conditioning",
            "conditioning_type": "mask", "instance_data_dir": paths.shown(masks),
        })  # fmt: skip
    text = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True}
    return [*listed, text]


def _repeats(folder: ImageFolder, config: Mapping[str, Any]) -> int:
    """Extra passes that a small dataset needs to fill one optimizer step."""
    sizes = (config.get("train_batch_size"), config.get("gradient_accumulation_steps"))
    batch, accumulated = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
    images = folder.captioned if folder.caption_strategy == "textfile" else len(folder.samples)
    return max(0, -(-batch * accumulated // max(1, images)) - 1)


def _library(prompts: Sequence[str]) -> dict[str, str]:
    """Shortname -> prompt; a shortname is the first words of its prompt."""
    library: dict[str, str] = {}
    for prompt in prompts:
        name = "-".join(re.findall(r"[a-z0-9]+", prompt.lower())[:4])[:40] or "prompt"
        taken = {*library, "validation", "unconditional"}
        free = (n for i in range(1, 1000) if (n := name if i == 1 else f"{name}-{i}") not in taken)
        library[next(free)] = prompt
    return library


def typed_settings(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words under today's names. Raises ConfigError."""
    problems = Problems()
    written = renamed(read_words(words, problems, TEXTS), problems)
    if found := problems.ordered():
        raise ConfigError.of(found)
    return written.values


def _belongs_to_dataset(key: str) -> bool:
    return key in ImageDataset.model_fields and key not in AllSettings.model_fields


def preset_named(name: str, kinds: Sequence[str] = ("memory", "recipe", "purpose")) -> Preset:
    """The preset of that name. Raises ConfigError."""
    try:
        PRESETS.check(name)
    except ValueError as e:
        raise ConfigError(
            f"the preset `{name}` {e}", hint="`sd3tune configure --presets` lists them"
        ) from None
    row = PRESETS[name]
    if row.kind not in kinds:
        raise ConfigError(
            f"`{name}` is a preset by {row.kind}", hint="`sd3tune configure --presets` lists them"
        )
    return row
