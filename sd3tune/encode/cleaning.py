"""`sd3tune cache prune` and `sd3tune cache verify`: entries that no run needs, and damaged ones.
Imports no torch, unless a model must be downloaded."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sd3tune.data import sqlite_files
from sd3tune.data.cache import INDEX, SHARDS, TensorCache
from sd3tune.data.cache_index import TABLES
from sd3tune.data.shards import Damage
from sd3tune.encode import census
from sd3tune.encode.caches import EPOCH
from sd3tune.errors import ConfigError
from sd3tune.filesystem import cachedir
from sd3tune.prepare import Prepared
from sd3tune.report.progress import waiting

EPOCHS = re.compile(rf"{EPOCH}(-\d+)?")  # as epoch_folder names them


def prune(prepared: Sequence[Prepared], *, dry_run: bool) -> list[tuple[Path, int]]:
    """Removes entries that none of these runs needs. The answer is folders with numbers of removed
    entries."""
    wanted: dict[Path, set[str]] = {}
    for run in prepared:
        for folder, keys in census.wanted(census.looked(run)).items():
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
