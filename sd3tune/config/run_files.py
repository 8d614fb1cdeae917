"""All files of a run: config.json, datasets, prompts and LyCORIS configuration, with the problems
of all of them at once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sd3tune.config.config import Config, Reading, read
from sd3tune.config.datasets.listing import Datasets, read_datasets
from sd3tune.config.files.lycoris_config import load_lycoris
from sd3tune.config.files.prompts import load_prompts
from sd3tune.errors import ConfigError, ErrorAndHint

T = TypeVar("T")


def load_run(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, Datasets]:
    """The file at `path` with the command line's `key=value` words, and the datasets it names.
    Raises ConfigError with all problems, those of config.json first."""
    reading = read(path, overrides)
    problems = [*reading.problems]
    datasets = _collected(lambda: _datasets(reading, problems), problems)
    settings, wrong = reading.settings, reading.wrong
    if wrong.isdisjoint(("user_prompt_library", "validation_disable")):
        _collected(lambda: load_prompts(settings), problems)
    lycoris = settings.lycoris_config if settings.lora_type == "lycoris" else None
    if lycoris is not None and settings.model_type == "lora" and "lycoris_config" not in wrong:
        _collected(lambda: load_lycoris(lycoris), problems)
    if problems or datasets is None:
        raise ConfigError.of(problems)
    return Config.of(settings), datasets


def _datasets(reading: Reading, problems: list[ErrorAndHint]) -> Datasets | None:
    """problems: gets those of the file. Raises ConfigError where it cannot be read."""
    if "data_backend_config" in reading.wrong:
        return None
    datasets, more = read_datasets(
        reading.settings.data_backend_config, reading.settings, reading.wrong
    )
    problems += more
    return datasets


def _collected(read_file: Callable[[], T], problems: list[ErrorAndHint]) -> T | None:
    """What a file holds; None where it has problems, which go into `problems`."""
    try:
        return read_file()
    except ConfigError as e:
        problems += e.problems
        return None
