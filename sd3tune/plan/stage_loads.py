"""What decides the memory of the stages beside the training step: captions, latents, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sd3tune.config.datasets.listing import Datasets
from sd3tune.data.discover import Discovery
from sd3tune.plan.memory import Load
from sd3tune.plan.plan import Plan
from sd3tune.sd3.variants import tokens

CAPTIONS, LATENTS, TRAINING, PICTURES = "captions", "latents", "training", "pictures"
STAGES = (CAPTIONS, LATENTS, TRAINING, PICTURES)  # in the order of a run


@dataclass(frozen=True)
class CaptionLoad:
    """Text encoders on the device. encoders: their parameters; 0: the model lacks one. tokens: of
    T5. width: of the embeddings. folder: of a model of other sizes than the released ones; empty:
    none is on this disk."""

    vendor: str
    dtype: str
    precisions: tuple[str, str, str]
    encoders: tuple[int, int, int]
    tokens: int
    batch: int
    width: int
    folder: str = ""


@dataclass(frozen=True)
class LatentLoad:
    """The VAE's encoder on images of one size. vae: its parameters. width, height: in pixels."""

    vendor: str
    dtype: str
    vae: int
    width: int
    height: int
    batch: int
    folder: str = ""


@dataclass(frozen=True)
class PictureLoad:
    """One validation picture beside what stays on the device. training: of a step. guided: the
    transformer sees a batch of two. skips: and a further pass without some blocks."""

    training: Load
    vae: int
    vae_dtype: str
    width: int
    height: int
    guided: bool
    skips: bool = False
    folder: str = ""

    @property
    def passing(self) -> Load:
        """The load of one pass of the transformer."""
        return replace(
            self.training, batch=2 if self.guided else 1, tokens=tokens(self.width, self.height)
        )


StageLoad = CaptionLoad | LatentLoad | Load | PictureLoad


def stage_loads(
    plan: Plan,
    datasets: Datasets,
    discoveries: Mapping[str, Discovery],
    prompts: Sequence[str],
) -> dict[str, StageLoad]:
    """The load of each stage that computes on the device, by its name, in the order of a run."""
    loads: dict[str, StageLoad] = {}
    if plan.memory.offload.value != "text_encoders":
        loads[CAPTIONS] = caption_load(plan)
    if (images := latent_load(plan, datasets, discoveries)) is not None:
        loads[LATENTS] = images
    loads[TRAINING] = plan.memory.load
    if prompts:
        loads[PICTURES] = picture_load(plan)
    return loads


def caption_load(plan: Plan) -> CaptionLoad:
    """One batch of captions."""
    load = plan.memory.load
    return CaptionLoad(
        vendor=load.vendor,
        dtype=load.text_dtype,
        precisions=load.text_precisions,
        encoders=plan.model.text_encoders,
        tokens=plan.captions.t5_tokens,
        batch=plan.captions.at_once,
        width=plan.model.transformer.joint_dim,
        folder=_folder(plan.model.source.base),
    )


def latent_load(
    plan: Plan, datasets: Datasets, discoveries: Mapping[str, Discovery]
) -> LatentLoad | None:
    """The batch with the most pixels, over all datasets; None without images."""
    batches = [
        (dataset.vae_batch_size, sample.geometry.bucket)
        for dataset in datasets.all
        if dataset.id in discoveries
        for sample in discoveries[dataset.id].samples
    ]
    if not batches:
        return None
    batch, (width, height) = max(set(batches), key=lambda b: (b[0] * b[1][0] * b[1][1], b))
    return LatentLoad(
        vendor=plan.facts.vendor,
        dtype=plan.precision.vae.value,
        vae=plan.model.vae,
        width=width,
        height=height,
        batch=batch,
        folder=_folder(plan.model.source.vae),
    )


def picture_load(plan: Plan) -> PictureLoad:
    """The largest picture."""
    drawn, kernel = plan.pictures, plan.attention.sampling.value
    width, height = max(drawn.sizes, key=lambda size: (size[0] * size[1], size))
    return PictureLoad(
        training=replace(
            plan.memory.load, scores=kernel == "native-math", slices=kernel == "sliced"
        ),
        vae=plan.model.vae,
        vae_dtype=plan.precision.vae.value,
        width=width,
        height=height,
        guided=drawn.guidance > 1,
        skips=drawn.skip is not None,
        folder=_folder(plan.model.source.vae),
    )


def _folder(source: str) -> str:
    """The folder of a model on this disk, whose configuration says its sizes."""
    return str(Path(source).resolve()) if Path(source).is_dir() else ""
