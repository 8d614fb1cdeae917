"""Full fine-tuning: every weight of the transformer moves, and there is no adapter."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from sd3tune.adapters.trained import Trained, whole
from sd3tune.errors import PlanError

FOLDER = "pipeline"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name


@dataclass(frozen=True)
class Full(Trained):
    """The transformer itself."""

    source: Path  # the folder of the model it began as
    keeps_base: ClassVar[bool] = False
    light: ClassVar[bool] = False

    @contextmanager
    def off(self) -> Iterator[None]:
        raise PlanError(
            "full training keeps no copy of the model as it was", hint="set model_type=lora"
        )
        yield

    def export(self, folder: Path, about: Mapping[str, str]) -> Path:
        """`pipeline/` as StableDiffusion3Pipeline.from_pretrained takes it: the trained
        transformer, and the other parts of the model it began as."""
        from safetensors.torch import save_file

        state = {n: whole(t).cpu().contiguous().clone() for n, t in self.model.state_dict().items()}
        place = folder / FOLDER / "transformer"
        self.model.save_config(str(place))
        save_file(state, place / WEIGHTS, metadata={"format": "pt", **about})
        for part in sorted(self.source.iterdir()):
            if part.is_dir() and part.name != "transformer" and not part.name.startswith("."):
                shutil.copytree(part, folder / FOLDER / part.name, copy_function=_linked)
        if (index := self.source / "model_index.json").is_file():
            shutil.copy(index, folder / FOLDER)
        return folder / FOLDER


def attach(transformer: Any, source: Path, *, dtype: torch.dtype) -> Full:
    """Every weight is trained, in `dtype`."""
    return Full(transformer.to(dtype).requires_grad_(True), source)


def _linked(source: str, target: str) -> None:
    """T5 alone is nine gigabytes: the same bytes under a second name where the disk allows it.
    Weights are replaced, never written into."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)
