"""Computes training sizes from image sizes: resize, crop, bucket. It opens no image.

The arithmetic is SimpleTuner's (docs/concepts/buckets.md). Sides are multiples of 64 (half rounds
to even). The image is resized once, with its own aspect ratio, until it covers the bucket; the rest
is cut off, centred where `crop` is off.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset

Size = tuple[int, int]  # width, height
Focus = tuple[float, float]  # a point, as fractions of width and height
SQUARES = {0.25: 512, 0.5: 768, 1.0: 1024, 2.0: 1536, 4.0: 2048}  # megapixels -> side


@dataclass(frozen=True, slots=True)
class Geometry:
    """How one image is prepared: resize to `resized`, then crop to `bucket` at `crop` (left,
    top)."""

    resized: Size
    crop: tuple[int, int]
    bucket: Size
    aspect: float  # the bucket's key: width / height, two decimals


def geometry(
    size: Size, dataset: "ImageDataset", identity: str, focus: Focus | None = None
) -> Geometry:
    """The geometry of an image. size: (width, height) as a viewer shows it. identity: names the
    image; random choices are a pure function of it. focus: the point that crop_style=face
    centres."""
    square = dataset.crop and dataset.crop_aspect == "square"
    bucket = target(size, dataset, dataset.resolution, square, aspect_of(size, dataset, identity))
    resized = cover(size, bucket)
    if dataset.crop and dataset.maximum_image_size and dataset.target_downsample_size:
        larger = cover(size, target(size, dataset, dataset.target_downsample_size, False))
        if larger[0] * larger[1] != bucket[0] * bucket[1]:
            resized = larger if covers(larger, bucket) else resized
    crop = cut(resized, bucket, dataset.crop_style if dataset.crop else "center", identity, focus)
    return Geometry(resized, crop, bucket, key(bucket, dataset))


def aspect_of(size: Size, dataset: "ImageDataset", identity: str) -> float:
    """The aspect ratio (width / height) of the bucket: the image's own, or one of
    crop_aspect_buckets."""
    raw = size[0] / size[1]
    if dataset.crop and dataset.crop_aspect == "closest":
        return min((a for a, _ in dataset.crop_aspect_buckets), key=lambda a: abs(a - raw))
    if dataset.crop and dataset.crop_aspect == "random":
        at = _dice(f"aspect {identity}") / 2**64
        for aspect, weight in dataset.crop_aspect_buckets:
            at -= weight
            if at < 0:
                return aspect
        return dataset.crop_aspect_buckets[-1][0]  # rounding: weights may sum to less than 1
    return round(raw, dataset.aspect_bucket_rounding) or raw  # a very thin image rounds to 0


def target(
    size: Size,
    dataset: "ImageDataset",
    resolution: float,
    square: bool,
    aspect: float | None = None,
) -> Size:
    """The bucket of an image. resolution: in the unit of resolution_type; square: the bucket is
    square; aspect: width / height, if it is not the image's own."""
    align = dataset.aspect_bucket_alignment
    if aspect is None:
        raw = size[0] / size[1]
        aspect = round(raw, dataset.aspect_bucket_rounding) or raw
    if dataset.resolution_type == "pixel":
        short = int(resolution)
        if square:
            return aligned(short, align), aligned(short, align)
        if aspect >= 1:
            return aligned(int(short * aspect), align), aligned(short, align)
        return aligned(short, align), aligned(int(short / aspect), align)
    megapixels = resolution if dataset.resolution_type == "area" else resolution * resolution / 1e6
    if square:
        return square_side(megapixels, align), square_side(megapixels, align)
    edge = aligned(int(math.sqrt(megapixels * 1e6)), align)
    if size[0] == size[1] and aspect == 1:
        return edge, edge
    root = math.sqrt(aspect)
    return aligned(edge * root, align), aligned(edge / root, align)


