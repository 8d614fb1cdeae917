"""What a run recorded of itself, for drawing with its result: the settings in the plan.json of its
newest checkpoint. Written by sd3tune, and read like a stranger's file."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening
from sd3tune.formats import manifest
from sd3tune.sd3.models import ModelRequest

PLAN, QUANTISED = "plan.json", Path("cache") / "quantised"
Blank = Literal["empty_string", "zero"]


class RecordedSettings(BaseModel):
    """The settings of a run that matter for its pictures, by their names. Defaults are those of
    diffusers' pipeline for pictures of a model alone, and of the settings."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    pretrained_model_name_or_path: str
    pretrained_transformer_model_name_or_path: str | None = None
    pretrained_transformer_subfolder: str = "transformer"
    revision: str | None = None
    variant: str | None = None
    output_dir: Path
    model_type: str = "lora"
    lora_type: str = "standard"
    lora_rank: int = Field(16, ge=1)
    lora_alpha: float | None = None
    use_rslora: bool = False
    use_ema: bool = False
    seed: int = 42
    tokenizer_max_length: int = Field(256, ge=1, le=512)
    t5_padding: Literal["unmodified", "zero"] = "unmodified"
    sd3_clip_uncond_behaviour: Blank = "empty_string"
    sd3_t5_uncond_behaviour: Blank = "empty_string"
    flow_schedule_shift: float = Field(3.0, gt=0, allow_inf_nan=False)
    flow_schedule_auto_shift: bool = False
    validation_negative_prompt: str = ""
    validation_resolution: tuple[tuple[int, int], ...] = ()
    validation_guidance: float = Field(3.0, ge=0, allow_inf_nan=False)
    validation_num_inference_steps: int = Field(30, ge=1)
    validation_noise_scheduler: Literal["euler", "heun", "unipc", "dpm++"] = "euler"
    validation_seed: int | None = None
    validation_guidance_skip_layers: tuple[int, ...] | None = None
    validation_guidance_skip_layers_start: float = 0.01
    validation_guidance_skip_layers_stop: float = 0.2
    validation_guidance_skip_scale: float = 2.8


class RunRecord(BaseModel):
    """A run by its output folder. settings: as its newest checkpoint has them."""

    model_config = ConfigDict(frozen=True)
    folder: Path
    checkpoint: Path
    settings: RecordedSettings

    def model(self) -> ModelRequest:
        """The base model. Where the run and its model were moved together, it is where it lies
        now."""
        own = self.settings
        other = own.pretrained_transformer_model_name_or_path
        return ModelRequest(
            self._present(own.pretrained_model_name_or_path),
            None if other is None else self._present(other),
            own.pretrained_transformer_subfolder,
            own.revision,
            own.variant,
        )

    def _present(self, source: str) -> str:
        path = Path(source)
        if not path.is_absolute() or path.exists():
            return source
        beside = os.path.relpath(path, self.settings.output_dir)
        moved = Path(os.path.normpath(self.folder / beside))
        return str(moved) if moved.exists() else source

    @property
    def quantised_cache(self) -> Path | None:
        """The folder in which the run keeps quantised weights; None: it has none."""
        folder = self.folder / QUANTISED
        return folder if folder.is_dir() else None


def run_at(folder: Path) -> RunRecord | None:
    """The run whose output folder this is; None where it is not one. Raises ModelError for a plan
    that cannot be understood."""
    checkpoint = newest(folder)
    if checkpoint is None or not (checkpoint / PLAN).exists():
        return None
    path = checkpoint / PLAN
    hint = "give the base model with --model, and an adapter file instead of the folder"
    try:
        settings = RecordedSettings.model_validate(opening.json_object(path).get("config"))
    except ValidationError as e:
        wrong = e.errors()[0]
        words = f"`{path}`: `{'.'.join(map(str, wrong['loc']))}`: {wrong['msg'].lower()}"
        raise ModelError(words, hint=hint) from None
    except (OSError, ValueError) as e:
        raise ModelError(f"`{path}` cannot be read: {e}", hint=hint) from None
    return RunRecord(folder=folder, checkpoint=checkpoint, settings=settings)


def run_around(path: Path, levels: int = 2) -> RunRecord | None:
    """The run in whose output folder a file or folder lies, at most so many levels up."""
    folder = path.absolute()
    for _ in range(levels):
        folder = folder.parent
        if (found := run_at(folder)) is not None:
            return found
    return None


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in a folder, that sd3tune wrote; None: there is none."""
    try:
        ours = (f for f in reversed(manifest.folders(folder)) if manifest.is_ours(f))
        return next(ours, None)
    except OSError:
        return None
