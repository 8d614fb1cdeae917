"""Images to latents and masks to weights, before training: once, and kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data import pixel_tensors
from sd3tune.data.cache import TensorCache
from sd3tune.data.digests import Known, Memory
from sd3tune.data.discover import RejectedFile, Sample
from sd3tune.data.headers import NoMemory, Unusable
from sd3tune.data.sources import Source
from sd3tune.encode.caches import Caches
from sd3tune.encode.fill import Entries, Made, fill, free
from sd3tune.errors import DataError
from sd3tune.load import variant
from sd3tune.out_of_memory import during
from sd3tune.report.progress import stage, warn
from sd3tune.sd3 import latents as sd3_latents
from sd3tune.sd3 import weights

DECODERS = 4  # threads; Pillow decodes and resizes outside the interpreter's lock


def fill_images(caches: Caches, device: torch.device) -> list[RejectedFile]:
    """Every image and mask, encoded once and kept; what cannot be decoded, with the reason."""
    prepared = caches.prepared
    rejected: list[RejectedFile] = []
    for dataset in prepared.datasets.all:
        discovery = prepared.discoveries.get(dataset.id)
        if discovery is not None:
            rejected += fingerprint(caches, dataset, discovery.samples)
    lost = {(r.dataset, r.path) for r in rejected}  # datasets may share their files
    kept = {
        name: [s for s in found.samples if (name, s.path) not in lost]
        for name, found in prepared.discoveries.items()
    }
    encode(caches, kept, device, caches.latents_of)
    for samples in kept.values():
        for s in samples:
            cache = caches.latents_of(s.dataset)
            why = cache.problem(caches.key(s)) or cache.problem(caches.mask_key(s) or "")
            if why is not None:
                rejected.append(RejectedFile(s.dataset, s.path, why))
    for r in rejected:
        if prepared.dataset(r.dataset).strict:
            raise DataError(
                f"dataset `{r.dataset}`: `{r.path}`: {r.reason} (strict=true)",
                hint="remove this file, or set strict=false to train without it",
            )
    return rejected


def fill_epoch(caches: Caches, epoch: int, device: torch.device) -> None:
    """The crops that this process draws in an epoch, for datasets with vae_cache_clear_each_epoch;
    those of the one before are removed. Epoch 0 is what fill_images made."""
    schedule, who = caches.prepared.schedule, caches.prepared.plan.processes
    redrawn = {share.name for share in schedule.shares if share.redraw is not None}
    if epoch == 0 or not redrawn:
        return
    start = schedule.start(epoch)
    mine: dict[str, dict[int, Sample]] = {name: {} for name in redrawn}
    for place, chosen in enumerate(schedule.epoch(epoch, start), start):
        if place % who.size == who.rank and chosen[0].dataset in redrawn:
            mine[chosen[0].dataset] |= {s.id: s for s in chosen}
    wanted: dict[TensorCache, set[str]] = {}  # datasets may share a folder
    for name, samples in mine.items():
        found = list(samples.values())
        encode(caches, {name: found}, device, caches.epoch_of)
        keys = {caches.key(s) for s in found}
        keys |= {k for s in found if (k := caches.mask_key(s))}
        wanted.setdefault(caches.epoch_of(name), set()).update(keys)
    for cache, keys in wanted.items():
        cache.prune(keys)


@dataclass(frozen=True)
class File:
    """One file of the run, an image or a mask, and the image that needs it."""

    owner: str  # id of its dataset
    name: str
    source: Source
    memory: Memory
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
    memories = {id(file.memory): file.memory for file in unknown}.values()
    ahead = max(DECODERS, max(file.source.ahead for file in unknown))
    with stage("read files", len(unknown)) as bar, ThreadPoolExecutor(ahead) as pool:
        left = iter(unknown)
        while some := list(islice(left, 16 * ahead)):
            for file, found in zip(some, pool.map(_read, some), strict=True):
                if isinstance(found, str):
                    rejected.append(RejectedFile(dataset.id, file.sample.path, found))
                else:
                    file.memory.files[file.name] = found
                    caches.digests[file.owner, file.name] = found.digest or b""
                bar.advance()
            for memory in memories if keep else ():
                memory.write_now_and_then(dataset.metadata_update_interval)
    for memory in memories if keep else ():
        memory.write()
    return rejected


def files(caches: Caches, dataset: ImageDataset, samples: Sequence[Sample]) -> list[File]:
    sources, memory = caches.prepared.sources, caches.memories[dataset.id]
    found = [File(dataset.id, s.name, sources[dataset.id], memory, s) for s in samples]
    masks = dataset.conditioning_data
    if masks:
        if masks not in caches.memories:
            caches.memories[masks] = Memory(dataset.cache_dir_vae, masks)
        memory = caches.memories[masks]
        found += [File(masks, s.mask, sources[masks], memory, s) for s in samples if s.mask]
    return found


def _known(file: File, *, trusted: bool) -> bytes | None:
    if trusted and file.name in file.memory.files:
        return file.memory[file.name].digest
    try:
        known = file.memory.get(file.name, file.source.stamp(file.name))
    except OSError:  # reading it says why
        return None
    return known.digest if known else None


def _read(file: File) -> Known | str:
    try:
        # The stamp before the content: a file that changes meanwhile is read anew next time.
        stamp = file.source.stamp(file.name)
        digest = blake2b(file.source.read(file.name), digest_size=16).digest()
    except OSError as e:
        return f"cannot be read: {e.strerror or e}"
    return Known(stamp, *file.sample.size, digest)


@during("encoding images")
def encode(
    caches: Caches,
    samples: Mapping[str, Sequence[Sample]],
    device: torch.device,
    cache_of: Callable[[str], TensorCache],
) -> None:
    """Images and masks that are missing, by dataset."""
    prepared, plan = caches.prepared, caches.prepared.plan
    missing: dict[str, dict[str, Sample]] = {}
    masks: dict[str, dict[str, Sample]] = {}
    taken: dict[TensorCache, set[str]] = {}  # by another dataset of the same folder
    for name in sorted(samples):
        if "vae" in prepared.dataset(name).skip_file_discovery:
            continue
        cache = cache_of(name)
        cache.mend()
        ordered = sorted(samples[name], key=lambda s: (s.geometry.bucket, s.name))
        have = taken.setdefault(cache, set())
        new = {caches.key(s): s for s in ordered}
        new_masks = {m: s for s in ordered if (m := caches.mask_key(s))}
        missing[name] = {k: s for k, s in new.items() if k not in have and not cache.has(k)}
        masks[name] = {k: s for k, s in new_masks.items() if k not in have and not cache.has(k)}
        have.update(missing[name], masks[name])
    if total := sum(map(len, missing.values())):
        vae = weights.vae(plan.model.source, plan.value("vae_dtype"), **variant(plan)).to(device)
        with stage("encode images", total) as bar, ThreadPoolExecutor(DECODERS) as pool:
            for name, wanted in missing.items():
                d = prepared.dataset(name)
                make = partial(_latents, caches, vae, d, pool, wanted)
                fill(cache_of(name), list(wanted), d.write_batch_size, make, bar)
        del vae
        free()
    if total := sum(map(len, masks.values())):
        with stage("read masks", total) as bar:
            for name, wanted in masks.items():
                d = prepared.dataset(name)
                make = partial(_masks, caches, d, wanted)
                fill(cache_of(name), list(wanted), d.write_batch_size, make, bar)
    for name in missing:  # those with nothing missing too: a run may have been killed before this
        cache_of(name).finish()


def _latents(
    caches: Caches,
    vae: Any,
    dataset: ImageDataset,
    pool: ThreadPoolExecutor,
    samples: Mapping[str, Sample],
    keys: Sequence[str],
) -> Made:
    """Entries of some keys; samples: what each stands for."""
    source = caches.prepared.sources[dataset.id]
    entries: Entries = {}
    problems: dict[str, str] = {}

    def decoded(key: str) -> Tensor | str:
        s = samples[key]
        try:
            data = _same(source, s.name, caches.digests[s.dataset, s.name])
            return pixel_tensors.load(data, s.size, s.geometry)
        except NoMemory as e:
            raise _no_memory(source, s.name, e) from None
        except Unusable as e:
            return str(e)

    def good() -> Iterator[tuple[str, Tensor]]:
        left = iter(keys)
        while some := list(islice(left, dataset.image_processing_batch_size)):
            for key, pixels in zip(some, pool.map(decoded, some), strict=True):
                if isinstance(pixels, str):
                    problems[key] = pixels
                else:
                    yield key, pixels

    for some in _alike(good(), dataset.vae_batch_size):
        pixels = pixel_tensors.scaled(torch.stack([p for _, p in some]))
        try:
            mean, std = _sparing(vae, pixels)
        except DataError as e:
            names = ", ".join(f"`{samples[key].path}`" for key, _ in some)
            raise DataError(f"{e} (while encoding {names})", hint=e.hint) from None
        for i, (key, _) in enumerate(some):
            entries[key] = {"mean": mean[i], "std": std[i]}
    return entries, problems


def _alike(found: Iterable[tuple[str, Tensor]], most: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Runs of one size, no longer than `most`."""
    some: list[tuple[str, Tensor]] = []
    for item in found:
        if some and (len(some) == most or some[0][1].shape != item[1].shape):
            yield some
            some = []
        some.append(item)
    if some:
        yield some


