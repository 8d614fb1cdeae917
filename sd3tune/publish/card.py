"""The model card of a run: README.md, as hubs of Hugging Face show it. A pure function of the plan
and of how the run ended; text of other people in it stays text (publish/markdown.py).

No path of this machine, no host, no date, and no caption of a single image is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote

from sd3tune import __version__
from sd3tune.plan.describe import decisions
from sd3tune.plan.plan import Plan
from sd3tune.publish import loading_code, markdown
from sd3tune.publish.card_pictures import GalleryPicture
from sd3tune.publish.front_matter import front_matter
from sd3tune.publish.licence import licence

FILE = "README.md"
SETTINGS = "training_settings.json"  # beside it: the settings of the run, without paths
MARK = "<!-- Written by sd3tune. Remove this line, and no run writes over your changes. -->"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "lycoris-lora")
HUB = "https://huggingface.co"
KINDS = {
    "lora": "A LoRA adapter for",
    "lycoris": "A LyCORIS adapter for",
    "full": "All weights of the transformer, trained from",
}


@dataclass(frozen=True)
class Ended:
    """How a run ended. losses: on fixed images and noise. sheet: before and after, as a link below
    output_dir."""

    step: int
    loss_before: float | None
    loss_after: float | None
    pictures: Sequence[GalleryPicture] = ()
    sheet: str | None = None
    last: str | None = None  # beside an average: the file or folder of the last values


def card(plan: Plan, ended: Ended) -> str:
    """The page, in Markdown with its front matter."""
    sections = [
        _head(plan, ended),
        _trigger_words(plan),
        _pictures(ended),
        _use(plan, ended),
        _training(plan, ended),
        _data(plan),
        _evaluation(ended),
        _machine(plan),
        _safety(plan),
        f"## Licence\n\n{licence(plan).sentence}",
    ]
    body = "\n\n".join(filter(None, sections))
    return f"{front_matter(plan, ended.pictures)}{MARK}\n\n{body}\n"


def _head(plan: Plan, ended: Ended) -> str:
    base = plan.publishing.base
    named = base.transformer or base.name
    link = markdown.text(named)
    if not base.local:
        link = f"[{link}]({HUB}/{quote(named)})"
    images = sum(d.images for d in plan.publishing.datasets)
    trained = f"trained for {ended.step} steps on {images} images"
    lines = [
        f"# {markdown.text(plan.result.title)}",
        f"{KINDS[plan.trained.kind.value]} {link}, {trained} with sd3tune {__version__}.",
        markdown.paragraphs(plan.publishing.note),
    ]
    return "\n\n".join(filter(None, lines))


def _trigger_words(plan: Plan) -> str:
    if not plan.result.trigger_words:
        return ""
    words = "\n".join(f"- {markdown.text(words)}" for words in plan.result.trigger_words)
    return f"## Trigger words\n\nThe captions of training have these words:\n\n{words}"


def _pictures(ended: Ended) -> str:
    if not ended.pictures:
        return ""
    parts = ["## Pictures", "Drawn at the end of the run; validation pictures, not selected."]
    if ended.sheet is not None:
        parts.append(f"![before and after training]({ended.sheet})")
    for picture in ended.pictures:
        parts += _picture(picture)
    return "\n\n".join(parts)


def _picture(picture: GalleryPicture) -> Iterator[str]:
    prompt = markdown.text(picture.prompt) or "no prompt"
    after = f"![{prompt}]({picture.file})"
    if picture.before is None:
        yield after
    else:
        before = f"![before: {prompt}]({picture.before})"
        yield f"| before training | after |\n| - | - |\n| {before} | {after} |"
    yield prompt
    if picture.metadata:
        shown = markdown.json_block(picture.metadata)
        yield f"<details><summary>how it was drawn</summary>\n\n{shown}\n\n</details>"


def _use(plan: Plan, ended: Ended) -> str:
    parts = ["## Use"]
    if loading_code.runs_in_diffusers(plan):
        drawn = ended.pictures[0].metadata if ended.pictures else {}
        parts.append(markdown.code("python", loading_code.code(plan, drawn)))
    parts += _remarks(plan, ended)
    return "\n\n".join(parts)


def _remarks(plan: Plan, ended: Ended) -> Iterator[str]:
    file, base = markdown.text(plan.result.file), plan.precision.transformer.value
    if not loading_code.runs_in_diffusers(plan) and plan.trained.lora is not None:
        yield (
            f"{file} is in the dialect of {plan.trained.lora.dialect}. For diffusers, "
            f"`sd3tune export` writes it again: `--to diffusers`."
        )
    if plan.trained.lycoris is not None:
        yield (
            "diffusers has no loader for LyCORIS: the code puts the adapter beside the transformer "
            "with lycoris-lora (`pip install lycoris-lora`). ComfyUI loads the file."
        )
    if plan.publishing.base.local:
        yield "The base model was a folder or file of its author; set `base` to where you have it."
    if base != "no_change":
        yield (
            f"The base model was quantised ({markdown.text(base)}) in training and for the "
            "pictures. The adapter also loads on the model as it was released, as above."
        )
    if plan.optimizer.average is not None:
        last = "" if ended.last is None else f" The last values are in `{ended.last}`."
        yield (
            "The weights are the moving average of training (EMA, decay "
            f"{plan.optimizer.average.decay:g}).{last}"
        )
    if plan.trained.lycoris is None:
        yield "With little memory, replace `pipe.to(device)` by `pipe.enable_model_cpu_offload()`."


def _training(plan: Plan, ended: Ended) -> str:
    rows = [(name, value) for name, value in _settings(plan, ended) if value not in ("", None)]
    table = markdown.table(("setting", "value"), rows)
    return f"## Training\n\n{table}\n\nAll settings that were set are in `{SETTINGS}`."


def _settings(plan: Plan, ended: Ended) -> Iterator[tuple[str, object]]:
    rate, data, size = plan.optimizer.rate, plan.data, plan.processes.size
    chosen = {axis: decision.value for axis, decision in decisions(plan).items()}
    yield "steps", f"{ended.step} of {plan.steps}"
    yield "images per step", f"{plan.batch_size} x {data.accumulation.value} x {size}"
    yield "learning rate", f"{plan.optimizer.peak_rate.value:g}, {rate.name}, warmup {rate.warmup}"
    yield "optimizer", plan.optimizer.name.value
    yield from _of_adapter(plan)
    for name in ("mixed_precision", "base_model_default_dtype", "base_model_precision"):
        yield name, chosen[name]
    yield "resolution", f"{data.square} x {data.square}, in buckets of aspects"
    shift = plan.loss.levels.shift
    yield "flow_schedule_shift", "by the number of tokens" if shift is None else f"{shift:g}"
    yield "max_grad_norm", f"{plan.optimizer.max_grad_norm:g}"
    yield "seed", plan.seed


def _of_adapter(plan: Plan) -> Iterator[tuple[str, object]]:
    trained = plan.trained
    if trained.lora is not None:
        yield "rank, alpha", f"{trained.lora.rank}, {trained.lora.alpha:g}"
        yield "target modules", ", ".join(trained.lora.targets.value)
        if trained.lora.dora:
            yield "DoRA", "on"
    if trained.lycoris is not None:
        yield "LyCORIS algorithm", trained.lycoris.algo
    yield "trained values", f"{trained.count:,}"


def _data(plan: Plan) -> str:
    rows = [
        (
            d.name + (" (regularisation)" if d.regularisation else ""),
            d.images,
            d.repeats,
            d.crop or "none",
            ", ".join(f"{w}x{h}" for w, h in d.sizes[:4]) + (", …" if len(d.sizes) > 4 else ""),
        )
        for d in plan.publishing.datasets
    ]
    if not rows:
        return ""
    table = markdown.table(("dataset", "images", "repeats", "crop", "sizes in pixels"), rows)
    return f"## Data\n\n{table}"


def _evaluation(ended: Ended) -> str:
    if ended.loss_before is None or ended.loss_after is None:
        return ""
    before, after = ended.loss_before, ended.loss_after
    change = f" ({after / before - 1:+.1%})" if before else ""
    return (
        f"## Evaluation\n\nLoss on fixed images and noise: {before:.4f} before training, "
        f"{after:.4f} after{change}."
    )


def _machine(plan: Plan) -> str:
    device, size = plan.hardware.device, plan.processes.size
    rows: list[tuple[str, object]] = [
        ("device", f"{size} x {device.name}" if size > 1 else device.name)
    ]
    rows += [("sd3tune", __version__), *_versions(plan)]
    return "## Machine\n\n" + markdown.table(("part", "name or version"), rows)


def _versions(plan: Plan) -> Iterator[tuple[str, str]]:
    for library in LIBRARIES:
        if library == "lycoris-lora" and plan.trained.lycoris is None:
            continue
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


def _safety(plan: Plan) -> str:
    stated = (
        "Its author states that this model is safe for work."
        if plan.publishing.safe_for_work
        else "Nobody has stated that this model is safe for work; it has the tag "
        "`not-for-all-audiences`."
    )
    return (
        f"## Safety\n\n{stated} No safety checker is part of it. What its base model can draw, it "
        "can draw too."
    )
