"""Encodes captions before training: the text encoders are loaded, used once, and dropped."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sd3tune import quant
from sd3tune.data.cache import TensorCache
from sd3tune.discovered import FILL, skipped
from sd3tune.encode.caches import BLANK, Caches
from sd3tune.encode.fill import Entries, Made, fill, free
from sd3tune.errors import DataError
from sd3tune.load import quantise, variant
from sd3tune.out_of_memory import during
from sd3tune.plan.drawing import AnyPlan
from sd3tune.plan.memory import gib
from sd3tune.plan.plan import Plan
from sd3tune.report.progress import say, stage, waiting
from sd3tune.sd3.text import TextEncoders, is_finite, packed, unconditional
from sd3tune.sd3.variants import COMPONENTS

Used = Callable[[], int | None]  # bytes of the device in use


def fill_text(caches: Caches, prompts: Sequence[str], device: torch.device, used: Used) -> None:
    """Every caption, validation prompt and the blank one, encoded and kept."""
    plan = caches.prepared.plan
    missing: dict[TensorCache, list[str]] = {}
    for folder, captions in caches.wanted_text(prompts).items():
        cache = caches.folders[folder]
        cache.mend()
        cache.exchange({caches.text_key(c) for c in captions})
        lost = sorted(c for c in captions if not cache.has(caches.text_key(c)))
        if lost and _skipped(caches, folder):
            raise DataError(
                f"{skipped('text')}, and `{folder}` lacks {len(lost)} of {len(captions)} captions "
                f"and prompts, {(lost[0] or lost[-1])[:60]!r} among them",
                hint=FILL,
            )
        if lost:
            missing[cache] = lost
        else:
            cache.finish()  # an earlier run may have been killed before it could
    if not missing:
        return
    encoders = load_encoders(plan, device)
    full = used()
    with (
        during("encoding captions"),
        stage("encode captions", sum(map(len, missing.values()))) as bar,
    ):
        for cache, lost in missing.items():
            by_key = {caches.text_key(c): c for c in lost}
            size = _shard_size(caches, cache.folder)
            fill(cache, list(by_key), size, partial(encoded, encoders, plan, by_key), bar)
            cache.finish()
    with waiting("dropping the text encoders"):
        del encoders
        free()
    say(f"dropped  text encoders: {_amount(full)} in use before, {_amount(used())} after")


def encoded(
    encoders: TextEncoders, plan: Plan, captions: Mapping[str, str], keys: Sequence[str]
) -> Callable[[], Made]:
    """Encodes the captions of some keys; the result makes cache entries of them. captions: key ->
    caption."""
    batch, answers = plan.captions.at_once, []
    for start in range(0, len(keys), batch):
        found = encoders.encode([captions[key] for key in keys[start : start + batch]])
        answers.append([t.to(torch.bfloat16) for t in found])  # as stored: half the memory
    return partial(_packed, plan, captions, keys, answers)


def _packed(
    plan: Plan,
    captions: Mapping[str, str],
    keys: Sequence[str],
    answers: Sequence[Sequence[Tensor]],
) -> Made:
    """Cache entries. answers: embeddings and pooled vectors of each batch. Raises DataError where
    the encoders produced NaN or infinity."""
    entries: Entries = {}
    pairs = (pair for embeds, pooled in answers for pair in zip(embeds, pooled, strict=True))
    for key, pair in zip(keys, pairs, strict=True):
        caption = captions[key]
        if not all(map(is_finite, pair)):
            raise DataError(
                f"the text encoders produced NaN or infinity for `{caption[:60]}`",
                hint="set text_encoder_1_precision to text_encoder_3_precision=no_change",
            )
        entries[key] = packed(*(blank(*pair, plan) if caption == BLANK else pair))
    return entries, {}


def blank(embeds: Tensor, pooled: Tensor, plan: AnyPlan) -> tuple[Tensor, Tensor]:
    """The blank caption's embeddings as sd3_clip_uncond_behaviour and sd3_t5_uncond_behaviour
    say."""
    return unconditional(
        embeds,
        pooled,
        zero_clip=plan.captions.blank_clip == "zero",
        zero_t5=plan.captions.blank_t5 == "zero",
    )


def load_encoders(plan: AnyPlan, device: torch.device) -> TextEncoders:
    """Quantised and placed as planned; the CPU when they do not fit the device."""
    say(f"loading  text encoders of {plan.model.name}")
    with waiting("loading the text encoders"):
        return _loaded(plan, device)


def _loaded(plan: AnyPlan, device: torch.device) -> TextEncoders:
    encoders = TextEncoders.load(
        plan.model.source,
        dtype=plan.precision.text.value,
        t5_tokens=plan.captions.t5_tokens,
        width=plan.model.transformer.joint_dim,
        zero_padding=plan.captions.t5_padding == "zero",
        **variant(plan),
    )
    offloaded = plan.memory.offload.value == "text_encoders"
    target = torch.device("cpu") if offloaded else device
    for name, scheme in zip(COMPONENTS, plan.precision.text_encoders, strict=True):
        if name in encoders.modules:
            quantise(encoders.modules[name], scheme.value, quant.TEXT_ENCODER, plan, target)
    return encoders.to(target)


def _skipped(caches: Caches, folder: Path) -> bool:
    """Whether every dataset with captions there says so."""
    users = [d for d in caches.prepared.datasets.all if caches.text_of(d.id).folder == folder]
    return bool(users) and all("text" in d.skip_file_discovery for d in users)


def _shard_size(caches: Caches, folder: Path) -> int:
    texts = caches.prepared.datasets.texts.values()
    return next(t.write_batch_size for t in texts if t.cache_dir == folder)


def _amount(used: int | None) -> str:
    return "unknown" if used is None else gib(used)
