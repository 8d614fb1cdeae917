"""Finds the images of a dataset and decides how each is used. It reads headers and decodes no
pixel.

A file that cannot be used is set aside with a reason, and the run continues (`strict` makes it an
error). A dataset without any usable image is an error that states how many files each reason
excluded.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sd3tune.data import faces, image_tables
from sd3tune.data.buckets import Focus, Geometry, Size, geometry, unwanted
from sd3tune.data.caption_files import CaptionFiles
from sd3tune.data.captions import Captions, NoCaption
from sd3tune.data.digests import KnownFiles
from sd3tune.data.headers import COMPANIONS, SUFFIXES, Unusable, size_of, suffix_of
from sd3tune.data.seeds import Draw, draw_of
from sd3tune.data.sources import Source, source_of
from sd3tune.errors import DataError
from sd3tune.urls import redacted

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to train on."""

    dataset: str
    path: str  # for messages: where a user finds it
    name: str  # "/"-separated, relative to the dataset
    size: Size  # with EXIF orientation applied
    captions: tuple[str, ...]
    geometry: Geometry
    id: int  # 63 bits, a hash of dataset and name; seeds its noise
    repeats: int = 0  # extra passes per epoch
    mask: str | None = None  # the name of its mask in the dataset of masks
    focus: Focus | None = None  # the face that crop_style=face centres
    occurrence: int = 0  # how often it came before in its optimizer step; the schedule counts

    @property
    def draw(self) -> Draw:
        """What stands for this sample in the seeds of its optimizer step."""
        return draw_of(self.id, self.occurrence)


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that is not trained on, with the reason. URLs in the reason are shortened."""

    dataset: str
    path: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", redacted(self.reason))


@dataclass(frozen=True)
class Discovery:
    """The usable images of a dataset, and the files that were set aside."""

    samples: tuple[Sample, ...]
    rejected: tuple[RejectedFile, ...]
    notes: tuple[str, ...] = ()  # what a user should know about files and captions


def discover(
    dataset: "ImageDataset",
    source: Source,
    *,
    masks: Source | None = None,
    tick: Tick = lambda: None,
    expect: Callable[[int], None] = lambda files: None,
) -> Discovery:
    """All usable images, in the order of their names. tick: called for each file; expect: called
    with the number of files before the first of them.

    Raises DataError if no image is usable, or with `strict` if a file is not.
    """
    look = SampleReader(dataset, source, masks)
    expect(len(look.names))
    samples: list[Sample] = []
    rejected: list[RejectedFile] = list(look.no_images)
    for found in _mapped(look.at, look.names, source.ahead):
        tick()
        if isinstance(found, Sample):
            samples.append(found)
        else:
            rejected.append(found)
    if rejected and dataset.strict:
        first = rejected[0]
        raise DataError(
            f"dataset `{dataset.id}`: `{first.path}`: {first.reason} ({len(rejected)} of "
            f"{len(samples) + len(rejected)} files; strict=true)",
            hint="remove these files, or set strict=false to train without them",
        )
    if not samples:
        why = "; ".join((_nothing(dataset, source, rejected), *look.notes()))
        raise DataError(why, hint=_what_to_do(rejected))
    if dataset.max_num_samples and len(samples) > dataset.max_num_samples:
        kept = {s.id for s in sorted(samples, key=lambda s: s.id)[: dataset.max_num_samples]}
        samples = [s for s in samples if s.id in kept]
    return Discovery(tuple(samples), tuple(rejected), tuple(look.notes()))


class SampleReader:
    """Examines the files of a dataset, one at a time."""

    def __init__(self, dataset: "ImageDataset", source: Source, masks: Source | None) -> None:
        self.dataset, self.source = dataset, source
        self.known = KnownFiles(dataset.cache_dir_vae, dataset.id)
        trusted = {"metadata", "aspect"} & set(dataset.skip_file_discovery)
        self._trusts_sizes = bool(trusted)
        listed = bool(trusted) or dataset.preserve_data_backend_cache
        self.no_images: list[RejectedFile] = []
        remembered = self._remembered() if listed else []
        files = remembered or self._listed(source)
        self.names = self._images(files)
        self._caption_files = CaptionFiles(None if remembered else files)
        self._tables = [name for name in files if suffix_of(name) in image_tables.SUFFIXES]
        self._masks = None if masks is None else _by_name(masks, self._listed(masks, "its masks: "))
        self._sizes = self._table(dataset.metadata_backend)
        words = self._table(dataset.caption_strategy)
        self._captions = Captions(dataset, source, words, self._caption_files)
        self._shapes: dict[tuple[Size, tuple[int, ...]], Geometry] = {}
        self._by_size: dict[Size, Geometry] = {}
        self._draws = dataset.crop and (
            dataset.crop_style in ("random", "face") or dataset.crop_aspect == "random"
        )
        if dataset.crop and dataset.crop_style == "face":
            faces.detector()

    def at(self, name: str) -> Sample | RejectedFile:
        try:
            return self._sample(name)
        except (Unusable, NoCaption) as e:
            return RejectedFile(self.dataset.id, self.source.where(name), str(e))

    def notes(self) -> Iterator[str]:
        """What a user should know about the files, after all were examined."""
        yield from self.source.notes()
        yield from self._captions.notes()
        dataset = self.dataset
        if self._sizes is not None and dataset.metadata_backend != dataset.caption_strategy:
            yield from self._sizes.notes(dataset.metadata_backend)
        if self.source.has_files:
            yield from self._unread_captions()

    def _unread_captions(self) -> Iterator[str]:
        """Captions that lie beside the images while captions come from elsewhere."""
        dataset = self.dataset
        if dataset.caption_strategy == "filename" and self._tables:
            yield (
                f"`{self._tables[0]}` lies among the images and is not read: caption_strategy="
                "filename; caption_strategy=csv or parquet takes captions from a table"
            )
        if dataset.caption_strategy == "textfile":
            return
        if unread := list(self._caption_files.beside(self.names)):
            yield (
                "caption files beside images are not read with caption_strategy="
                f"{dataset.caption_strategy}: {len(unread)} of them, such as `{unread[0]}`; set "
                "caption_strategy=textfile to use them"
            )

    def _sample(self, name: str) -> Sample:
        dataset = self.dataset
        size, focus = self._size(name), None
        if dataset.crop and dataset.crop_style == "face":
            focus = self._face(name)
        identity = f"{dataset.id}\0{name}"
        shape = self._geometry(size, identity, focus)
        if (why := unwanted(size, shape, dataset)) is not None:
            raise Unusable(why)
        digest = blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return Sample(
            dataset=dataset.id,
            path=self.source.where(name),
            name=name,
            size=size,
            captions=self._captions.of(name),
            geometry=shape,
            id=int.from_bytes(digest, "big") >> 1,
            repeats=dataset.repeats,
            mask=self._mask(name),
            focus=focus,
        )

    def _geometry(self, size: Size, identity: str, focus: Focus | None) -> Geometry:
        """The geometry of an image. Equal geometries share one object, because most images share
        theirs with others; it follows from the size alone unless something is drawn or looked
        for."""
        if not self._draws and (known := self._by_size.get(size)) is not None:
            return known
        shape = geometry(size, self.dataset, identity, focus)
        shape = self._shapes.setdefault((shape.resized, (*shape.crop, *shape.bucket)), shape)
        self._by_size[size] = shape
        return shape

    def _size(self, name: str) -> Size:
        if self._sizes is not None:
            entry = self._sizes.get(name)
            if entry is None:
                raise Unusable(self._sizes.reason(name, self.dataset.metadata_backend))
            if entry.size is not None:
                return entry.size
        if self._trusts_sizes and name in self.known.files:
            return self.known[name].width, self.known[name].height
        if self.dataset.huggingface.width_column and (cells := self.source.cells(name)):
            found = image_tables.row(cells, self.dataset.huggingface).size
            if found is not None:
                return found
        try:
            # Only for files that are known: a stamp needs a look at the disk.
            known = self.known.get(name, self.source.stamp(name)) if self._is_known(name) else None
            # Caches written before 2026-11-27 hold the size of a rotated TIFF the wrong way round.
            if known is not None and suffix_of(name) not in (".tif", ".tiff"):
                return known.width, known.height
            with self.source.open(name) as stream:
                return size_of(stream, name)
        except OSError as e:
            raise Unusable(f"cannot be read: {e.strerror or e}") from None

    def _is_known(self, name: str) -> bool:
        return name in self.known.files

    def _face(self, name: str) -> Focus | None:
        from sd3tune.data import pixels  # with it, Pillow: only faces need pixels here

        try:
            return faces.largest(pixels.decoded(self.source.read(name), draft=faces.EDGE))
        except Unusable:
            raise
        except Exception as e:  # of OpenCV or the disk
            raise Unusable(f"cannot be decoded: {e}") from None

    def _mask(self, name: str) -> str | None:
        if self._masks is None:
            return None
        # First the mask with exactly its name: a.png and a.jpg may have different masks.
        found = self._masks.get(name) or self._masks.get(_stem(name))
        if found is None:
            raise Unusable(f"no mask for it in dataset `{self.dataset.conditioning_data}`")
        return found

    def _remembered(self) -> list[str]:
        """Names of the last discovery, for storages that are slow to list. A cache may come from a
        shared folder, so names that lead out of the dataset are ignored."""
        if not self.source.has_files:
            return []
        names = sorted(self.known.files)
        return [n for n in names if not n.startswith("/") and ".." not in n.split("/")]

    def _listed(self, source: Source, what: str = "") -> Sequence[str]:
        """All names. A folder that cannot be listed is set aside with its content."""
        names, lost = source.listed()
        for e in lost:
            why = f"{what}this folder cannot be listed: {e.strerror or e}"
            path = e.filename or source.where("")
            self.no_images.append(RejectedFile(self.dataset.id, os.fsdecode(path), why))
        return names

    def _images(self, names: Iterable[str]) -> list[str]:
        """The names that may be images; other files are set aside, except usual companions."""
        if not self.source.has_files:
            return list(names)
        images = []
        for name in names:
            suffix = suffix_of(name)
            if suffix in SUFFIXES:
                images.append(name)
            elif suffix not in COMPANIONS:
                why = (
                    f"{suffix} is not a suffix of an image" if suffix else "its name has no suffix"
                )
                self.no_images.append(RejectedFile(self.dataset.id, self.source.where(name), why))
        return images

    def _table(self, backend: str) -> image_tables.ImageTable | None:
        columns = {"csv": self.dataset.csv, "parquet": self.dataset.parquet}.get(backend)
        whose = f"dataset `{self.dataset.id}`"
        return image_tables.read(columns, whose, self.names) if columns else None


def _mapped(
    look: Callable[[str], Sample | RejectedFile], names: Sequence[str], ahead: int
) -> Iterator[Sample | RejectedFile]:
    """The results in order; over a network, several files are examined at the same time."""
    if ahead == 1:
        yield from map(look, names)
        return
    left = iter(names)
    with ThreadPoolExecutor(ahead) as pool:
        while some := list(islice(left, ahead * 8)):
            yield from pool.map(look, some)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _by_name(masks: Source, names: Sequence[str]) -> Mapping[str, str]:
    """Name of an image, with or without suffix -> name of its mask: both have the same relative
    path. Rows are paired by their number."""
    if not masks.numbered:
        names = [name for name in names if suffix_of(name) in SUFFIXES]
    return {_stem(name): name for name in names} | {name: name for name in names}


def in_epoch(
    sample: Sample, dataset: "ImageDataset", epoch: int, longest: int | None = None
) -> Sample:
    """The image with the aspect ratio and crop of another epoch (vae_cache_clear_each_epoch)."""
    if epoch == 0:
        return sample
    identity = f"{sample.dataset}\0{sample.name}\0epoch {epoch}"
    shape = geometry(sample.size, dataset, identity, sample.focus)
    # If settings or model exclude this epoch's aspect ratio, keep that of the first epoch.
    refused = unwanted(sample.size, shape, dataset) or (longest and max(shape.bucket) > longest)
    return sample if refused else replace(sample, geometry=shape)


def without(found: Discovery, bad: Sequence[RejectedFile]) -> Discovery:
    """The discovery without samples that turned out to be unusable."""
    paths = {r.path for r in bad}
    kept = tuple(s for s in found.samples if s.path not in paths)
    return replace(found, samples=kept, rejected=(*found.rejected, *bad))


def within(found: Discovery, longest: int, dataset: "ImageDataset") -> Discovery:
    """Sets aside images whose bucket is longer than `longest`, the model's limit in pixels.

    Raises DataError when none is left.
    """
    beyond = [s for s in found.samples if max(s.geometry.bucket) > longest]
    if not beyond:
        return found
    words = "{}x{} becomes {}x{}, and the model ends at " + str(longest)
    rejected = [
        RejectedFile(s.dataset, s.path, words.format(*s.size, *s.geometry.bucket)) for s in beyond
    ]
    kept = tuple(s for s in found.samples if max(s.geometry.bucket) <= longest)
    if not kept:
        source = source_of(dataset)
        raise DataError(_nothing(dataset, source, rejected), hint=shorter_buckets(dataset))
    return replace(found, samples=kept, rejected=(*found.rejected, *rejected))


def shorter_buckets(dataset: "ImageDataset") -> str:
    """What to set where buckets are longer than the model allows."""
    return "set a smaller resolution" if dataset.crop else "set crop=true, or a smaller resolution"


def _nothing(dataset: "ImageDataset", source: Source, rejected: Sequence[RejectedFile]) -> str:
    where = f"dataset `{dataset.id}`: "
    if dataset.instance_data_dir:
        where += f"instance_data_dir `{dataset.instance_data_dir}`"
    else:
        where += f"`{source.where('').rstrip('/')}`" if dataset.type == "aws" else "its table"
    if not rejected:
        return f"{where} holds no image files"
    reasons = Counter(r.reason for r in rejected).most_common(3)
    words = "; ".join(f"{reason} ({count} of {len(rejected)})" for reason, count in reasons)
    return f"{where} has no usable image: {words}"


def _what_to_do(rejected: Sequence[RejectedFile]) -> str:
    if not rejected:
        return f"put images there: {', '.join(sorted(SUFFIXES))}"
    reason = rejected[0].reason
    if "caption file" in reason or "leaves no caption" in reason:
        return "write a .txt beside each image, or set caption_strategy to filename"
    if reason.startswith("no row"):
        return "write the names of the images into the table, relative to the dataset's folder"
    return f"look at `{rejected[0].path}` first"
