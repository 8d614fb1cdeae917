"""`sd3tune cache`: lists, fills, checks and prunes the caches without training."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from sd3tune import backends
from sd3tune.config.files.prompts import Prompt, load_prompts
from sd3tune.data import sqlite_files
from sd3tune.data.cache import INDEX, SHARDS, TensorCache
from sd3tune.data.cache_index import TABLES
from sd3tune.data.shards import Damage
from sd3tune.encode.caches import EPOCH, Caches
from sd3tune.encode.everything import downloaded, filled, make_output
from sd3tune.encode.file_digests import fingerprint
from sd3tune.errors import ConfigError
from sd3tune.filesystem import cachedir
from sd3tune.plan.arithmetic import process_switches
from sd3tune.prepare import Prepared
from sd3tune.processes.environment import ALONE
from sd3tune.processes.world import World
from sd3tune.report.progress import waiting
from sd3tune.report.quiet import quiet_libraries

EPOCHS = re.compile(rf"{EPOCH}(-\d+)?")  # as epoch_folder names them


@dataclass(frozen=True)
class Held:
    """The content of one cache folder, compared with the entries that a run needs."""

    folder: Path
    kind: str  # latents or captions
    entries: int
    problems: int  # inputs known to be unusable
    shards: int
    size_bytes: int
    wanted: int
    missing: int

    @property
    def unused(self) -> int:
        """Entries that no run of this configuration asks for."""
        return self.entries + self.problems - (self.wanted - self.missing)

    @property
    def bytes_per_entry(self) -> int:
        """On average; 0 without entries."""
        return self.size_bytes // self.entries if self.entries else 0


@dataclass(frozen=True)
class Built:
    """What `cache build` and `cache info` print."""

    seconds: float
    held: tuple[Held, ...]


def build(prepared: Prepared) -> Built:
    """Encodes the missing entries, as `train` would, and then stops. Raises Sd3tuneError."""
    started = monotonic()
    caches = encoded(prepared, load_prompts(prepared.config))
    return Built(monotonic() - started, _held(caches))


def encoded(prepared: Prepared, prompts: Sequence[Prompt]) -> Caches:
    """The caches of one process with everything in them. Raises Sd3tuneError."""
    make_output(prepared.plan.output_dir)
    with waiting("importing diffusers and transformers"):
        quiet_libraries()
    prepared = downloaded(prepared)
    plan = prepared.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(**process_switches(plan.hardware, plan.attention))
    device = torch.device(plan.hardware.device.torch_device)
    world = World(ALONE, device)
    return filled(prepared, prompts, device, vendor, world)


def info(prepared: Prepared) -> Built:
    """Existing and missing entries of the caches, without encoding."""
    started = monotonic()
    caches = _looked(prepared)
    return Built(monotonic() - started, _held(caches))


def prune(prepared: Sequence[Prepared], *, dry_run: bool) -> list[tuple[Path, int]]:
    """Removes entries that none of these runs needs. The answer is folders with numbers of removed
    entries."""
    wanted: dict[Path, set[str]] = {}
    for run in prepared:
        for folder, keys in _wanted(_looked(run)).items():
            wanted.setdefault(folder, set()).update(keys)
    gone = _of_no_epoch(prepared) - wanted.keys()
    removed = []
    for folder, keys in sorted((wanted | {folder: set() for folder in gone}).items()):
        cache = TensorCache(folder)
        unused = len(cache.places.keys() - keys)
        if (unused or folder in gone) and not dry_run:
            cache.prune(keys)
        if folder in gone and not dry_run:
            _remove_empty(folder)
        removed.append((folder, unused))
    return removed


def _of_no_epoch(prepared: Sequence[Prepared]) -> set[Path]:
    """Crops of a running epoch, where no dataset of these runs takes new ones any more."""
    datasets = [d for run in prepared for d in run.datasets.all]
    used = {d.cache_dir_vae for d in datasets if d.vae_cache_clear_each_epoch}
    return {
        shards.parent
        for folder in {d.cache_dir_vae for d in datasets} - used
        for shards in folder.glob(f"{EPOCH}*/{SHARDS}")
        if EPOCHS.fullmatch(shards.parent.name) and TensorCache(shards.parent).is_ours()
    }


def _remove_empty(folder: Path) -> None:
    """Removes the folder of a cache without entries, unless it holds a file of another program."""
    with suppress(OSError):
        (folder / SHARDS).rmdir()
        if sqlite_files.is_ours(folder / INDEX, TABLES):
            (folder / INDEX).unlink()
        cachedir.unmark(folder)
        folder.rmdir()


def folders(paths: Sequence[Path]) -> list[TensorCache]:
    """Caches below some folders. Raises ConfigError when there is none: a model's weights may be in
    a folder called shards too."""
    below = sorted({shards.parent for path in paths for shards in path.rglob(SHARDS)
                    if shards.is_dir()})  # fmt: skip
    caches = [cache for cache in map(TensorCache, below) if cache.is_ours()]
    if not caches:
        raise ConfigError(
            f"no sd3tune cache below {', '.join(f'`{p}`' for p in paths)}",
            hint="name cache_dir, cache_dir_vae, or a folder that holds them",
        )
    return caches


def verify(paths: Sequence[Path], *, repair: bool) -> tuple[int, list[Damage]]:
    """Entries that are whole, and the shards that are not; repair: those are removed."""
    whole, damaged = 0, []
    for cache in folders(paths):
        with waiting(f"reading {cache.folder}"):
            bad = cache.verify()
        if bad and repair:
            cache.remove([d.path for d in bad])
        names = {d.path.name for d in bad}
        whole += sum(place.shard not in names for place in cache.places.values())
        damaged += bad
    return whole, damaged


def _looked(prepared: Prepared) -> Caches:
    """Caches with the digest of every file, as far as files can be read."""
    caches = Caches.of(downloaded(prepared))
    for dataset in prepared.datasets.all:
        if dataset.id in prepared.discoveries:
            fingerprint(caches, dataset, prepared.discoveries[dataset.id].samples, keep=False)
    return caches


def _wanted(caches: Caches) -> dict[Path, set[str]]:
    prepared = caches.prepared
    prompts = [p.text for p in load_prompts(prepared.config)]
    prompts.append(prepared.plan.pictures.negative_prompt)
    wanted = {folder: {caches.text_key(c) for c in captions}
             for folder, captions in caches.wanted_text(prompts).items()}  # fmt: skip
    for name, discovery in prepared.discoveries.items():
        keys = wanted.setdefault(caches.latents_of(name).folder, set())
        for s in discovery.samples:
            if (s.dataset, s.name) in caches.digests:
                keys.add(caches.key(s))
                mask = caches.mask_key(s)
                keys |= {mask} if mask else set()
    return wanted


def _held(caches: Caches) -> tuple[Held, ...]:
    held = []
    texts = {t.cache_dir for t in caches.prepared.datasets.texts.values()}
    for folder, wanted in sorted(_wanted(caches).items()):
        cache = TensorCache(folder)
        problems = sum(place.problem is not None for place in cache.places.values())
        held.append(
            Held(
                folder=folder,
                kind="captions" if folder in texts else "latents",
                entries=len(cache.places) - problems,
                problems=problems,
                shards=len(cache.shard_paths()),
                size_bytes=cache.size_bytes(),
                wanted=len(wanted),
                missing=len(wanted - cache.places.keys()),
            )
        )
    return tuple(held)
