"""Bytes of the device at the peak of each stage of a run, by arithmetic. The peak of the run is the
largest of them. `counted/` counts the same stages under fake tensors, and tests compare the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from sd3tune.backends.decide.limits import WORKSPACE_BYTES
from sd3tune.plan import step_peak
from sd3tune.plan.memory import BYTES, Load, encoder_bytes, estimate
from sd3tune.plan.stage_loads import CaptionLoad, LatentLoad, PictureLoad, StageLoad
from sd3tune.sd3.variants import CLIP_TOKENS, TEXT_ENCODERS, VAE, Model

# Values per pixel and channel of the VAE's level of full resolution, 128 channels in SD3. Encoding:
# five tensors of a residual layer; decoding, where twice as many channels arrive: three of them.
ENCODED, DECODED = 5, 6
# Per token of T5: six tensors of the feed-forward layer's width. Per caption: what CLIP-L and
# CLIP-G keep of every layer.
LARGEST = 0.009  # share of the largest weight in the parameters of its encoder
T5_VALUES, CLIP_VALUES = 6 * 10240, CLIP_TOKENS * (13 * 768 + 33 * 1280)


@dataclass(frozen=True)
class StagePeak:
    """One stage: what its memory depends on, and bytes by the formula, workspace included."""

    name: str
    load: StageLoad
    by_formula: int

    @property
    def about(self) -> str:
        """What computes at once, for people."""
        load = self.load
        if isinstance(load, CaptionLoad):
            return f"text encoders, {load.batch} captions at once"
        if isinstance(load, LatentLoad):
            return f"VAE, {load.batch} x {load.width}x{load.height}"
        if isinstance(load, PictureLoad):
            return f"one of {load.width}x{load.height} beside the trained weights"
        return ""


def stage_peaks(model: Model, loads: Mapping[str, StageLoad]) -> tuple[StagePeak, ...]:
    """The peaks of stages, by their names."""
    return tuple(StagePeak(name, load, device_bytes(model, load)) for name, load in loads.items())


def device_bytes(model: Model, load: StageLoad) -> int:
    """Bytes of the device at the peak of one stage."""
    if isinstance(load, Load):
        return estimate(model, load).training
    vendor = load.training.vendor if isinstance(load, PictureLoad) else load.vendor
    return tensor_bytes(model, load) + WORKSPACE_BYTES[vendor]


def tensor_bytes(model: Model, load: StageLoad) -> int:
    """The same without the workspace."""
    if isinstance(load, CaptionLoad):
        return encoder_bytes(load.encoders, load.dtype, load.precisions) + captions(load)
    if isinstance(load, LatentLoad):
        return latents(load)
    if isinstance(load, PictureLoad):
        return pictures(model, load)
    return estimate(model, load).tensors


def captions(load: CaptionLoad) -> int:
    """Activations of one batch of captions: of T5, or of CLIP where that is more."""
    _, clip, t5 = (sqrt(own / full) for own, full in zip(load.encoders, TEXT_ENCODERS, strict=True))
    most = max(T5_VALUES * t5 * load.tokens, CLIP_VALUES * clip) * load.batch
    largest = max(load.encoders) * LARGEST
    copies = step_peak.DEQUANTISED_COPIES.get(load.precisions[2 if load.encoders[2] else 1], 0)
    return int((most + copies * largest) * BYTES[load.dtype])


def latents(load: LatentLoad) -> int:
    """The VAE and the activations of its encoder."""
    per_pixel = ENCODED * vae_width(load.vae) + 3
    pixels = load.batch * load.width * load.height
    return int((load.vae + pixels * per_pixel) * BYTES[load.dtype])


def pictures(model: Model, load: PictureLoad) -> int:
    """The larger of drawing a picture and decoding it."""
    return max(drawing(model, load), decoding(model, load))


def drawing(model: Model, load: PictureLoad) -> int:
    """A pass of the transformer without gradients, beside what stays on the device and the VAE."""
    passing = step_peak.forward_only(model.transformer, load.passing)
    return _between_steps(model, load) + passing


def decoding(model: Model, load: PictureLoad) -> int:
    """The VAE's decoder, beside the same."""
    per_pixel = DECODED * vae_width(load.vae) * BYTES[load.vae_dtype]
    return _between_steps(model, load) + int(load.width * load.height * per_pixel)


def vae_width(parameters: int) -> float:
    """Channels of the first level of a VAE with so many parameters: 128 of SD3's."""
    return 128 * sqrt(parameters / VAE)


def _between_steps(model: Model, load: PictureLoad) -> int:
    """Weights, adapter, optimizer, and images of the evaluation: what stays on the device between
    two steps; and the VAE."""
    held, training = estimate(model, load.training), load.training
    inputs = step_peak.resident_inputs(model.transformer, training)
    stays = held.weights + held.adapter + held.optimizer + inputs
    return stays + load.vae * BYTES[load.vae_dtype]
