"""Which images a dataset has, and what will happen to each: headers are read, no pixel is decoded.

A file that cannot be used is set aside with its reason and the run goes on; a dataset of which
nothing is left is an error that says which reason removed how many files.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from sd3tune.data.buckets import Geometry, Size, geometry, too_small
from sd3tune.data.captions import NoCaption, captions
from sd3tune.errors import DataError

if TYPE_CHECKING:
    from sd3tune.config.datasets import ImageDataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"}
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag; values that swap width and height


@dataclass(frozen=True)
class Sample:
    """One image to train on."""

    dataset: str
    path: Path
    relative: str  # to the dataset's folder, "/" between parts
    size: Size  # as seen, EXIF orientation applied
    captions: tuple[str, ...]
    geometry: Geometry
    id: int  # 63 bits of dataset and relative path: seeds its noise wherever it appears
    repeats: int = 0  # extra passes per epoch


@dataclass(frozen=True)
class Rejected:
    path: Path
    reason: str


@dataclass(frozen=True)
class Discovery:
    samples: tuple[Sample, ...]
    rejected: tuple[Rejected, ...]


class Unusable(Exception):
    """Why a file cannot be trained on."""


def discover(dataset: "ImageDataset") -> Discovery:
    """Every usable image below `instance_data_dir`, in the order of their paths.

    Raises DataError when there is none.
    """
    samples, rejected = [], []
    for path in files(dataset.instance_data_dir):
        try:
            samples.append(sample(path, dataset))
        except (Unusable, NoCaption) as e:
            rejected.append(Rejected(path, str(e)))
    if not samples:
        raise DataError(_nothing(dataset, rejected), hint=_what_to_do(rejected))
    if dataset.max_num_samples and len(samples) > dataset.max_num_samples:
        kept = {s.id for s in sorted(samples, key=lambda s: s.id)[: dataset.max_num_samples]}
        samples = [s for s in samples if s.id in kept]
    return Discovery(tuple(samples), tuple(rejected))


def files(folder: Path) -> Iterator[Path]:
    """Image files below a folder, hidden ones left out, sorted."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(root) / name


def sample(path: Path, dataset: "ImageDataset") -> Sample:
    size = size_of(path)
    if (why := too_small(size, dataset)) is not None:
        raise Unusable(why)
    relative = path.relative_to(dataset.instance_data_dir).as_posix()
    identity = f"{dataset.id}\0{relative}"
    digest = blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return Sample(
        dataset=dataset.id,
        path=path,
        relative=relative,
        size=size,
        captions=captions(path, dataset),
        geometry=geometry(size, dataset, identity),
        id=int.from_bytes(digest, "big") >> 1,
        repeats=dataset.repeats,
    )


def size_of(path: Path) -> Size:
    """Width and height as a viewer shows them, from the header. Raises Unusable."""
    try:
        if path.stat().st_size == 0:
            raise Unusable("the file is empty")
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except UnidentifiedImageError:
        raise Unusable("no image format that is understood here") from None
    except Image.DecompressionBombError as e:
        raise Unusable(f"too many pixels: {e}") from None
    except (OSError, SyntaxError, ValueError) as e:  # what Pillow raises for broken headers
        raise Unusable(f"cannot be read: {e}") from None
    if not (width and height):
        raise Unusable("it has no pixels")
    return (height, width) if turned else (width, height)


def within(found: Discovery, longest: int, dataset: "ImageDataset") -> Discovery:
    """Sets aside images whose bucket is longer than the model has positions for, in pixels.

    Raises DataError when none is left.
    """
    beyond = [s for s in found.samples if max(s.geometry.bucket) > longest]
    if not beyond:
        return found
    words = "{}x{} becomes {}x{}, and the model ends at " + str(longest)
    rejected = [Rejected(s.path, words.format(*s.size, *s.geometry.bucket)) for s in beyond]
    kept = tuple(s for s in found.samples if max(s.geometry.bucket) <= longest)
    if not kept:
        raise DataError(_nothing(dataset, rejected), hint="set crop=true, or a smaller resolution")
    return Discovery(kept, (*found.rejected, *rejected))


def check_minimum(
    found: Discovery,
    dataset: "ImageDataset",
    *,
    train_batch_size: int,
    gradient_accumulation_steps: int,
) -> None:
    """A dataset must fill one optimizer step. Thin buckets are completed by the loader, so the
    rule is per dataset. Raises DataError with the numbers and the ways out."""
    have = len(found.samples) * (dataset.repeats + 1)
    need = train_batch_size * gradient_accumulation_steps
    if have < need:
        repeats = -(-need // len(found.samples)) - 1
        raise DataError(
            f"dataset `{dataset.id}` has {len(found.samples)} images x (repeats={dataset.repeats} "
            f"+ 1) = {have}, one optimizer step takes train_batch_size={train_batch_size} x "
            f"gradient_accumulation_steps={gradient_accumulation_steps} = {need}",
            hint=f"set repeats={repeats} in the dataset, or train_batch_size to {have} or less",
        )


def _nothing(dataset: "ImageDataset", rejected: list[Rejected]) -> str:
    where = f"dataset `{dataset.id}`: instance_data_dir `{dataset.instance_data_dir}`"
    if not rejected:
        return f"{where} holds no image files"
    reasons = Counter(r.reason for r in rejected).most_common(3)
    words = "; ".join(f"{reason} ({count} of {len(rejected)})" for reason, count in reasons)
    return f"{where} has no usable image: {words}"


def _what_to_do(rejected: list[Rejected]) -> str:
    if not rejected:
        return f"put images there: {', '.join(sorted(SUFFIXES))}"
    if "caption" in rejected[0].reason:
        return "write a .txt beside each image, or set caption_strategy to filename"
    return f"look at `{rejected[0].path}` first"
