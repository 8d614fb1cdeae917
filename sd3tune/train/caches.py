"""The stages before training: captions to embeddings, images to latents, each kept on disk.

Encoders are loaded only when something is missing and dropped before the next stage; what a key is
made of, and how entries are written, is data/cache.py's business.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from sd3tune import quant
from sd3tune.config.prompts import Prompt
from sd3tune.data import images
from sd3tune.data.batch import Batch
from sd3tune.data.cache import TensorCache, latent_key, text_key
from sd3tune.data.discover import Sample
from sd3tune.data.loader import Batches
from sd3tune.plan.memory import gib
from sd3tune.plan.prepare import Prepared
from sd3tune.plan.resolve import Plan
from sd3tune.report.progress import say, stage
from sd3tune.sd3 import latents as sd3_latents
from sd3tune.sd3 import weights
from sd3tune.sd3.text import COMPONENTS, TextEncoders, unconditional


@dataclass(frozen=True)
class Caches:
    text: TensorCache
    latents: dict[str, TensorCache]  # by dataset id
    text_identity: str
    vae_identity: str

    @classmethod
    def of(cls, prepared: Prepared) -> "Caches":
        plan = prepared.plan
        return cls(
            TensorCache(prepared.datasets.text.cache_dir),
            {d.id: TensorCache(d.cache_dir_vae) for d in prepared.datasets.images},
            text_identity(plan),
            f"{weights.identity(plan.model.source, 'vae')} {plan.value('vae_dtype')}",
        )

    def embeds(self, caption: str) -> tuple[Tensor, Tensor]:
        entry = self.text.get(text_key(caption, self.text_identity))
        return entry["prompt_embeds"], entry["pooled"]

    def latent(self, sample: Sample) -> Tensor:
        return self.latents[sample.dataset].get(self.key(sample))["latents"]

    def key(self, sample: Sample) -> str:
        digest = self.latents[sample.dataset].digest(sample.path)
        return latent_key(sample, digest, self.vae_identity)
