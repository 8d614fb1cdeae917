"""The stages before training: captions to embeddings, images to latents, each kept on disk.

Encoders are loaded only when something is missing and dropped before the next stage. What a key is
made of, and how entries are written, is data/cache.py's business.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import torch
from torch import Tensor

from sd3tune import quant
from sd3tune.config.prompts import Prompt
from sd3tune.data import images
from sd3tune.data.batch import Batch
from sd3tune.data.cache import TensorCache, latent_key, text_key
from sd3tune.data.discover import Sample
from sd3tune.data.loader import Loader
from sd3tune.errors import DataError
from sd3tune.plan.memory import gib
from sd3tune.plan.prepare import Prepared
from sd3tune.plan.resolve import Plan
from sd3tune.report.progress import say, stage
from sd3tune.sd3 import latents as sd3_latents
from sd3tune.sd3 import weights
from sd3tune.sd3.text import COMPONENTS, TextEncoders, unconditional

BLANK = ""


@dataclass(frozen=True)
class Caches:
    """Where the run's encoded captions and images are, and under which names."""

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
        """(tokens, width) and (pooled width,) float32."""
        entry = self.text.get(text_key(caption, self.text_identity))
        return entry["prompt_embeds"].float(), entry["pooled"].float()

    def latent(self, sample: Sample) -> Tensor:
        """(16, H/8, W/8) float32."""
        return self.latents[sample.dataset].get(self.key(sample))["latents"].float()

    def key(self, sample: Sample) -> str:
        digest = self.latents[sample.dataset].digest(sample.path)
        return latent_key(sample, digest, self.vae_identity)

    def loader(self, prepared: Prepared, device: torch.device) -> Loader:
        plan = prepared.plan
        return Loader(
            samples=prepared.samples,
            batch_size=plan.batch_size,
            seed=plan.config.seed,
            dropout=plan.config.caption_dropout_probability,
            latent_of=self.latent,
            embeds_of=self.embeds,
            device=device,
            pin=plan.value("pin_memory") == "on",
        )

    def batches(
        self, prepared: Prepared, position: int, device: torch.device
    ) -> AbstractContextManager[Iterator[Batch]]:
        return self.loader(prepared, device).batches(position)


def variant(plan: Plan) -> dict[str, str]:
    """Which of a folder's files are meant, as from_pretrained takes it."""
    return {"variant": plan.config.variant} if plan.config.variant else {}


def text_identity(plan: Plan) -> str:
    """Changes with everything that changes an embedding: weights, dtype, precision, lengths."""
    c = plan.config
    h = blake2b(digest_size=16)
    for i, name in enumerate(COMPONENTS, 1):
        h.update(weights.identity(plan.model.source, name).encode())
        h.update(
            weights.identity(plan.model.source, name.replace("text_encoder", "tokenizer")).encode()
        )
        h.update(plan.value(f"text_encoder_{i}_precision").encode())
    words = (plan.value("text_encoder_dtype"), c.tokenizer_max_length, c.t5_padding)
    h.update(repr((words, c.sd3_clip_uncond_behaviour, c.sd3_t5_uncond_behaviour)).encode())
    return h.hexdigest()


def fill_text(
    caches: Caches, prepared: Prepared, prompts: Sequence[Prompt], device: torch.device
) -> None:
    """Every caption, validation prompt and the blank one, encoded and kept."""
    config = prepared.plan.config
    wanted = {c for s in prepared.samples for c in s.captions} | {p.text for p in prompts}
    wanted |= {BLANK, config.validation_negative_prompt}
    missing = sorted(c for c in wanted if not caches.text.has(text_key(c, caches.text_identity)))
    if not missing:
        return
    encoders = load_encoders(prepared.plan, device)
    batch = config.text_encoder_batch_size
    with stage("encode captions", len(missing)) as bar:
        for start in range(0, len(missing), batch):
            some = missing[start : start + batch]
            embeds, pooled = encoders.encode(some)
            for i, caption in enumerate(some):
                pair = embeds[i], pooled[i]
                if caption == BLANK:
                    pair = blank(*pair, prepared.plan)
                entry = {"prompt_embeds": pair[0], "pooled": pair[1]}
                caches.text.put(text_key(caption, caches.text_identity), entry)
            bar.advance(len(some))
    size = sum(
        p.numel() * p.element_size() for m in encoders.modules.values() for p in m.parameters()
    )
    say(f"dropped  text encoders ({gib(size)})")


def blank(embeds: Tensor, pooled: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    return unconditional(
        embeds,
        pooled,
        zero_clip=plan.config.sd3_clip_uncond_behaviour == "zero",
        zero_t5=plan.config.sd3_t5_uncond_behaviour == "zero",
    )


def load_encoders(plan: Plan, device: torch.device) -> TextEncoders:
    """Quantised and placed as planned; the CPU when they do not fit the device."""
    say(f"loading  text encoders of {plan.model.name}")
    encoders = TextEncoders.load(
        plan.model.source,
        dtype=plan.value("text_encoder_dtype"),
        t5_tokens=plan.config.tokenizer_max_length,
        width=plan.model.transformer.joint_dim,
        zero_padding=plan.config.t5_padding == "zero",
        **variant(plan),
    )
    place = torch.device("cpu") if plan.value("offload") == "text_encoders" else device
    for i, name in enumerate(COMPONENTS, 1):
        if name in encoders.modules:
            precision = plan.value(f"text_encoder_{i}_precision")
            quant.apply(encoders.modules[name], precision, which=quant.TEXT_ENCODER,
                        fp8=plan.value("fp8_dtype"), device=place)  # fmt: skip
    return encoders.to(place)


def fill_latents(caches: Caches, prepared: Prepared, device: torch.device) -> None:
    """Every image, encoded once and kept, in batches of one size."""
    for cache in caches.latents.values():
        cache.folder.mkdir(parents=True, exist_ok=True)
    missing = [s for s in prepared.samples if not caches.latents[s.dataset].has(caches.key(s))]
    if missing:
        plan = prepared.plan
        vae = weights.vae(plan.model.source, plan.value("vae_dtype"), **variant(plan)).to(device)
        sizes = {d.id: d.vae_batch_size for d in prepared.datasets.images}
        with stage("encode images", len(missing)) as bar:
            for some in groups(missing, sizes):
                try:
                    pixels = torch.stack([images.load(s) for s in some])
                    encoded = sd3_latents.encode(vae, pixels)
                except DataError as e:
                    names = ", ".join(f"`{s.path}`" for s in some)
                    raise DataError(f"{e} (while encoding {names})", hint=e.hint) from None
                for s, z in zip(some, encoded, strict=True):
                    caches.latents[s.dataset].put(caches.key(s), {"latents": z})
                bar.advance(len(some))
    for cache in caches.latents.values():
        cache.remember()


def groups(samples: Sequence[Sample], sizes: dict[str, int]) -> Iterator[list[Sample]]:
    """Runs of one dataset and one size, no longer than the dataset's vae_batch_size."""
    buckets: dict[tuple[str, tuple[int, int]], list[Sample]] = {}
    for s in samples:
        buckets.setdefault((s.dataset, s.geometry.bucket), []).append(s)
    for (dataset, _), some in buckets.items():
        left = iter(some)
        while part := list(islice(left, sizes[dataset])):
            yield part
