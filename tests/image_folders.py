"""Datasets for tests: image files of a few bytes, and their settings."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data.discover import Discovery, discover
from sd3tune.data.headers import formats
from sd3tune.data.sources import source_of


def picture(path: Path, size: tuple[int, int] = (96, 64), colour: Any = "white") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def shown(path: Path) -> Image.Image:
    """The image of a file, which is closed again."""
    with Image.open(path) as image:
        whole: Image.Image = image.copy()
        return whole


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of its file, also in the formats that are optional."""
    formats()
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def dataset(folder: Path, **more: Any) -> ImageDataset:
    base = {
        "id": "d",
        "instance_data_dir": folder,
        "resolution": 64,
        "resolution_type": "pixel_area",
        "cache_dir_vae": folder.parent / "cache",
    }
    return ImageDataset(**(base | more))


def found(folder: Path, **more: Any) -> Discovery:
    settings = dataset(folder, **more)
    return discover(settings, source_of(settings))


def captions(discovery: Discovery) -> dict[str, tuple[str, ...]]:
    return {s.name: s.captions for s in discovery.samples}


def reasons(discovery: Discovery) -> dict[str, str]:
    return {Path(r.path).name: r.reason for r in discovery.rejected}
