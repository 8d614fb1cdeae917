"""OneTrainer's concepts (its datasets) and samples (its prompts), inside its configuration or in
files of their own.

Source: the keys of its files and its wiki (Concepts); its program (AGPL) was not read.
"""

from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening
from sd3tune.imports import shared_rules as rules
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.kohya_datasets import identifier, shuffled, square
from sd3tune.imports.prompt_lines import add_prompts
from sd3tune.imports.translation import Translation, flattened


def concepts_of(t: Translation, concepts: Any, document: Document) -> None:
    t.choose("OneTrainer drops captions only where a text encoder says so",
             caption_dropout_probability=0.0)  # fmt: skip
    masked = rules.flag(t.take("masked_training", False))
    named = t.take("concept_file_name")
    if not isinstance(concepts, list) and named:
        path = document.folder / str(named)
        if opening.is_regular(path):
            try:
                concepts = opening.json_of(path)
            except (ValueError, OSError) as e:
                raise ConfigError(f"`{path}` cannot be read: {e}", hint="correct it") from None
        else:
            t.drop("concept_file_name", named, "is not there: import the list of concepts too")
    for concept in concepts if isinstance(concepts, list) else []:
        if isinstance(concept, dict) and concept.get("path"):
            _concept(t, concept, document)
        else:
            t.drop("concepts", str(concept)[:60], "has no path")
    if masked:
        t.drop("masked_training", True, "masks lie beside the images there (NAME-masklabel.png): "
               "move them into a folder of their own and name it in conditioning_data")  # fmt: skip
        t.drop_all("unmasked_probability unmasked_weight normalize_masked_area_loss",
                   "see masked_training")  # fmt: skip


def _concept(t: Translation, concept: dict[str, Any], document: Document) -> None:
    left = flattened(concept)
    written = frozenset(left)
    path = left.pop("path")
    folder = rules.path_of(path, document.folder)
    name = str(left.pop("name", "") or "")
    entry: dict[str, Any] = {"id": identifier(name or folder), "type": "local",
                             "instance_data_dir": folder}  # fmt: skip
    mapped: dict[str, tuple[Any, str]] = {"path": (path, "instance_data_dir")}

    def put(key: str, value: Any, **ours: Any) -> None:
        entry.update(ours)
        mapped[key] = (value, next(iter(ours)))

    if left.pop("enabled", True) is False:
        put("enabled", False, disabled=True)
    times = rules.number(left.pop("balancing", left.pop("repeats", 1)), "balancing", document.where)
    if str(left.pop("balancing_strategy", "REPEATS")).upper() == "SAMPLES":
        put("balancing", times, max_num_samples=max(1, round(times)))
    else:
        put("balancing", times, repeats=max(0, round(times) - 1))
        if times != round(times):
            t.drop("balancing", times, "is rounded: repeats are whole passes")
    source = str(left.pop("text.prompt_source", "sample")).lower()
    prompt = left.pop("text.prompt_path", None)
    if source == "sample":
        put("text.prompt_source", source, caption_strategy="textfile")
    elif source == "filename":
        put("text.prompt_source", source, caption_strategy="filename")
    else:
        put("text.prompt_source", source, caption_strategy="textfile")
        t.drop("text.prompt_path", prompt, "one file of captions for all images has no equivalent: "
               "write them beside the images or into a csv")  # fmt: skip
    if left.pop("text.enable_tag_shuffling", False):
        kept = left.pop("text.keep_tags_count", 1)
        put("text.enable_tag_shuffling", True, caption_shuffle=shuffled(kept))
    if left.pop("image.enable_resolution_override", False):
        size = left.pop("image.resolution_override", "512")
        put("image.resolution_override", size, resolution=square(str(size).split(",")[0]))
    if str(left.pop("type", "STANDARD")).upper() == "PRIOR_PREDICTION":
        put("type", "PRIOR_PREDICTION", is_regularisation_data=True)
    for key, value in left.items():
        _rest_of_concept(t, key, value)
    t.dataset(entry, {k: row for k, row in mapped.items() if k in written}, written)


def _rest_of_concept(t: Translation, key: str, value: Any) -> None:
    switches = ("image.enable_", "text.tag_dropout", "text.caps_random")
    harmless = ("seed", "image_variations", "text_variations", "include_subdirectories",
                "loss_weight", "keep_tags_count", "tag_delimiter")  # fmt: skip
    is_off = value in (None, False, "", 0, [], {})
    is_number = key.startswith("image.random_") or key.endswith(harmless)
    if is_off or is_number or not key.startswith((*switches, "image.", "text.")):
        t.idle.append(f"concept {key}") if key not in t.idle else None
    elif key.startswith(switches):
        t.drop_once(key, value, "images and captions are trained as they are: no augmentation")
    else:
        t.drop_of_dataset(key, value)


def samples_of(t: Translation, samples: Any, document: Document) -> None:
    named = t.take("sample_definition_file_name")
    if not isinstance(samples, list) and named:
        path = document.folder / str(named)
        try:
            samples = opening.json_of(path) if opening.is_regular(path) else None
        except (ValueError, OSError):
            samples = None
        if samples is None:
            t.drop("sample_definition_file_name", named, "is not there: write its prompts into a "
                   "user_prompt_library")  # fmt: skip
    prompts = [s.get("prompt") for s in samples or [] if isinstance(s, dict)]
    add_prompts(t, "samples", f"{len(prompts)} samples", prompts)
