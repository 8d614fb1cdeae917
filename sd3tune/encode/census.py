"""What the caches hold, compared with what a run needs: counted from their indexes and the names
of their entries. Imports no torch, unless a model must be downloaded."""

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from sd3tune.config.files.prompts import load_prompts
from sd3tune.data.cache import TensorCache
from sd3tune.encode.caches import Caches
from sd3tune.encode.file_digests import fingerprint
from sd3tune.prepare import Prepared


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


def info(prepared: Prepared) -> Built:
    """Existing and missing entries of the caches, without encoding."""
    started = monotonic()
    caches = looked(prepared)
    return Built(monotonic() - started, held(caches))


def looked(prepared: Prepared) -> Caches:
    """Caches with the digest of every file, as far as files can be read."""
    caches = Caches.of(_here(prepared))
    for dataset in prepared.datasets.all:
        if dataset.id in prepared.discoveries:
            fingerprint(caches, dataset, prepared.discoveries[dataset.id].samples, keep=False)
    return caches


def wanted(caches: Caches) -> dict[Path, set[str]]:
    """Keys that the run needs, by folder."""
    prepared = caches.prepared
    prompts = [p.text for p in load_prompts(prepared.config)]
    prompts.append(prepared.plan.pictures.negative_prompt)
    found = {folder: {caches.text_key(c) for c in captions}
            for folder, captions in caches.wanted_text(prompts).items()}  # fmt: skip
    for name, discovery in prepared.discoveries.items():
        keys = found.setdefault(caches.latents_of(name).folder, set())
        for s in discovery.samples:
            if (s.dataset, s.name) in caches.digests:
                keys.add(caches.key(s))
                mask = caches.mask_key(s)
                keys |= {mask} if mask else set()
    return found


def held(caches: Caches) -> tuple[Held, ...]:
    """The content of every cache folder, compared with what is wanted of it."""
    found = []
    texts = {t.cache_dir for t in caches.prepared.datasets.texts.values()}
    for folder, keys in sorted(wanted(caches).items()):
        cache = TensorCache(folder)
        problems = sum(place.problem is not None for place in cache.places.values())
        found.append(
            Held(
                folder=folder,
                kind="captions" if folder in texts else "latents",
                entries=len(cache.places) - problems,
                problems=problems,
                shards=len(cache.shard_paths()),
                size_bytes=cache.size_bytes(),
                wanted=len(keys),
                missing=len(keys - cache.places.keys()),
            )
        )
    return tuple(found)


def _here(prepared: Prepared) -> Prepared:
    """The run with its model on this disk, where the keys are made of it."""
    if Path(prepared.plan.model.source.base).is_dir():
        return prepared
    from sd3tune.encode.everything import downloaded  # it imports torch

    return downloaded(prepared)
