"""A folder of images as the interview sees it: read once, then planned for any settings."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data.buckets import geometry, unwanted
from sd3tune.data.caption_files import CaptionFiles
from sd3tune.data.captions import Captions, NoCaption, from_name
from sd3tune.data.discover import Discovery, RejectedFile, Sample, discover
from sd3tune.data.folder import Folder
from sd3tune.data.headers import SUFFIXES, suffix_of
from sd3tune.errors import DataError
from sd3tune.report.progress import stage

ID = "images"  # of the dataset that is written
MASKS = ("masks", "{}-masks", "{}_masks", "{}-mask", "{}_mask")  # folders beside the images
WORDS = 3  # in a file name from which it is taken for a caption
MOST_ENTRIES = 2000  # of a folder that is searched for images


class RememberedFolder(Folder):
    """A folder whose caption files are read once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._texts: dict[str, bytes | OSError] = {}

    def caption(self, name: str) -> bytes:
        if name not in self._texts:
            try:
                self._texts[name] = super().caption(name)
            except OSError as e:
                self._texts[name] = e
        held = self._texts[name]
        if isinstance(held, OSError):
            raise held
        return held


@dataclass(frozen=True)
class ImageFolder:
    """samples: with their sizes; captions and geometry depend on settings. files: all names in the
    folder. masks: the folder beside it that has a mask for each image."""

    path: Path
    samples: tuple[Sample, ...]
    rejected: tuple[RejectedFile, ...]
    files: tuple[str, ...]
    masks: Path | None = None
    mask_names: tuple[str, ...] = ()

    @cached_property
    def source(self) -> RememberedFolder:
        """Where captions are read."""
        return RememberedFolder(self.path)

    @cached_property
    def caption_files(self) -> CaptionFiles:
        """The caption file of each image."""
        return CaptionFiles(self.files)

    @cached_property
    def captioned(self) -> int:
        """Images with a caption file beside them."""
        return sum(1 for _ in self.caption_files.beside(s.name for s in self.samples))

    @cached_property
    def caption_strategy(self) -> str:
        """Where captions come from: files for at least half of the images, names of several words,
        or the trigger word."""
        if 2 * self.captioned >= len(self.samples):
            return "textfile"
        spoken = sum(len(_words(s.name)) >= WORDS for s in self.samples)
        return "filename" if 2 * spoken >= len(self.samples) else "instanceprompt"

    def discovery(self, dataset: ImageDataset) -> Discovery:
        """The images as the run would use them. Raises DataError where none is left."""
        captions = Captions(dataset, self.source, None, self.caption_files)
        masks = dict(_stems(self.mask_names)) if dataset.conditioning_data else None
        samples: list[Sample] = []
        rejected = list(self.rejected)
        for s in self.samples:
            shape = geometry(s.size, dataset, _identity(dataset, s))
            why = unwanted(s.size, shape, dataset)
            try:
                texts = captions.of(s.name)
            except NoCaption as e:
                texts, why = (), str(e)
            if why is not None:
                rejected.append(RejectedFile(dataset.id, s.path, why))
                continue
            mask = masks.get(_stem(s.name)) if masks is not None else None
            samples.append(
                replace(s, captions=texts, geometry=shape, repeats=dataset.repeats, mask=mask)
            )
        if not samples:
            raise DataError(
                f"`{self.path}` has no usable image: {rejected[-1].reason}",
                hint="write a caption (.txt) beside each image, or choose another folder",
            )
        return Discovery(tuple(samples), tuple(rejected))

    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        sizes = sorted({s.size for s in self.samples}, key=lambda size: size[0] * size[1])
        (w, h), (width, height) = sizes[0], sizes[-1]
        span = f"{w}x{h}" if len(sizes) == 1 else f"{w}x{h} to {width}x{height}"
        count = len(self.samples)
        yield f"{count} image{'s' * (count != 1)}, {span} pixels"
        if self.rejected:
            (reason, count), *_ = Counter(r.reason for r in self.rejected).most_common(1)
            yield f"{len(self.rejected)} files cannot be used, such as {count} x {reason}"
        yield self._captions()
        if self.masks is not None:
            yield f"masks: `{self.masks.name}` has one for each image; only white areas are learned"

    def _captions(self) -> str:
        first = self.samples[0]
        if self.caption_strategy == "textfile":
            text = self._first_text()
            left = len(self.samples) - self.captioned
            without = f"; {left} images have none and are left out" if left else ""
            return f"captions: {self.captioned} .txt files{without}; the first says “{text}”"
        beside = f" ({self.captioned} .txt files are too few)" if self.captioned else ""
        if self.caption_strategy == "filename":
            return f"captions: from the names of the files, “{from_name(first.name)}”{beside}"
        return f"captions: none{beside}; the trigger word of question 3 is the caption"

    def _first_text(self) -> str:
        line = next((text for s in self.samples if (text := self.caption_of(s))), "")
        return line if len(line) <= 60 else f"{line[:60]}…"

    def caption_of(self, sample: Sample) -> str:
        """The first line of its caption file, or its name as a caption; empty without either."""
        if self.caption_strategy == "filename":
            return " ".join(_words(sample.name))
        try:
            name, *_ = self.caption_files.of(sample.name)
            text = self.source.caption(name).decode("utf-8-sig", "replace")
        except OSError:
            return ""
        return next((w for line in text.splitlines() if (w := " ".join(line.split()))), "")


