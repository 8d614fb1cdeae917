"""The files of a run with everything that is wrong in them and beside them, at once: settings,
datasets, prompts, and what headers and folders tell before a device is asked."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from sd3tune import preflight
from sd3tune.config.config import Config, read
from sd3tune.config.datasets.listing import Datasets
from sd3tune.config.run_files import load_run
from sd3tune.errors import ConfigError, ErrorAndHint, Sd3tuneError


def load_checked(
    path: Path, overrides: Sequence[str], *, here: bool = True
) -> tuple[Config, Datasets]:
    """As `load_run`. Where that refuses something, problems of files and folders that right
    settings name are reported with it. here: the run is for this machine, which must be able to
    write its folders. Raises ConfigError with all of them."""
    try:
        return load_run(path, overrides)
    except ConfigError as e:
        more = _beside(path, overrides, here)
        raise ConfigError.of(list(dict.fromkeys([*e.problems, *more]))) from None


def check_files(path: Path, overrides: Sequence[str]) -> Datasets:
    """The datasets of a run whose files, and whatever they name on this machine, are right. Raises
    ConfigError with everything that is wrong; no image is opened, and no server is asked."""
    config, datasets = load_checked(path, overrides)
    problems = _refused(
        partial(preflight.refuse_closed_folders, config, datasets),
        partial(preflight.refuse_missing_files, config),
    )
    if problems:
        raise ConfigError.of(list(dict.fromkeys(problems)))
    return datasets


def _beside(path: Path, overrides: Sequence[str], here: bool) -> Iterable[ErrorAndHint]:
    """What is wrong in files and folders that the settings name, as far as these are right."""
    try:
        reading = read(path, overrides)
    except ConfigError:  # the file cannot be read, which is known by now
        return ()
    if "output_dir" in reading.wrong:
        return ()
    config = Config.of(reading.settings)
    folders = partial(preflight.refuse_closed_folders, config)
    return _refused(*([folders] if here else []), partial(preflight.refuse_missing_files, config))


def _refused(*checks: Callable[[], None]) -> list[ErrorAndHint]:
    problems: list[ErrorAndHint] = []
    for check in checks:
        try:
            check()
        except Sd3tuneError as e:
            problems += e.problems
    return problems
