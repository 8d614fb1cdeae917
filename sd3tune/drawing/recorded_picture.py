"""What a picture, or a model card, says about how it was drawn; and where the adapters and the
model may be: beside it, in its run, or named by the user. Reads names, headers and JSON; no
torch."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sd3tune.config.files.reading import read_text
from sd3tune.decision import AUTO, Decision, Provenance
from sd3tune.drawing.run_record import RunRecord, run_around
from sd3tune.errors import ConfigError, DataError
from sd3tune.formats import manifest
from sd3tune.formats.adapter_folder import adapters_in
from sd3tune.formats.picture_files import recipe_in
from sd3tune.formats.picture_recipe import AdapterUsed, PictureRecipe
from sd3tune.plan.drawing import DrawingAsked
from sd3tune.plan.encoding import Blank, CaptionPlan
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.plan.plan import ModelFiles
from sd3tune.sd3.models import ModelRequest
from sd3tune.sd3.variants import Model

CARDS = (".md", ".markdown")
# A link to a picture in Markdown, in HTML, or in the front matter of a card (`url: ./cat.png`).
LINK = re.compile(
    r"""(?:\]\(|src=["']|url:\s*["']?)<?([^)"'<>\s]+\.(?:png|jpe?g|webp))""", re.IGNORECASE
)
LEVELS = 3  # folders above a picture that are searched
SAGE, WHOLE = "sageattention", "as-training"


@dataclass(frozen=True)
class RecordedPicture:
    """A picture with its recipe. run: in whose output folder it lies."""

    path: Path
    recipe: PictureRecipe
    run: RunRecord | None


def pictures_of(path: Path) -> list[RecordedPicture]:
    """The picture itself, or those of a model card that are beside it and say how they were drawn.
    Raises DataError and ConfigError."""
    if path.is_dir():
        folder, path = path, path / "README.md"
        if not path.is_file():
            raise ConfigError(
                f"`{folder}` holds no model card, README.md",
                hint="name a picture, or the output folder of a finished run",
            )
    if path.suffix.lower() not in CARDS:
        return [RecordedPicture(path, recipe_in(path), run_around(path, LEVELS))]
    linked = list(dict.fromkeys(_linked(path)))
    if not linked:
        raise DataError(
            f"`{path}` shows no picture that is beside it",
            hint="download the whole repository of the card: its pictures carry their settings",
        )
    found, reasons = [], []
    for picture in linked:
        try:
            found.append(RecordedPicture(picture, recipe_in(picture), run_around(picture, LEVELS)))
        except DataError as e:
            reasons.append(str(e))
    if not found:
        raise DataError(
            f"`{path}`: none of its {len(linked)} pictures says how it was drawn: {reasons[0]}",
            hint="pictures that sd3tune wrote do; other programs drop it when they save them again",
        )
    return found


def _linked(card: Path) -> Iterator[Path]:
    for link in LINK.findall(read_text(card, "model card")):
        path = card.parent / unquote(link)
        inside = path.resolve().is_relative_to(card.parent.resolve())
        if "://" not in link and inside and path.is_file():
            yield path


def candidates(picture: RecordedPicture, used: AdapterUsed | None) -> list[Path]:
    """Files that may be the adapter of a picture, the most likely first. used None: the adapter of
    its run at its step. Which one it is, its hash decides."""
    found: list[Path] = []
    run, step = picture.run, picture.recipe.training_step
    if run is not None and step is not None:
        found += _of_run(run, step, picture.recipe.weights)
    if used is not None:
        above = list(picture.path.absolute().parents)[:LEVELS]
        found += [folder / f"{used.name}.safetensors" for folder in (*above, Path.cwd())]
    found += [p for folder in _near(picture) for p in _adapters(folder)]
    return [p for p in dict.fromkeys(found) if p.is_file()]


def _of_run(run: RunRecord, step: int, weights: str) -> Iterator[Path]:
    """The checkpoint of that step, then results. A checkpoint's state holds the values as they were
    trained, with the scale apart."""
    for folder in manifest.folders(run.folder):
        if manifest.step_of(folder) == step and manifest.is_ours(folder):
            yield folder / (manifest.AVERAGE if weights == "ema" else manifest.TRAINED)
            if weights != "ema":
                yield from _adapters(folder)
    yield from _adapters(run.folder)
    yield from _adapters(run.folder / "last")


def _near(picture: RecordedPicture) -> list[Path]:
    return list(picture.path.absolute().parents)[:LEVELS]


def _adapters(folder: Path) -> list[Path]:
    try:
        return adapters_in(folder)
    except OSError:
        return []


def model_of(picture: RecordedPicture, named: str | None) -> tuple[ModelRequest, str]:
    """The base model, and how it was found. Raises ConfigError."""
    recipe = picture.recipe
    if named is not None:
        return ModelRequest(named), "given with --model"
    source = recipe.model_source
    if picture.run is not None:
        return picture.run.model(), f"the base model of the run in {picture.run.folder}"
    if source is None:
        raise ConfigError(
            f"`{picture.path}` does not say its base model, only that it is a {recipe.model}",
            hint="give it: --model FOLDER, a repository, or a single file",
        )
    above = [folder / source for folder in _near(picture)]
    if (here := next((p for p in (Path(source), *above) if p.exists()), None)) is not None:
        return ModelRequest(str(here)), "named by the picture"
    if source.count("/") == 1:
        request = ModelRequest(
            source, recipe.transformer_source, revision=recipe.revision, variant=recipe.variant
        )
        return request, "named by the picture"
    raise ConfigError(
        f"the base model of `{picture.path}`, `{source}`, is not here",
        hint="give it: --model FOLDER, a repository, or a single file",
    )


def asked_again(
    picture: RecordedPicture, model: Model, request: ModelRequest, because: str, *, own: bool = True
) -> DrawingAsked:
    """What to draw so that the picture comes out again. own: with the picture's own number formats
    and kernels; otherwise with those of this machine."""
    recipe, text = picture.recipe, picture.recipe.text
    shape = model.transformer
    words = f"{model.source}: {shape.layers} blocks of width {shape.hidden}; {because}"
    return DrawingAsked(
        model=model,
        files=ModelFiles(Decision(model.name, AUTO, words), request.revision, request.variant),
        captions=CaptionPlan(
            t5_tokens=text.tokenizer_max_length,
            t5_padding="zero" if text.t5_padding == "zero" else "unmodified",
            blank_clip=_blank(text.sd3_clip_uncond_behaviour),
            blank_t5=_blank(text.sd3_t5_uncond_behaviour),
            at_once=1,
        ),
        sizes=((recipe.width, recipe.height),),
        steps=recipe.steps,
        guidance=recipe.guidance_scale,
        shift=recipe.shift,
        sampler=recipe.sampler.lower(),
        skip=_skipped(recipe, model),
        negative_prompt=recipe.negative_prompt,
        precision=_precision(recipe) if own else {},
        set_by=Provenance("user", str(picture.path)),
    )


def _blank(value: str) -> Blank:
    return "zero" if value == "zero" else "empty_string"


def _skipped(recipe: PictureRecipe, model: Model) -> SkipLayers | None:
    blocks, scale = recipe.skip_guidance_layers, recipe.skip_layer_guidance_scale
    start, stop = recipe.skip_layer_guidance_start, recipe.skip_layer_guidance_stop
    if not blocks or scale is None or start is None or stop is None:
        return None
    if beyond := [n for n in blocks if not 0 <= n < model.transformer.layers]:
        raise ConfigError(
            f"the picture skips block {beyond[0]}, and {model.name} has {model.transformer.layers}",
            hint="give the model that it was drawn with: --model",
        )
    return SkipLayers(blocks, scale, start, stop)


def _precision(recipe: PictureRecipe) -> dict[str, str]:
    """Axis of choice -> the picture's own value."""
    own = recipe.precision
    clip_l, clip_g, t5 = own.text_encoder_precisions
    sage = own.attention == SAGE
    kernels = (
        {"attention_no_grad": SAGE}
        if sage
        else {"attention_mechanism": own.attention, "attention_no_grad": WHOLE}
    )
    return {
        "mixed_precision": own.mixed_precision,
        "base_model_default_dtype": own.base_model_default_dtype,
        "base_model_precision": own.base_model_precision,
        "text_encoder_dtype": own.text_encoder_dtype,
        "text_encoder_1_precision": clip_l,
        "text_encoder_2_precision": clip_g,
        "text_encoder_3_precision": t5,
        "vae_dtype": own.vae_dtype,
        **kernels,
    }


def chosen_picture(found: Sequence[RecordedPicture], number: int | None) -> RecordedPicture:
    """The picture with that number, from 1. Raises ConfigError."""
    if number is not None and not 1 <= number <= len(found):
        raise ConfigError(
            f"`--picture {number}`: there are {len(found)} pictures", hint="use a number from 1"
        )
    return found[(number or 1) - 1]


def refuse_full(picture: RecordedPicture) -> None:
    """Raises DataError for a picture in the middle of full training, whose weights no file holds in
    a form that a model is loaded from."""
    run, recipe = picture.run, picture.recipe
    if run is None or run.settings.model_type != "full" or recipe.weights == "base":
        return
    raise DataError(
        f"`{picture.path}` was drawn with all weights trained, at step {recipe.training_step}",
        hint="draw with the result of the run: `sd3tune sample` takes its output folder",
    )