def look(path: Path) -> ImageFolder:
    """Reads the headers of all images in a folder. Raises DataError where none is usable."""
    if not path.is_dir():
        raise DataError(
            f"`{path}`: there is no such folder", hint="name the folder that holds the images"
        )
    source = RememberedFolder(path)
    dataset = ImageDataset(
        id=ID, instance_data_dir=path, resolution=1024, resolution_type="pixel_area",
        caption_strategy="instanceprompt", instance_prompt="-", cache_dir_vae=path / ".none",
    )  # fmt: skip
    with stage(f"look at {path.name}", None) as bar:
        found = discover(dataset, source, tick=bar.advance, expect=bar.expect)
    masks = _masks_of(path, found.samples)
    return ImageFolder(path, found.samples, found.rejected, tuple(source.names()), *masks)


def _masks_of(path: Path, samples: Iterable[Sample]) -> tuple[Path | None, tuple[str, ...]]:
    """The folder beside it with a mask for every image, and the names in it."""
    wanted = {_stem(s.name) for s in samples}
    for pattern in MASKS:
        folder = path.parent / pattern.format(path.name)
        if folder == path or not folder.is_dir():
            continue
        names = tuple(n for n in Folder(folder).names() if suffix_of(n) in SUFFIXES)
        if wanted <= {_stem(n) for n in names}:
            return folder, names
    return None, ()


def folders_with_images(project: Path) -> list[Path]:
    """Folders in a project, at most two deep, that hold images themselves: the fullest first.
    Hidden ones, caches, models, masks and the output of runs are left out."""
    counts: Counter[Path] = Counter()
    for folder in _folders(project, depth=2):
        names = [p.name for p in _entries(folder) if p.suffix.lower() in SUFFIXES]
        if names:
            counts[folder] = len(names)
    return [folder for folder, _ in counts.most_common()]


NO_IMAGES = {"cache", "models", "config", "output", "logs", "node_modules"}


def _folders(parent: Path, depth: int) -> Iterator[Path]:
    for folder in _entries(parent):
        named = folder.name.lower()
        skipped = named.startswith(".") or named in NO_IMAGES or "mask" in named
        if skipped or not folder.is_dir() or (folder / ".sd3tune.lock").exists():
            continue
        yield folder
        if depth > 1:
            yield from _folders(folder, depth - 1)


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path, _ in zip(folder.iterdir(), range(MOST_ENTRIES), strict=False)]
    except OSError:
        return []


def _stems(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        yield _stem(name), name


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _identity(dataset: ImageDataset, sample: Sample) -> str:
    return f"{dataset.id}\0{sample.name}"


def _words(name: str) -> list[str]:
    try:
        return [word for word in from_name(name).split() if word.isalpha()]
    except NoCaption:
        return []
