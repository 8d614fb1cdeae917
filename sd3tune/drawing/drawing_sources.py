"""What to draw with: adapters, the run they come from, and the base model, found from the words
that the user gave. Reads names, headers and JSON; no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sd3tune.config.files.local_names import names_a_path
from sd3tune.drawing.run_record import RunRecord, run_around, run_at
from sd3tune.errors import ConfigError, ModelError
from sd3tune.filesystem import opening, safetensors_header
from sd3tune.formats import file_metadata, finished_run
from sd3tune.formats.adapter_description import describe, is_adapter
from sd3tune.formats.adapter_folder import adapter_of, adapters_in
from sd3tune.sd3 import configs, single
from sd3tune.sd3.models import ModelRequest
from sd3tune.tables.architectures import ARCHITECTURES, of_repository

STRENGTH = re.compile(r"(?P<path>.+):(?P<strength>[+-]?\d+(?:\.\d*)?|[+-]?\.\d+)")
PEFT_CONFIG = "adapter_config.json"  # of peft's save_pretrained
MOST_STRENGTH = 100.0
RESULT = Path(finished_run.MODEL).parts[0]  # folder of the result of full training


@dataclass(frozen=True)
class AdapterSource:
    """An adapter file and how strongly it is applied."""

    path: Path
    strength: float = 1.0


@dataclass(frozen=True)
class Sources:
    """What to draw with. because: how the base model was found. weights: `base`, `last` or `ema`.
    step: of training, where the file says it. title: of the adapters, for people."""

    model: ModelRequest
    because: str
    adapters: tuple[AdapterSource, ...] = ()
    run: RunRecord | None = None
    weights: str = "base"
    step: int | None = None
    title: str | None = None
    notes: tuple[str, ...] = ()


def find_sources(
    source: str,
    more: Sequence[str] = (),
    *,
    model: str | None = None,
    strength: float = 1.0,
) -> Sources:
    """source: an adapter, an output folder, a checkpoint or a model; more: further adapters; each
    adapter may end with `:STRENGTH`. model: the base model, where the user named it. strength: of
    adapters without one. Raises ConfigError and ModelError."""
    path, own = split_strength(source, strength)
    if whole := _whole_model(path):
        if own != strength:
            raise ConfigError(
                f"`{source}` is a model, which has no strength", hint="leave the number out"
            )
        return _with_more(_of_model(whole, source), more, strength, model)
    if not path.exists():
        _refuse_missing(source, path)
    found, notes, run = _adapter_in(path)
    first = AdapterSource(found, own)
    request, because = _base(model, run, found)
    metadata = safetensors_header.read(found).metadata
    made = Sources(
        request,
        because,
        (first,),
        run,
        _weights_of(found, run),
        _step(metadata.get(file_metadata.STEP)),
        metadata.get("modelspec.title") or found.stem,
        notes,
    )
    return _with_more(made, more, strength, None)


def split_strength(text: str, otherwise: float) -> tuple[Path, float]:
    """`a.safetensors:0.8` as path and strength. A path that exists as it is written has none."""
    match = STRENGTH.fullmatch(text)
    if match is None or Path(text).exists():
        return Path(text), otherwise
    value = float(match["strength"])
    if abs(value) > MOST_STRENGTH:
        raise ConfigError(
            f"`{text}`: a strength of {value:g} is not usable",
            hint=f"1 is the adapter as it was trained; at most {MOST_STRENGTH:g}",
        )
    return Path(match["path"]), value


def is_adapter_word(word: str) -> bool:
    """Whether a word beside the prompts names a further adapter: no prompt ends like a file."""
    return split_strength(word, 1.0)[0].suffix == ".safetensors"


def _whole_model(path: Path) -> str | None:
    """The model that a word names: a diffusers folder, the result of full training in an output
    folder, a single file or a repository. None: it is something else, or nothing."""
    if path.is_dir():
        if (path / configs.INDEX).exists():
            return str(path)
        pipeline = (path / finished_run.MODEL).parents[1]
        return str(pipeline) if (pipeline / configs.INDEX).exists() else None
    if path.is_file():
        if path.suffix != ".safetensors":
            return None
        found = safetensors_header.read(path)
        whole = single.is_original(found.tensors) and not is_adapter(found)
        return str(path) if whole else None
    text = str(path)
    return None if names_a_path(text, Path.cwd()) else text


def _of_model(whole: str, source: str) -> Sources:
    """A model alone; of the result of full training, also its run."""
    alone = Sources(ModelRequest(whole), f"{source} is a model")
    run = run_around(Path(whole)) if Path(whole).is_dir() else None
    if run is None or Path(whole).name != RESULT:
        return alone
    try:
        found = safetensors_header.read(Path(whole).parent / finished_run.MODEL).metadata
    except ModelError:
        return alone
    return Sources(
        ModelRequest(whole),
        f"the result of the run in {run.folder}",
        run=run,
        weights="ema" if run.settings.use_ema else "last",
        step=_step(found.get(file_metadata.STEP)),
        title=found.get("modelspec.title"),
    )


def _refuse_missing(source: str, path: Path) -> None:
    hint = "give an adapter file, the output folder of a run, a model folder or a repository"
    near = sorted(path.parent.glob("*.safetensors"))[:3] if path.parent.is_dir() else []
    if near:
        hint += f"; beside it are {', '.join(p.name for p in near)}"
    raise ConfigError(f"`{source}` does not exist", hint=hint)


def _adapter_in(path: Path) -> tuple[Path, tuple[str, ...], RunRecord | None]:
    """The adapter file that a path means, sentences about the choice, and its run."""
    run = run_at(path) if path.is_dir() else None
    if run is not None and not _results(path):
        file = adapter_of(run.checkpoint)
        return file, (f"{path} has no result yet: {run.checkpoint.name} is used",), run
    file = adapter_of(path)
    _refuse_other_kinds(file)
    return file, (), run or run_around(file)


def _results(folder: Path) -> bool:
    try:
        return bool(adapters_in(folder))
    except OSError:
        return False


def _refuse_other_kinds(file: Path) -> None:
    if file.suffix != ".safetensors":
        raise ModelError(
            f"`{file}` is not a safetensors file", hint="give an adapter in safetensors format"
        )
    found = safetensors_header.read(file)
    if not is_adapter(found):
        raise ModelError(
            f"`{file}` is not an adapter of SD3",
            hint=f"`sd3tune inspect {file}` says what the file is",
        )
    seen = describe(found)
    if (verdict := seen.readers["sd3tune"]).reads == "no":
        raise ModelError(
            f"`{file}` cannot be used: {verdict.reason}",
            hint=f"`sd3tune inspect {file}` says what the file is",
        )


def _with_more(made: Sources, more: Sequence[str], strength: float, model: str | None) -> Sources:
    """The same with further adapters. model: refused here, where the source is a model itself."""
    if model is not None:
        raise ConfigError(
            f"`--model {model}`: the first argument is a model already",
            hint="give one of the two, and adapters with --adapter",
        )
    adapters, titles = list(made.adapters), [made.title] if made.title and made.adapters else []
    for word in more:
        path, own = split_strength(word, strength)
        if not path.exists():
            _refuse_missing(word, path)
        file, _, _ = _adapter_in(path)
        adapters.append(AdapterSource(file, own))
        titles.append(file.stem)
    return Sources(
        made.model,
        made.because,
        tuple(adapters),
        made.run,
        made.weights if made.weights != "base" or not adapters else "last",
        made.step,
        " + ".join(titles) or made.title,
        made.notes,
    )


def _base(model: str | None, run: RunRecord | None, file: Path) -> tuple[ModelRequest, str]:
    """The base model of an adapter, and how it was found: named, of its run, or by its file."""
    if model is not None:
        return ModelRequest(model), "given with --model"
    if run is not None:
        return run.model(), f"the base model of the run in {run.folder}"
    found = safetensors_header.read(file)
    beside = _of_peft(file.parent / PEFT_CONFIG)
    stated = (found.metadata.get("ss_sd_model_name"), "its metadata"), (beside, PEFT_CONFIG)
    for name, where in stated:
        if name and (of_repository(name) is not None or Path(name).is_dir()):
            return ModelRequest(name), f"{where} of {file.name} names it"
    named, because = describe(found).model, describe(found).because
    if named in ARCHITECTURES and "same width" not in because:
        why = f"{file.name} is of {named}: {because}"
        return ModelRequest(ARCHITECTURES[named].repository), why
    said = next((name for name, _ in stated if name), None)
    words = f", which names `{said}`" if said else ""
    raise ConfigError(
        f"the base model of `{file}`{words} is not known here: it is an adapter of {named}",
        hint="give it: --model FOLDER, a repository, or a single file",
    )


def _of_peft(path: Path) -> str | None:
    try:
        found = opening.json_object(path).get("base_model_name_or_path")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _weights_of(file: Path, run: RunRecord | None) -> str:
    """`ema` for the result of a run that averages; a checkpoint and `last/` hold the last
    values."""
    averaged = run is not None and run.settings.use_ema and file.parent == run.folder
    return "ema" if averaged else "last"


def _step(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
