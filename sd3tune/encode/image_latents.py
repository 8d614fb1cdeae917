"""Encodes images to latents and masks to weights, once, before training; the results are cached."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data import pixel_tensors
from sd3tune.data.cache import TensorCache
from sd3tune.data.discover import RejectedFile, Sample
from sd3tune.data.headers import NoMemory, Unusable
from sd3tune.data.sources import Source
from sd3tune.discovered import FILL, skipped
from sd3tune.encode.caches import Caches
from sd3tune.encode.file_digests import fingerprint, read_again
from sd3tune.encode.fill import Entries, Made, fill, free
from sd3tune.encode.prepared_ahead import PreparedAhead
from sd3tune.errors import DataError
from sd3tune.load import variant
from sd3tune.out_of_memory import during
from sd3tune.report.progress import Stage, stage, waiting, warn
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
        name: [s for s in discovery.samples if (name, s.path) not in lost]
        for name, discovery in prepared.discoveries.items()
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
    schedule, processes = caches.prepared.schedule, caches.prepared.plan.processes
    redrawn = {share.name for share in schedule.shares if share.redraw is not None}
    if epoch == 0 or not redrawn:
        return
    start = schedule.start(epoch)
    mine: dict[str, dict[int, Sample]] = {name: {} for name in redrawn}
    for position, chosen in enumerate(schedule.epoch(epoch, start), start):
        if position % processes.size == processes.rank and chosen[0].dataset in redrawn:
            mine[chosen[0].dataset] |= {s.id: s for s in chosen}
    wanted: dict[TensorCache, set[str]] = {}  # datasets may share a folder
    for name, samples in mine.items():
        own = list(samples.values())
        encode(caches, {name: own}, device, caches.epoch_of)
        wanted.setdefault(caches.epoch_of(name), set()).update(_keys(caches, own))
    for cache, keys in wanted.items():
        cache.prune(keys)


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
        cache = cache_of(name)
        if "vae" in prepared.dataset(name).skip_file_discovery:
            cache.exchange(_keys(caches, samples[name]))
            _refuse_missing(caches, cache, samples[name])
            continue
        cache.mend()
        cache.exchange(_keys(caches, samples[name]))
        ordered = sorted(samples[name], key=lambda s: (s.geometry.bucket, s.name))
        have = taken.setdefault(cache, set())
        new = {caches.key(s): s for s in ordered}
        new_masks = {m: s for s in ordered if (m := caches.mask_key(s))}
        missing[name] = {k: s for k, s in new.items() if k not in have and not cache.has(k)}
        masks[name] = {k: s for k, s in new_masks.items() if k not in have and not cache.has(k)}
        have.update(missing[name], masks[name])
    if total := sum(map(len, missing.values())):
        with waiting("loading the VAE"):
            vae = weights.vae(plan.model.source, plan.precision.vae.value, **variant(plan))
            vae = vae.to(device)
        with stage("encode images", total) as bar:
            for name, wanted in missing.items():
                fill_latents(caches, vae, prepared.dataset(name), wanted, cache_of(name), bar)
        del vae
        free()
    if total := sum(map(len, masks.values())):
        with stage("read masks", total) as bar:
            for name, wanted in masks.items():
                d = prepared.dataset(name)
                read = partial(partial, _masks, caches, d, wanted)
                fill(cache_of(name), list(wanted), d.write_batch_size, read, bar)
    for name in missing:  # those with nothing missing too: a run may have been killed before this
        cache_of(name).finish()


def fill_latents(
    caches: Caches,
    vae: Any,
    dataset: ImageDataset,
    samples: Mapping[str, Sample],
    cache: TensorCache,
    bar: Stage,
) -> None:
    """Encodes the images of a dataset that a cache lacks. Threads decode beside the VAE, and one
    more writes. samples: key -> image."""
    keys, load = list(samples), partial(_decoded, caches, dataset, samples)
    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder") as pool:
        pixels = PreparedAhead(keys, load, pool, dataset.image_processing_batch_size)
        make = partial(_latents, vae, dataset, pixels, samples)
        fill(cache, keys, dataset.write_batch_size, make, bar)


def _keys(caches: Caches, samples: Sequence[Sample]) -> set[str]:
    """The keys of images and of their masks."""
    keys = {caches.key(s) for s in samples}
    return keys | {m for s in samples if (m := caches.mask_key(s))}


def _refuse_missing(caches: Caches, cache: TensorCache, samples: Sequence[Sample]) -> None:
    """Raises DataError where skip_file_discovery forbids to encode what the cache lacks."""
    lost = [
        s
        for s in samples
        if not cache.has(caches.key(s)) or ((m := caches.mask_key(s)) and not cache.has(m))
    ]
    if lost:
        raise DataError(
            f"dataset `{lost[0].dataset}`: {skipped('vae')}, and `{cache.folder}` lacks "
            f"{len(lost)} of {len(samples)} images, `{lost[0].path}` first",
            hint=FILL,
        )


def _decoded(
    caches: Caches, dataset: ImageDataset, samples: Mapping[str, Sample], key: str
) -> Tensor | str:
    """The pixels of an image, or why it cannot be decoded. samples: key -> image."""
    s, source = samples[key], caches.prepared.sources[dataset.id]
    try:
        data = read_again(source, s.name, caches.digests[s.dataset, s.name])
        return pixel_tensors.load(data, s.size, s.geometry)
    except NoMemory as e:
        raise _no_memory(source, s.name, e) from None
    except Unusable as e:
        return str(e)


def _latents(
    vae: Any,
    dataset: ImageDataset,
    pixels: PreparedAhead[Tensor | str],
    samples: Mapping[str, Sample],
    keys: Sequence[str],
) -> Callable[[], Made]:
    """Cache entries of some keys."""
    entries: Entries = {}
    problems: dict[str, str] = {}

    def good() -> Iterator[tuple[str, Tensor]]:
        for key, found in pixels.each(keys):
            if isinstance(found, str):
                problems[key] = found
            else:
                yield key, found

    for some in _alike(good(), dataset.vae_batch_size):
        batch = pixel_tensors.scaled(torch.stack([p for _, p in some]))
        try:
            mean, std = _sparing(vae, batch)
        except DataError as e:
            names = ", ".join(f"`{samples[key].path}`" for key, _ in some)
            raise DataError(f"{e} (while encoding {names})", hint=e.hint) from None
        for i, (key, _) in enumerate(some):
            entries[key] = {"mean": mean[i], "std": std[i]}
    return lambda: (entries, problems)


def _alike(images: Iterable[tuple[str, Tensor]], most: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Runs of one size, no longer than `most`."""
    some: list[tuple[str, Tensor]] = []
    for item in images:
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
            data = read_again(source, s.mask, caches.digests[masks.id, s.mask])
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
