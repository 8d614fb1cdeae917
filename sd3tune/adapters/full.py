"""Full fine-tuning: every weight of the transformer is trained, without an adapter."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained, copies
from sd3tune.errors import PlanError
from sd3tune.filesystem import opening
from sd3tune.sd3 import weights
from sd3tune.sd3.variants import ModelSource

FOLDER = "pipeline"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name


@dataclass(frozen=True)
class Full(Trained):
    """The transformer itself."""

    source: ModelSource  # the model it began as
    keeps_base: ClassVar[bool] = False
    light: ClassVar[bool] = False

    @contextmanager
    def off(self) -> Iterator[None]:
        raise PlanError(
            "full training keeps no copy of the model as it was", hint="set model_type=lora"
        )
        yield

    def values(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Every weight, and the table of positions, which is not a parameter."""
        return copies(self.model.state_dict(), keep=keep)

    def write(self, folder: Path, values: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
        """`pipeline/` as StableDiffusion3Pipeline.from_pretrained takes it: the trained
        transformer, and the other parts of the model it began as."""
        from safetensors.torch import save_file

        place = folder / FOLDER / "transformer"
        self.model.save_config(str(place))
        # Straight to the disk: files.save would hold the file in memory a second time.
        save_file(dict(values), place / WEIGHTS, metadata={"format": "pt", **about})
        self._others(folder / FOLDER)
        return folder / FOLDER

    def _others(self, place: Path) -> None:
        base, alone = Path(self.source.base), {"transformer"}
        if self.source.vae != self.source.base:
            weights.vae(self.source, "fp32").save_pretrained(place / "vae")
            alone.add("vae")
        for part in sorted(base.iterdir()):
            if part.is_dir() and part.name not in alone and not part.name.startswith("."):
                target = place / part.name
                shutil.copytree(part, target, copy_function=_linked, ignore=_elsewhere)
        if (index := base / "model_index.json").is_file():
            shutil.copy(index, place)


def attach(transformer: Any, source: ModelSource, *, dtype: torch.dtype) -> Full:
    """Every weight is trained, in `dtype`."""
    return Full(transformer.to(dtype).requires_grad_(True), source)


def _elsewhere(folder: str, names: list[str]) -> list[str]:
    """Names that are not copied: links to folders, which could hold a whole disk, and pipes, which
    have no end."""
    paths = [Path(folder) / name for name in names]
    return [p.name for p in paths if (p.is_symlink() and p.is_dir())
            or not (p.is_dir() or opening.is_regular(p))]  # fmt: skip


def _linked(source: str, target: str) -> None:
    """T5 alone is nine gigabytes: the same bytes under a second name where the disk allows it.
    Weights are replaced, never written into."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)