def _sparing(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encoded; in halves, and at last in tiles, when the device has too little memory."""
    try:
        return sd3_latents.encode(vae, pixels)
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
    free()  # not before: the error holds what was computed until then
    if len(pixels) > 1:
        halves = [_sparing(vae, half) for half in pixels.chunk(2)]
        return torch.cat([m for m, _ in halves]), torch.cat([s for _, s in halves])
    if not vae.use_tiling:
        warn("one image at a time does not fit the device: it is encoded in tiles")
        vae.enable_tiling()
        return _sparing(vae, pixels)
    raise DataError(
        f"{pixels.shape[3]}x{pixels.shape[2]} does not fit the device, not even in tiles",
        hint="set a smaller resolution, or vae_dtype=bf16",
    )


def _masks(
    caches: Caches, dataset: ImageDataset, samples: Mapping[str, Sample], keys: Sequence[str]
) -> Made:
    entries: Entries = {}
    problems: dict[str, str] = {}
    assert dataset.conditioning_data is not None
    masks = caches.prepared.datasets.masks[dataset.conditioning_data]
    source = caches.prepared.sources[masks.id]
    for key in keys:
        s = samples[key]
        assert s.mask is not None
        try:
            data = _same(source, s.mask, caches.digests[masks.id, s.mask])
            mask = pixel_tensors.load_mask(data, s.size, s.geometry, masks.conditioning_type)
            entries[key] = {"mask": mask}
        except NoMemory as e:
            raise _no_memory(source, s.mask, e) from None
        except Unusable as e:
            problems[key] = f"its mask: {e}"
    return entries, problems


def _no_memory(source: Source, name: str, why: NoMemory) -> DataError:
    """Another machine, or this one tomorrow, can decode it: it must not be remembered either."""
    return DataError(
        f"`{source.where(name)}`: {why}",
        hint="free some memory, lower image_processing_batch_size, or store the image smaller; "
        "what was encoded is kept",
    )


def _same(source: Source, name: str, digest: bytes) -> bytes:
    """The bytes whose digest is in the key. Raises DataError when the storage fails or the file
    was changed meanwhile: that says nothing about the content, so it must not be remembered."""
    try:
        data = source.read(name)
    except OSError as e:
        words = f"`{source.where(name)}` cannot be read any more: {e.strerror or e}"
        raise DataError(words, hint="run again: what was encoded is kept") from None
    if blake2b(data, digest_size=16).digest() != digest:
        words = f"`{source.where(name)}` was changed while it was being encoded"
        raise DataError(words, hint="run again: what was encoded is kept")
    return data
