"""The run's encoded captions and images: under which keys they are kept, and reading them back.

What fills them is encode/fill.py; how entries are written is data/cache.py's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from sd3tune.config.datasets.bucket_caches import kept_in_bucket
from sd3tune.config.datasets.image_dataset import ImageDataset, TextEmbeds
from sd3tune.config.datasets.listing import Datasets
from sd3tune.data.cache import TensorCache, latent_key, mask_key, text_key
from sd3tune.data.cache_bucket import CacheBucket
from sd3tune.data.digests import KnownFiles
from sd3tune.data.discover import Sample
from sd3tune.errors import DataError
from sd3tune.plan.plan import Plan
from sd3tune.prepare import Prepared
from sd3tune.sd3 import weight_identity
from sd3tune.sd3.variants import COMPONENTS, VAE_SCALE

if TYPE_CHECKING:  # `cache info` counts without torch
    from torch import Tensor

    from sd3tune.data.loader import Ahead, Epoch, Loader
    from sd3tune.processes.world import World

BLANK = ""
EPOCH = "epoch"  # below cache_dir_vae: latents of the running epoch (vae_cache_clear_each_epoch)


@dataclass(frozen=True)
class Caches:
    """Folders, identities and digests of one run."""

    prepared: Prepared
    folders: dict[Path, TensorCache]
    text_identity: str
    blank_identity: str  # of the caption "", which sd3_*_uncond_behaviour change
    vae_identity: str
    known_files: dict[str, KnownFiles]  # by dataset id: digests of its files
    digests: dict[tuple[str, str], bytes] = field(default_factory=dict)  # of (dataset, name)

    @classmethod
    def of(cls, prepared: Prepared) -> "Caches":
        """The caches of a prepared run. Opens every folder; encodes nothing."""
        plan, datasets = prepared.plan, prepared.datasets
        folders = {d.cache_dir_vae for d in datasets.all}
        folders |= {d.cache_dir_vae / epoch_folder(plan) for d in datasets.all}
        folders |= {datasets.text_of(d).cache_dir for d in datasets.all} | {datasets.text.cache_dir}
        text, buckets = text_identity(plan), _buckets(datasets)
        blank = plan.captions.blank_clip, plan.captions.blank_t5
        return cls(
            prepared,
            {folder: TensorCache(folder, buckets.get(folder)) for folder in folders},
            text,
            f"{text} {blank}",
            f"{weight_identity.identity(plan.model.source, 'vae')} {plan.precision.vae.value}",
            {d.id: KnownFiles(d.cache_dir_vae, d.id) for d in datasets.all},
        )

    @property
    def text(self) -> TensorCache:
        """The cache of the validation prompts."""
        return self.folders[self.prepared.datasets.text.cache_dir]

    def text_of(self, dataset: str) -> TensorCache:
        """The cache of a dataset's captions."""
        settings = self.prepared.dataset(dataset)
        return self.folders[self.prepared.datasets.text_of(settings).cache_dir]

    def latents_of(self, dataset: str) -> TensorCache:
        """The cache of a dataset's images and masks."""
        return self.folders[self.prepared.dataset(dataset).cache_dir_vae]

    def epoch_of(self, dataset: str) -> TensorCache:
        """The cache of the crops that this process draws in the running epoch."""
        folder = self.prepared.dataset(dataset).cache_dir_vae / epoch_folder(self.prepared.plan)
        return self.folders[folder]

    def text_key(self, caption: str) -> str:
        """The key of a caption's embeddings."""
        return text_key(caption, self.text_identity if caption else self.blank_identity)

    def key(self, sample: Sample) -> str:
        """The key of an image's latents. Its digest must be known."""
        digest = self.digests[sample.dataset, sample.name]
        return latent_key(sample.size, sample.geometry, digest, self.vae_identity)

    def mask_key(self, sample: Sample) -> str | None:
        """The key of an image's mask; None for an image without one."""
        name = self.prepared.dataset(sample.dataset).conditioning_data
        if name is None or sample.mask is None:
            return None
        masks = self.prepared.datasets.masks[name]
        digest = self.digests[name, sample.mask]
        return mask_key(sample.size, sample.geometry, digest, masks.conditioning_type)

    def embeds(self, caption: str, dataset: str | None = None) -> "tuple[Tensor, Tensor]":
        """(tokens, width) and (pooled width,) bfloat16. dataset: the one whose caption it is."""
        from sd3tune.sd3.text import unpacked

        cache = self.text if dataset is None else self.text_of(dataset)
        plan = self.prepared.plan
        key, width = self.text_key(caption), plan.model.transformer.joint_dim
        try:
            return unpacked(cache.get(key), plan.captions.t5_tokens, width)
        except (KeyError, IndexError, RuntimeError, TypeError):  # its checksum is right
            raise _of_another_kind(cache, key) from None

    def posterior(self, sample: Sample) -> "tuple[Tensor, Tensor]":
        """Mean and deviation, (16, H/8, W/8) each."""
        channels = self.prepared.plan.model.transformer.channels
        entry = self._entry(sample, self.key(sample), ("mean", "std"), channels)
        return entry["mean"], entry["std"]

    def mask(self, sample: Sample) -> "Tensor | None":
        """(1, H/8, W/8) uint8, or None for an image that has none."""
        key = self.mask_key(sample)
        return None if key is None else self._entry(sample, key, ("mask",), 1)["mask"]

    def loader(
        self, world: "World", begin_epoch: "Epoch", ahead: "Ahead" = lambda position, batch: batch
    ) -> "Loader":
        """The batches of this process. begin_epoch: called before the first batch of each epoch is
        made. ahead: as the loader takes it."""
        from sd3tune.data.loader import Loader

        plan = self.prepared.plan
        return Loader(
            schedule=self.prepared.schedule,
            seed=plan.seed,
            posterior_of=self.posterior,
            embeds_of=lambda sample, caption: self.embeds(caption, sample.dataset),
            dropout_of=lambda sample: self._settings(sample).caption_dropout_probability,
            mask_of=self.mask,
            regularises=lambda sample: self._settings(sample).is_regularisation_data,
            level_offset_of=lambda sample: self._settings(sample).timestep_sampling_offset,
            device=world.device,
            rank=world.processes.rank,
            processes=world.size,
            pin=plan.hardware.pin_memory.value,
            begin_epoch=begin_epoch,
            ahead=ahead,
        )

    def wanted_text(self, prompts: Sequence[str]) -> dict[Path, set[str]]:
        """Captions by folder: every image's, the prompts', and the blank one wherever captions can
        be dropped."""
        wanted: dict[Path, set[str]] = {self.text.folder: {*prompts, BLANK}}
        for dataset in self.prepared.datasets.all:
            discovery = self.prepared.discoveries.get(dataset.id)
            if discovery is not None:
                captions = wanted.setdefault(self.text_of(dataset.id).folder, set())
                captions |= {BLANK} | {c for s in discovery.samples for c in s.captions}
        return wanted

    def _entry(
        self, sample: Sample, key: str, names: Sequence[str], channels: int
    ) -> "dict[str, Tensor]":
        """names: of its tensors, (channels, H/8, W/8) each."""
        cache = self.latents_of(sample.dataset)
        if not cache.has(key) and self._settings(sample).vae_cache_clear_each_epoch:
            cache = self.epoch_of(sample.dataset)
        entry = cache.get(key)
        width, height = sample.geometry.bucket
        shape = channels, height // VAE_SCALE, width // VAE_SCALE
        if {name: tuple(t.shape) for name, t in entry.items()} != dict.fromkeys(names, shape):
            raise _of_another_kind(cache, key)
        return entry

    def _settings(self, sample: Sample) -> ImageDataset:
        return self.prepared.dataset(sample.dataset)


