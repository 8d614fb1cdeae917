"""The digest of every file's content: what a cache entry is named by.

Digests are kept beside the latents under the file's stamp, so that a file that was not touched is
not read again.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data.digests import Known, KnownFiles
from sd3tune.data.discover import RejectedFile, Sample
from sd3tune.data.sources import Source
from sd3tune.encode.caches import Caches
from sd3tune.errors import DataError
from sd3tune.report.progress import stage

READERS = 4  # threads at least; a storage may ask for more
DIGEST_BYTES = 16


@dataclass(frozen=True)
class File:
    """One file of the run, an image or a mask, and the image that needs it."""

    owner: str  # id of its dataset
    name: str
    source: Source
    known: KnownFiles
    sample: Sample


def fingerprint(
    caches: Caches, dataset: ImageDataset, samples: Sequence[Sample], *, keep: bool = True
) -> list[RejectedFile]:
    """The digest of every file's content, remembered under its stamp (keep): a file that was not
    touched is not read again. What cannot be read comes back."""
    unknown = []
    for file in files(caches, dataset, samples):
        known = _known(file, trusted="vae" in dataset.skip_file_discovery)
        if known is None:
            unknown.append(file)
        else:
            caches.digests[file.owner, file.name] = known
    if not unknown:
        return []
    rejected = []
    written = {id(file.known): file.known for file in unknown}.values() if keep else ()
    ahead = max(READERS, max(file.source.ahead for file in unknown))
    with stage("read files", len(unknown)) as bar, ThreadPoolExecutor(ahead) as pool:
        left = iter(unknown)
        while some := list(islice(left, 16 * ahead)):
            for file, answer in zip(some, pool.map(_read, some), strict=True):
                if isinstance(answer, str):
                    rejected.append(RejectedFile(dataset.id, file.sample.path, answer))
                else:
                    file.known.files[file.name] = answer
                    caches.digests[file.owner, file.name] = answer.digest or b""
                bar.advance()
            for known_files in written:
                known_files.write_now_and_then(dataset.metadata_update_interval)
    for known_files in written:
        known_files.write()
    return rejected


def files(caches: Caches, dataset: ImageDataset, samples: Sequence[Sample]) -> list[File]:
    """The images of a dataset and their masks."""
    sources, known = caches.prepared.sources, caches.known_files[dataset.id]
    images = [File(dataset.id, s.name, sources[dataset.id], known, s) for s in samples]
    masks = dataset.conditioning_data
    if not masks:
        return images
    if masks not in caches.known_files:
        caches.known_files[masks] = KnownFiles(dataset.cache_dir_vae, masks)
    known = caches.known_files[masks]
    return images + [File(masks, s.mask, sources[masks], known, s) for s in samples if s.mask]


def _known(file: File, *, trusted: bool) -> bytes | None:
    if trusted and file.name in file.known.files:
        return file.known[file.name].digest
    try:
        known = file.known.get(file.name, file.source.stamp(file.name))
    except OSError:  # reading it says why
        return None
    return known.digest if known else None


def _read(file: File) -> Known | str:
    try:
        # The stamp before the content: a file that changes meanwhile is read anew next time.
        stamp = file.source.stamp(file.name)
        digest = blake2b(file.source.read(file.name), digest_size=DIGEST_BYTES).digest()
    except OSError as e:
        return f"cannot be read: {e.strerror or e}"
    return Known(stamp, *file.sample.size, digest)


def read_again(source: Source, name: str, digest: bytes) -> bytes:
    """The bytes whose digest is in the key. Raises DataError when the storage fails or the file
    was changed meanwhile: that says nothing about the content, so it must not be remembered."""
    try:
        data = source.read(name)
    except OSError as e:
        problem = f"`{source.where(name)}` cannot be read any more: {e.strerror or e}"
        raise DataError(problem, hint="run again: what was encoded is kept") from None
    if blake2b(data, digest_size=DIGEST_BYTES).digest() != digest:
        problem = f"`{source.where(name)}` was changed while it was being encoded"
        raise DataError(problem, hint="run again: what was encoded is kept")
    return data
