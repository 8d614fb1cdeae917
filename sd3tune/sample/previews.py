"""Previews: validation pictures while they are drawn, decoded by a tiny autoencoder.

What is shown is where the picture is going: the latents with their remaining noise removed along
the sampler's present direction. Nothing here changes the picture: latents are read, no random
number is drawn, and whatever fails ends the previews and not the drawing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sd3tune.data.run_folders import PREVIEWS
from sd3tune.errors import ModelError
from sd3tune.filesystem import drafts
from sd3tune.plan.plan import Plan
from sd3tune.report.events import PreviewDrawn
from sd3tune.report.progress import waiting, warn
from sd3tune.sample.pipeline import OnStep, Picture, SamplingStep
from sd3tune.sd3 import tiny_autoencoder

LONGEST_SIDE = 512  # pixels of a preview


@dataclass
class Previews:
    """The previews of a run. Of several processes the first one shows what it draws. step: that of
    training. emit: gets each preview."""

    plan: Plan
    device: torch.device
    main: bool
    step: Callable[[], int]
    emit: Callable[[PreviewDrawn], None]
    _decoder: Any = None
    _failed: bool = field(default=False)

    def watching(self, picture: Picture) -> OnStep | None:
        """What the pipeline calls after each sampling step of this picture; None where no preview
        can be drawn, which is explained once."""
        if not (self.main and self.plan.previews.drawn.value) or self._failed:
            return None
        if self._decoder is None:
            self._load()
        return None if self._failed else Watch(self, picture)

    def _load(self) -> None:
        where, dtype = self.plan.previews.autoencoder, self.plan.precision.vae.value
        try:
            with waiting(f"getting the tiny autoencoder {where}"):
                channels = self.plan.model.transformer.channels
                self._decoder = tiny_autoencoder.load(where, dtype, channels).to(self.device)
        except ModelError as e:
            self.end(e)

    def end(self, error: Exception) -> None:
        """No previews from here on; says why, once."""
        self._failed, self._decoder = True, None
        hint = f"; {error.hint}" if isinstance(error, ModelError) else ""
        warn(f"no previews are drawn, the pictures are: {error}{hint}")

    def show(self, latents: Tensor, picture: Picture, at: SamplingStep) -> None:
        """Decodes latents (1, C, H/8, W/8), keeps the picture as the newest preview of its prompt,
        and emits it."""
        png = encoded(tiny_autoencoder.decode(self._decoder, latents))
        name = f"{picture.shortname}_{picture.index}_{picture.size[0]}x{picture.size[1]}.png"
        path = self.plan.output_dir / PREVIEWS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drafts.write(path, png)
        self.emit(
            PreviewDrawn(
                step=self.step(),
                shortname=picture.shortname,
                prompt=picture.prompt,
                size=picture.size,
                sampling_step=at.number,
                sampling_steps=at.total,
                timestep=at.timestep,
                png=png,
                index=picture.index,
                path=path,
            )
        )


class Watch:
    """Follows the drawing of one picture."""

    def __init__(self, previews: Previews, picture: Picture) -> None:
        self._previews, self._picture = previews, picture
        self._before: SamplingStep | None = None
        self._ended = False

    def __call__(self, at: SamplingStep) -> None:
        """After each sampling step."""
        if self._ended:
            return
        try:
            if at.number % self._previews.plan.previews.every_steps == 0:
                self._previews.show(denoised(at, self._before), self._picture, at)
        except Exception as error:  # of a library, the device's memory or the disk
            self._ended = True
            self._previews.end(error)
        self._before = at


def denoised(at: SamplingStep, before: SamplingStep | None) -> Tensor:
    """The picture to which the last step leads: x - s v, where s is the noise that is left and v
    the direction of the step. Without `before`, which the first step has not, the latents."""
    if before is None or at.noise == 0 or at.noise == before.noise:
        return at.latents
    now = at.latents.float()
    velocity = (now - before.latents.float()) / (at.noise - before.noise)
    return now - at.noise * velocity


def encoded(pixels: Tensor) -> bytes:
    """(1, 3, H, W) in about [-1, 1] as PNG, no side longer than LONGEST_SIDE."""
    values = (pixels[0].clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    image = Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    whole = BytesIO()
    image.save(whole, "PNG")
    return whole.getvalue()