def _buckets(datasets: Datasets) -> dict[Path, CacheBucket]:
    """The buckets of caches that are kept in one too, by the folder on this machine."""
    entries: list[tuple[Path, ImageDataset | TextEmbeds]]
    entries = [(d.cache_dir_vae, d) for d in datasets.all]
    entries += [(t.cache_dir, t) for t in datasets.texts.values()]
    return {folder: CacheBucket(entry) for folder, entry in entries if kept_in_bucket(entry)}


def _of_another_kind(cache: TensorCache, key: str) -> DataError:
    """The error for an entry of another kind, which anyone who can write to a shared folder can put
    there."""
    return DataError(
        f"the entry {key[:12]}… of the cache `{cache.folder}` is not what sd3tune encodes",
        hint="remove the folder, or set another cache_dir and cache_dir_vae",
    )


def epoch_folder(plan: Plan) -> str:
    """Each process draws its own crops, and clears them away when it is done with them."""
    return f"{EPOCH}-{plan.processes.rank}" if plan.processes.size > 1 else EPOCH


def text_identity(plan: Plan) -> str:
    """Changes with everything that changes an embedding: weights, dtype, precision, lengths."""
    captions, precision = plan.captions, plan.precision
    h = blake2b(digest_size=16)
    identity = partial(weight_identity.identity, plan.model.source)
    for name, scheme in zip(COMPONENTS, precision.text_encoders, strict=True):
        h.update(identity(name).encode())
        h.update(identity(name.replace("text_encoder", "tokenizer")).encode())
        h.update(scheme.value.encode())
    rest = precision.text.value, captions.t5_tokens, captions.t5_padding
    h.update(repr(rest).encode())
    return h.hexdigest()
