"""Both files of a run: config.json and its datasets, with the problems of both at once."""

from collections.abc import Sequence
from pathlib import Path

from sd3tune.config.config import Config, read
from sd3tune.config.datasets.listing import Datasets, read_datasets
from sd3tune.errors import ConfigError


def load_run(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, Datasets]:
    """The file at `path` with the command line's `key=value` words, and the datasets it names.
    Raises ConfigError with all problems, those of config.json first."""
    reading = read(path, overrides)
    problems, datasets = reading.problems, None
    if "data_backend_config" not in reading.wrong:
        try:
            datasets, more = read_datasets(
                reading.settings.data_backend_config, reading.settings, reading.wrong
            )
        except ConfigError as e:
            more = e.problems
        problems += more
    if problems or datasets is None:
        raise ConfigError.of(problems)
    return Config.of(reading.settings), datasets
