"""Keeps a run from training on its own output: datasets exclude the folders that a run writes
to."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import Datasets
from sd3tune.data.sources import Source
from sd3tune.errors import ConfigError

PICTURES = "validation_images"  # in output_dir
PREVIEWS = f"{PICTURES}/previews"  # in output_dir: the newest preview of each prompt
BASE_PICTURES = "benchmarks/base_model"  # in output_dir: pictures of the model before any training
ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp"}  # by validation_image_format


def picture_name(shortname: str, index: int, size: tuple[int, int], image_format: str) -> str:
    """prompt_0_1024x1024.png. size: width and height in pixels."""
    return f"{shortname}_{index}_{size[0]}x{size[1]}.{ENDINGS[image_format]}"


def of_step(step: int, name: str) -> str:
    """step_500_prompt_0_1024x1024.png"""
    return f"step_{step}_{name}"


def folders(config: Config, datasets: Datasets) -> tuple[Path, ...]:
    """The folders that this run writes to: output_dir and caches. They may not exist yet."""
    texts = [t.cache_dir for t in datasets.texts.values()]
    latents = [d.cache_dir_vae for d in datasets.all]
    fetched = [d.csv_cache_dir for d in (*datasets.all, *datasets.masks.values())]
    return (config.output_dir, *texts, *latents, *(f for f in fetched if f is not None))


def refuse_own_pictures(config: Config, datasets: Datasets) -> None:
    """Raises ConfigError if the folder of a dataset is output_dir itself or its folder of
    validation pictures."""
    output = config.output_dir.resolve()
    for name, folder in _image_folders(datasets):
        real = folder.resolve()
        own = (output / PICTURES, (output / BASE_PICTURES).parent)
        if real == output or any(real.is_relative_to(folder) for folder in own):
            what = "output_dir itself" if real == output else "a folder for pictures of this run"
            raise ConfigError(
                f"dataset `{name}`: `instance_data_dir={folder}` is {what}: the run would train on "
                "its own pictures",
                hint="choose another output_dir; inside the folder of a dataset it is left out",
            )


def refuse_as_image(config: Config, datasets: Datasets, sheet: Path) -> None:
    """Raises ConfigError if the contact sheet would be in a dataset, whose next run would train on
    it."""
    real = sheet.resolve()
    for name, folder in _image_folders(datasets):
        inside = real.is_relative_to(folder.resolve())
        if inside and not real.is_relative_to(config.output_dir.resolve()):
            raise ConfigError(
                f"`--sheet {sheet}` lies in dataset `{name}`, which would train on it",
                hint="write it elsewhere; left out, it goes to output_dir",
            )


def notes(sources: Mapping[str, Source]) -> Iterator[str]:
    """One sentence for each excluded folder."""
    for name, source in sources.items():
        for path in source.left_out:
            yield f"dataset `{name}`: {path} is left out: a run writes there"


def _image_folders(datasets: Datasets) -> Iterator[tuple[str, Path]]:
    for d in (*datasets.all, *datasets.masks.values()):
        if d.type == "local" and d.instance_data_dir is not None:
            yield d.id, d.instance_data_dir
