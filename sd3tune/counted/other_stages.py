"""Peak memory of the stages beside the training step: captions, latents, pictures. The encoders,
the VAE and the transformer of the planned shapes run once on fake tensors, as the stage runs them.

Tokenizers, files and random numbers are left out: what a stage draws or reads has only its shape.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sd3tune import quant
from sd3tune.counted import as_on_a_card, fake_weights
from sd3tune.counted.fake_parts import clip, t5, vae
from sd3tune.counted.living_storages import LivingStorages
from sd3tune.counted.training_step import DEVICE, Laid, laid, on_device
from sd3tune.plan.stage_loads import CaptionLoad, LatentLoad, PictureLoad
from sd3tune.sd3 import latents as sd3_latents
from sd3tune.sd3.condition import autocast
from sd3tune.sd3.text import TextEncoders
from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE, Transformer
from sd3tune.sd3.weights import DTYPES


class Ids(dict[str, Any]):
    """What a tokenizer answers: token numbers and the mask of what is a caption."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def tokenizer(prompts: list[str], *, max_length: int, **_: Any) -> Ids:
    """Token numbers without a caption: of the right shape."""
    shape = len(prompts), max_length
    return Ids(input_ids=torch.zeros(shape, dtype=torch.long),
               attention_mask=torch.ones(shape, dtype=torch.long))  # fmt: skip


@contextmanager
def counting(vendor: str, *, fake: bool, scores: bool = False) -> Iterator[LivingStorages]:
    """The modes of a count, entered."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        LivingStorages(as_on_a_card.INSIDE) as living,
        as_on_a_card.as_on(vendor, scores=scores),
    ):
        yield living


def captions(load: CaptionLoad, *, fake: bool = True) -> int:
    """Bytes while one batch of captions is encoded, by all encoders that the model has."""
    modules = [clip(0, load), clip(1, load), t5(load)]
    for module, scheme in zip(modules, load.precisions, strict=True):
        if module is not None:
            fake_weights.quantise(module, scheme, which=quant.TEXT_ENCODER)
    with counting(load.vendor, fake=fake) as living:
        for module in filter(None, modules):
            fake_weights.in_memory(module, on_device)
        pairs = [(tokenizer, module) for module in modules[:2]]
        encoders = TextEncoders(
            pairs,
            None if modules[2] is None else (tokenizer, modules[2]),
            t5_tokens=load.tokens,
            width=load.width,
            zero_padding=False,
        )
        living.begin()
        answer = encoders.encode([""] * load.batch)
        del answer
        return living.peak


def latents(load: LatentLoad, *, fake: bool = True) -> int:
    """Bytes while a batch of images of the largest size goes through the VAE's encoder."""
    model = vae(load.vae, load.dtype, load.folder)
    with counting(load.vendor, fake=fake) as living:
        fake_weights.in_memory(model, on_device)
        images = torch.empty(load.batch, 3, load.height, load.width, device=DEVICE)
        with living.uncounted():
            pixels = images.clone()  # on the host
        del images
        living.begin()
        with torch.no_grad():
            posterior = model.encode(living_copy(pixels, DTYPES[load.dtype])).latent_dist
            answer = posterior.mean.float(), posterior.std.float()
        del answer
        return living.peak


def living_copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor on the device, in that format."""
    made = torch.empty(tensor.shape, dtype=dtype, device=DEVICE)
    return made.copy_(tensor)


def pictures(shape: Transformer, load: PictureLoad, *, fake: bool = True) -> tuple[int, int]:
    """Bytes at the peak of a sampling step, and while the VAE decodes the largest picture: beside
    what stays on the device between two training steps."""
    decoder = vae(load.vae, load.vae_dtype, load.folder)
    with laid(shape, load.training, fake=fake) as held:
        _, update, stays = held.begun()
        fake_weights.in_memory(decoder, on_device)
        held.trained.model.eval()
        with torch.no_grad():
            held.living.begin()
            found = sampling_step(held, load)
            drawing = held.living.peak
            held.living.begin()
            pixels = sd3_latents.decode(decoder, found)
            del pixels, update, stays
            return drawing, held.living.peak


def sampling_step(held: Laid, load: PictureLoad) -> Tensor:
    """Latents after one step of diffusers' pipeline, with guidance a batch of two."""
    training, shape = load.training, held.shape
    height, width = load.height // VAE_SCALE, load.width // VAE_SCALE
    dtype = DTYPES[training.base_dtype]
    now = torch.empty(1, shape.channels, height, width, dtype=dtype, device=DEVICE)
    many = 2 if load.guided else 1
    words = CLIP_TOKENS + training.text_tokens
    embeds = torch.empty(many, words, shape.joint_dim, dtype=dtype, device=DEVICE)
    pooled = torch.empty(many, shape.pooled_dim, dtype=dtype, device=DEVICE)

    def predicted(count: int) -> Tensor:
        z = torch.cat([now] * count) if count > 1 else now
        made: Tensor = held.trained.model(
            hidden_states=z,
            timestep=torch.empty(count, device=DEVICE),
            encoder_hidden_states=embeds[:count],
            pooled_projections=pooled[:count],
            return_dict=False,
        )[0]
        return made

    with autocast(DEVICE, None if training.autocast is None else DTYPES[training.autocast]):
        v = predicted(many)
        if load.guided:
            without, with_ = v.chunk(2)
            v = without + 4.0 * (with_ - without)
            if load.skips:
                v = v + 2.8 * (with_ - predicted(1))
        return (now.float() + 0.1 * v).to(dtype)
