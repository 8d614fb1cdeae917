"""What decides a picture, as it travels with it: in the text of a PNG, in the EXIF of a JPEG or
WebP, and in a model card.

Two forms: one JSON object under the key `sd3tune`, from which `sd3tune reproduce` draws the picture
again, and A1111's text under `parameters`, which A1111, ComfyUI and picture viewers read. Neither
holds a path or a date: pictures are shared.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sd3tune.errors import DataError

A1111, OURS = "parameters", "sd3tune"  # keys of the texts
LONGEST = 2**20  # characters of a recipe


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AdapterUsed(_Part):
    """An adapter that a picture was drawn with. weights_sha256: of its numbers, the same in every
    dialect (formats/adapter_hash.py); sha256: of its file, where it came from one."""

    name: str
    strength: float = 1.0
    weights_sha256: str | None = None
    sha256: str | None = None


class PrecisionUsed(_Part):
    """Number formats and kernels, by the values of the settings. weights_only_layers: of a model
    that multiplies in 8 bits, those that multiply by their dequantised weight; None: not known."""

    mixed_precision: str = "no"
    base_model_default_dtype: str = "fp32"
    base_model_precision: str = "no_change"
    text_encoder_dtype: str = "fp32"
    text_encoder_precisions: tuple[str, str, str] = ("no_change", "no_change", "no_change")
    vae_dtype: str = "fp32"
    attention: str = "diffusers"
    weights_only_layers: tuple[str, ...] | None = None


class TextUsed(_Part):
    """How prompts were encoded, by the names and values of the settings."""

    tokenizer_max_length: int = Field(256, ge=1, le=4096)
    t5_padding: str = "unmodified"
    sd3_clip_uncond_behaviour: str = "empty_string"
    sd3_t5_uncond_behaviour: str = "empty_string"


class PictureRecipe(_Part):
    """Everything that decides a picture. model_source: the id of a repository, or the name of a
    folder or file. weights: `base`, `last` or `ema`. shift None: by the number of tokens.
    model_identity: of the transformer's files (sd3/weights.py). device: the backend."""

    prompt: str
    negative_prompt: str = ""
    seed: int = Field(ge=0, lt=2**64)
    width: int = Field(gt=0, le=2**16)
    height: int = Field(gt=0, le=2**16)
    sampler: str = "euler"
    steps: int = Field(gt=0, le=100_000)
    guidance_scale: float = Field(ge=0, allow_inf_nan=False)
    shift: float | None = Field(None, gt=0, allow_inf_nan=False)
    skip_guidance_layers: tuple[int, ...] | None = None
    skip_layer_guidance_scale: float | None = None
    skip_layer_guidance_start: float | None = None
    skip_layer_guidance_stop: float | None = None
    model: str
    model_source: str | None = None
    transformer_source: str | None = None  # where it is another than the model's own
    revision: str | None = None
    variant: str | None = None
    model_identity: str | None = None
    adapter: str | None = None  # its title
    adapters: tuple[AdapterUsed, ...] = ()
    training_step: int | None = None
    weights: str = "last"
    precision: PrecisionUsed = PrecisionUsed()
    text: TextUsed = TextUsed()
    pixels_sha256: str | None = None  # of the picture as it was drawn: its RGB bytes
    device: str | None = None
    device_name: str | None = None
    threads: int | None = Field(None, ge=1, le=4096)  # of a CPU: they decide the order of sums
    version: str = ""  # of sd3tune
    versions: Mapping[str, str] = Field(default_factory=dict)  # of libraries

    def texts(self) -> dict[str, str]:
        """By key of a text chunk."""
        return {A1111: self.as_a1111(), OURS: json.dumps(self.as_json())}

    def as_json(self) -> dict[str, Any]:
        """One JSON object, which `recipe_of` reads."""
        return self.model_dump(mode="json")

    def as_a1111(self) -> str:
        """Prompt, negative prompt, and one line of settings; a value with a comma is quoted."""
        skipped = self.skip_guidance_layers
        shown = {
            "Steps": self.steps,
            "Sampler": self.sampler.capitalize(),
            "CFG scale": f"{self.guidance_scale:g}",
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model": self.model,
            "Shift": None if self.shift is None else f"{self.shift:g}",
            "Skip layers": None if skipped is None else ", ".join(map(str, skipped)),
            "Adapter": self.adapter,
            "Training step": self.training_step,
            "Version": f"sd3tune {self.version}",
        }
        pairs = (f"{key}: {_quoted(str(v))}" for key, v in shown.items() if v is not None)
        negative = self.negative_prompt
        lines = [self.prompt, *([f"Negative prompt: {negative}"] if negative else [])]
        return "\n".join([*lines, ", ".join(pairs)])


def recipe_of(text: str, where: str = "the picture") -> PictureRecipe:
    """The recipe in a JSON text. where: it came from, for messages. Raises DataError."""
    hint = "give a picture of `sd3tune sample` or of a validation, as it was written"
    try:
        if len(text) > LONGEST:
            raise ValueError(f"it has more than {LONGEST} characters")
        return PictureRecipe.model_validate(json.loads(text))
    except ValidationError as e:
        wrong = e.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        words = f"`{where}`: `{key}` in its metadata: {wrong['msg'].lower()}"
        raise DataError(words, hint=hint) from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"`{where}`: its metadata is not JSON: {e}", hint=hint) from None


def _quoted(value: str) -> str:
    return json.dumps(value) if set(value) & set(",:\n") else value