def square_side(megapixels: float, align: int) -> int:
    """Side in pixels of a square bucket of that area; usual areas have usual sides (SQUARES)."""
    for usual, side in SQUARES.items():
        if abs(megapixels - usual) <= 0.05:
            return side
    return aligned(math.sqrt(megapixels * 1e6), align)


def aligned(length: float, align: int) -> int:
    """The nearest multiple of `align`, at least `align`; half rounds to even (Python's round)."""
    return max(align, round(length / align) * align)


def cover(size: Size, bucket: Size) -> Size:
    """The smallest size with the image's own aspect ratio that covers the bucket."""
    raw = size[0] / size[1]
    if bucket[0] < bucket[1]:
        width, height = bucket[0], int(bucket[0] / raw)
    else:
        width, height = int(bucket[1] * raw), bucket[1]
    if width < bucket[0]:
        width, height = bucket[0], int(bucket[0] / raw)
    if height < bucket[1]:
        width, height = int(bucket[1] * raw), bucket[1]
    return max(width, bucket[0]), max(height, bucket[1])


def covers(size: Size, bucket: Size) -> bool:
    return size[0] >= bucket[0] and size[1] >= bucket[1]


def cut(
    resized: Size, bucket: Size, style: str, identity: str, focus: Focus | None = None
) -> tuple[int, int]:
    """Left and top of the crop, in pixels of the resized image. style: crop_style."""
    spare = resized[0] - bucket[0], resized[1] - bucket[1]
    if style == "corner":
        return 0, 0
    if style == "random":
        dice = _dice(identity)
        return dice % (spare[0] + 1), (dice >> 32) % (spare[1] + 1)
    if style == "face" and focus is not None:
        left = round(focus[0] * resized[0] - bucket[0] / 2)
        top = round(focus[1] * resized[1] - bucket[1] / 2)
        return min(max(left, 0), spare[0]), min(max(top, 0), spare[1])
    return spare[0] // 2, spare[1] // 2


def _dice(words: str) -> int:
    """64 pseudo-random bits, a pure function of the text."""
    data = words.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def key(bucket: Size, dataset: "ImageDataset") -> float:
    """The name of a bucket: its aspect ratio, rounded."""
    return round(bucket[0] / bucket[1], dataset.aspect_bucket_rounding)


def unwanted(size: Size, shape: Geometry, dataset: "ImageDataset") -> str | None:
    """The reason why the settings exclude an image; None if they do not."""
    if (small := too_small(size, dataset)) is not None:
        return small
    low, high = dataset.minimum_aspect_ratio, dataset.maximum_aspect_ratio
    if low is not None and shape.aspect < low:
        return f"its bucket {shape.aspect:g} is below minimum_aspect_ratio={low:g}"
    if high is not None and shape.aspect > high:
        return f"its bucket {shape.aspect:g} is above maximum_aspect_ratio={high:g}"
    most, grown = dataset.max_upscale_threshold, enlarged(size, shape) - 1
    if most is not None and grown > most:
        return f"it would be enlarged by {grown:.0%}, above max_upscale_threshold={most:g}"
    return None


def enlarged(size: Size, shape: Geometry) -> float:
    """The factor by which the image is enlarged; below 1 it is reduced."""
    return max(shape.resized[0] / size[0], shape.resized[1] / size[1])


def too_small(size: Size, dataset: "ImageDataset") -> str | None:
    """The reason why `minimum_image_size` excludes an image; None if it does not."""
    least = dataset.minimum_image_size
    if not least:
        return None
    words = f"{size[0]}x{size[1]} is below minimum_image_size={least:g}"
    if dataset.resolution_type == "pixel":
        return words if min(size) < least else None
    megapixels = least if dataset.resolution_type == "area" else least * least / 1e6
    if size[0] * size[1] < megapixels * 1e6:
        return words
    square = dataset.crop and dataset.crop_aspect == "square"
    return words if square and min(size) < math.sqrt(megapixels * 1e6) else None
