"""Samples made by hand, for tests of what comes after discovery."""

from dataclasses import dataclass
from hashlib import blake2b

from sd3tune.data.buckets import Geometry
from sd3tune.data.discover import Sample


@dataclass(frozen=True)
class Asked:
    """The settings of a dataset that geometry reads, as a dataset has them by default."""

    crop: bool = False
    crop_aspect: str = "square"
    crop_style: str = "center"
    resolution: float = 1024
    resolution_type: str = "pixel_area"
    minimum_image_size: float | None = None
    maximum_image_size: float | None = None
    target_downsample_size: float | None = None
    max_upscale_threshold: float | None = None
    minimum_aspect_ratio: float | None = None
    maximum_aspect_ratio: float | None = None
    aspect_bucket_rounding: int = 2
    aspect_bucket_alignment: int = 64
    crop_aspect_buckets: tuple[tuple[float, float], ...] = ()


def sample(  # type: ignore[no-untyped-def]
    name: str, resized=(64, 64), crop=(0, 0), bucket=(64, 64), dataset: str = "d", **more
) -> Sample:
    shape = Geometry(resized, crop, bucket, bucket[0] / bucket[1])
    number = int.from_bytes(blake2b(f"{dataset} {name}".encode(), digest_size=2).digest(), "big")
    captions = more.pop("captions", (name,))
    return Sample(dataset, f"/data/{name}", name, resized, captions, shape, number, **more)


def many(counts: dict[tuple[int, int], int], dataset: str = "d", **more) -> list[Sample]:  # type: ignore[no-untyped-def]
    return [
        sample(f"{w}x{h}-{i}.png", (w, h), bucket=(w, h), dataset=dataset, repeats=i % 2, **more)
        for (w, h), count in counts.items()
        for i in range(count)
    ]
