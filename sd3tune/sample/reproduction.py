"""Draws a recorded picture again and compares: which adapter it was, by its hash; how equal the
pictures are, in decibels; and what here differs from where it was drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from math import inf, log10
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sd3tune import __version__
from sd3tune.drawing.drawing_sources import AdapterSource, split_strength
from sd3tune.drawing.recorded_picture import RecordedPicture, candidates
from sd3tune.drawing.run_record import RunRecord
from sd3tune.errors import ConfigError, DataError, ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import adapter_files, file_metadata, manifest
from sd3tune.formats.adapter_hash import file_sha256, weights_sha256
from sd3tune.formats.adapter_weights import LoraWeights, ModuleWeights
from sd3tune.formats.picture_files import pixels_sha256
from sd3tune.formats.picture_recipe import AdapterUsed, PictureRecipe
from sd3tune.sample.adapted import Adapter, refuse_other_layers
from sd3tune.sd3 import finite
from sd3tune.sd3.variants import Transformer

STATES = (manifest.TRAINED, manifest.AVERAGE)
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"  # peft's names in a checkpoint
LOSSLESS = (".png",)
SAME_ENOUGH = 50.0  # dB: what another device may change in float32


@dataclass(frozen=True)
class Compared:
    """equal: every pixel is the same. decibels: peak signal-to-noise ratio; None where equal.
    largest: difference of a colour, of 255. lossy: the file is a JPEG or WebP, which its own
    compression has changed."""

    equal: bool
    decibels: float | None
    largest: int
    lossy: bool

    @property
    def close(self) -> bool:
        """Whether it counts as the same picture."""
        return self.equal or (self.decibels or 0) >= SAME_ENOUGH


def compared(picture: RecordedPicture, again: Any) -> Compared:
    """again: the PIL image. Raises DataError for a picture of another size than its recipe says."""
    with Image.open(picture.path) as image:
        before = np.asarray(image.convert("RGB"), np.int16)
    after = np.asarray(again.convert("RGB"), np.int16)
    if before.shape != after.shape:
        height, width = before.shape[:2]
        raise DataError(
            f"`{picture.path}` has {width}x{height} pixels, its metadata says "
            f"{again.width}x{again.height}",
            hint="give the picture as it was written",
        )
    lossy = picture.path.suffix.lower() not in LOSSLESS
    difference = np.abs(before - after)
    hashed = picture.recipe.pixels_sha256
    equal = pixels_sha256(again) == hashed if lossy and hashed else not difference.any()
    squared = float((difference.astype(np.float64) ** 2).mean())
    decibels = None if equal else 10 * log10(255**2 / squared) if squared else inf
    return Compared(bool(equal), decibels, int(difference.max()), lossy)


def adapters_again(
    picture: RecordedPicture, given: Sequence[str], shape: Transformer
) -> list[Adapter]:
    """The adapters of a picture: those given, or found by their hash. Raises DataError where one is
    missing or another one, ModelError where it does not fit."""
    recipe = picture.recipe
    wanted: list[AdapterUsed | None] = list(recipe.adapters)
    if not wanted and recipe.weights != "base" and recipe.training_step is not None:
        wanted = [None]  # of a run that wrote no hash: its step decides
    if given and len(given) != len(wanted):
        raise ConfigError(
            f"{len(given)} adapters are given, and `{picture.path}` was drawn with {len(wanted)}",
            hint="give them in the order of the picture's metadata",
        )
    found = []
    for number, used in enumerate(wanted):
        files = [split_strength(given[number], 1.0)[0]] if given else candidates(picture, used)
        by_user = bool(given)
        found.append(_matching(picture, used, files, shape, given_by_user=by_user))
    return found


def _matching(
    picture: RecordedPicture,
    used: AdapterUsed | None,
    files: Sequence[Path],
    shape: Transformer,
    *,
    given_by_user: bool,
) -> Adapter:
    """The file with the numbers that the picture was drawn with; where no hash tells, the one of
    its step, or the one that the user names."""
    for path in files:
        try:
            modules = _modules(path, picture.run)
        except ModelError:
            continue
        sums = weights_sha256(modules)
        if used is None or used.weights_sha256 is None:
            same = given_by_user or _step_of(path) == picture.recipe.training_step
        else:
            same = used.weights_sha256 == sums
        if same:
            strength = 1.0 if used is None else used.strength
            source = AdapterSource(path, strength)
            refuse_other_layers(source, modules, shape)
            name = path.stem if used is None else used.name
            whole = file_sha256(path)
            return Adapter(
                source, modules, AdapterUsed(name=name, strength=strength, weights_sha256=sums,
                                             sha256=whole)
            )  # fmt: skip
    step = picture.recipe.training_step
    name = f"the adapter of step {step}" if used is None else f"`{used.name}`"
    tried = f"; none of {len(files)} adapters near it has its numbers" if files else ""
    gone = f"; the run has no checkpoint of step {step} any more" if step and not files else ""
    raise DataError(
        f"`{picture.path}` was drawn with {name}, which is not here{tried}{gone}",
        hint="give it with --adapter; a run keeps checkpoints_total_limit checkpoints",
    )


def _modules(path: Path, run: RunRecord | None) -> dict[str, ModuleWeights]:
    """Of an adapter file; or of the state in a checkpoint, whose scale is in the run's settings."""
    if path.name not in STATES or run is None:
        return dict(adapter_files.read(path).modules)
    from safetensors.torch import load_file

    finite.check(path)
    state, own = load_file(path), run.settings
    alpha = own.lora_rank if own.lora_alpha is None else own.lora_alpha
    if own.use_rslora:
        alpha *= own.lora_rank**0.5
    names = [n.removesuffix(DOWN) for n in state if n.endswith(DOWN)]
    if not names or len(state) != 2 * len(names):
        raise ModelError(f"`{path}` is not the state of a plain LoRA", hint="give its file")
    return {n: LoraWeights(state[n + DOWN], state[n + UP], float(alpha)) for n in names}


def _step_of(path: Path) -> int | None:
    """The step of training that a file is of: of its checkpoint, or by its metadata."""
    if path.name in STATES:
        return manifest.step_of(path.parent)
    text = safetensors_header.read(path).metadata.get(file_metadata.STEP, "")
    return int(text) if text.isascii() and text.isdigit() else None


def differences(recipe: PictureRecipe, again: PictureRecipe) -> Iterator[str]:
    """What here differs from where the picture was drawn, a sentence each."""
    if recipe.device_name and (recipe.device, recipe.device_name) != (
        again.device,
        again.device_name,
    ):
        here = f"{again.device_name} ({again.device})"
        yield f"it was drawn on {recipe.device_name} ({recipe.device}), this is {here}"
    for name, version in recipe.versions.items():
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            here = "not installed"
        if here != version:
            yield f"it was drawn with {name} {version}, here is {here}"
    if recipe.version and recipe.version != __version__:
        yield f"it was drawn with sd3tune {recipe.version}, this is {__version__}"
    before, now = recipe.precision.model_dump(), again.precision.model_dump()
    for name, value in before.items():
        if value is not None and now[name] != value:
            yield f"it was drawn with {name}={_shown(value)}, here it is {_shown(now[name])}"
    if recipe.model_identity and recipe.model_identity != again.model_identity:
        yield "the files of the base model are others than those it was drawn with"
    if recipe.threads != again.threads and None not in (recipe.threads, again.threads):
        yield f"it was drawn with {recipe.threads} threads, here are {again.threads}"


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple | list) else str(value)
