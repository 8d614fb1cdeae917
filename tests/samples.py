"""Samples made by hand, for tests of what comes after discovery."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data.buckets import Geometry
from sd3tune.data.discover import Sample
from tests.image_folders import dataset

Size = tuple[int, int]


def asked(**settings: Any) -> ImageDataset:
    """The settings of a dataset: 1024 x 1024, cropped at the centre, and what `settings` change."""
    usual = {"resolution": 1024, "resolution_type": "pixel_area", "crop_style": "center"}
    return dataset(Path("images"), **(usual | settings))


def sample(
    name: str,
    resized: Size = (64, 64),
    crop: Size = (0, 0),
    bucket: Size = (64, 64),
    dataset: str = "d",
    **more: Any,
) -> Sample:
    shape = Geometry(resized, crop, bucket, bucket[0] / bucket[1])
    number = int.from_bytes(blake2b(f"{dataset} {name}".encode(), digest_size=2).digest(), "big")
    captions = more.pop("captions", (name,))
    return Sample(dataset, f"/data/{name}", name, resized, captions, shape, number, **more)


def many(counts: dict[tuple[int, int], int], dataset: str = "d", **more: Any) -> list[Sample]:
    return [
        sample(f"{w}x{h}-{i}.png", (w, h), bucket=(w, h), dataset=dataset, repeats=i % 2, **more)
        for (w, h), count in counts.items()
        for i in range(count)
    ]
