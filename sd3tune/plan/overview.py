"""How much a run is, in numbers that people ask for before they start it: images, epochs, pictures,
files, downloads, host memory. The trainer reads none of this.

Sizes on the disk are those of a first run, which finds no cache. Pure, like the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sd3tune.backends.decide import limits
from sd3tune.backends.observe.facts import Device
from sd3tune.config.datasets.listing import Datasets
from sd3tune.data.discover import Discovery, Sample
from sd3tune.data.order import Schedule
from sd3tune.plan.evaluation_count import EvaluationCount, evaluation_count
from sd3tune.plan.memory import BYTES, GIB, gib
from sd3tune.plan.plan import Plan
from sd3tune.plan.run_time import Counted, RunTime, run_time
from sd3tune.plan.stage_loads import LATENTS, PICTURES, stage_loads
from sd3tune.plan.stage_peaks import StagePeak, stage_peaks
from sd3tune.sd3.missing_parts import part_sizes
from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE

HEADER_BYTES = 512  # of a cache entry, at most
CACHED_BYTES = 2  # of a value: latents and embeddings are kept in 16 bits
CODED = 0.7  # of embeddings that look random, which coding makes least smaller (concepts/caches.md)
MOST_COUNTED = 20_000  # images of an epoch whose order plan looks at
MOST_EVALUATION = 0.5  # share of training's computing from which on a warning says it
TOO_LARGE = {  # stage -> what it does, and what follows where memory ends
    LATENTS: ("encoding images", "smaller batches or tiles are tried then; lower vae_batch_size"),
    PICTURES: (
        "drawing pictures",
        "training goes on without them then; lower validation_resolution",
    ),
}
PROCESS_BYTES = GIB  # Python, PyTorch and the other libraries, about


@dataclass(frozen=True)
class Surroundings:
    """What is not in the plan, and decides what the run amounts to."""

    prompts: tuple[str, ...] = ()  # texts of the validation prompts
    missing_parts: tuple[str, ...] = ()  # of the model, which would be downloaded in 16 bits
    free_bytes: int | None = None  # on the disk of output_dir; None: unknown


@dataclass(frozen=True)
class DatasetSize:
    """One dataset of the run."""

    id: str
    kind: str  # dataset_type, or `regularisation`
    images: int
    drawn: int  # images of an epoch, repeats included; 0 for an eval dataset
    captions: int  # different ones
    buckets: int  # sizes
    batch_size: int
    batches: int  # of an epoch


@dataclass(frozen=True)
class PictureCount:
    """Validation pictures."""

    at_once: int  # each time
    prompts: int
    during: int  # times after the first step and before the end
    every_steps: int  # 0: no interval of steps
    base_model: bool  # drawn once, before the first step


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run writes, at most."""

    latents: int
    captions: int
    quantised: int
    checkpoints: int  # all that are kept
    kept: int  # how many these are
    result: int

    @property
    def total(self) -> int:
        """Bytes of all files together."""
        return self.latents + self.captions + self.quantised + self.checkpoints + self.result


@dataclass(frozen=True)
class Overview:
    """What a plan amounts to."""

    datasets: tuple[DatasetSize, ...]
    steps_per_epoch: int
    epochs: float  # that the steps of the run make
    repeated: int | None  # images of an epoch that their step has already; None: not counted
    pictures: PictureCount
    evaluation: EvaluationCount
    disk: DiskNeed
    time: RunTime | None  # None: the device's speed is unknown
    download_bytes: int  # of the model's parts that are not on this disk; about
    host_bytes: int  # of host memory, at most
    host_available_bytes: int | None  # None: unknown
    free_bytes: int | None  # on the disk of output_dir; None: unknown
    stages: tuple[StagePeak, ...]  # memory of the device, in the order of the run
    room: Device  # that has the least

    @property
    def warnings(self) -> tuple[str, ...]:
        """What this disk or host is too small for, and figures that cost too much."""
        found = []
        if self.free_bytes is not None and self.disk.total > self.free_bytes:
            found.append(
                f"this run may write {gib(self.disk.total)}, and the disk of output_dir has "
                f"{gib(self.free_bytes)} free"
            )
        available = self.host_available_bytes
        if available is not None and self.host_bytes > available:
            found.append(
                f"this run may need {gib(self.host_bytes)} of host memory, and this machine has "
                f"{gib(available)}"
            )
        found += self._of_stages()
        during = self.evaluation.during
        if during is not None and during.share > MOST_EVALUATION:
            found.append(
                f"the evaluation loss takes about {during.share:.0%} of the computing of training: "
                "raise eval_steps_interval or eval_epoch_interval, or lower num_eval_images or "
                "eval_timesteps"
            )
        return tuple(found)

    def _of_stages(self) -> list[str]:
        """Stages beside training that the device may be too small for: neither ends a run."""
        most, found = self.room.room_bytes, []
        for stage in self.stages:
            if most is None or stage.by_formula <= most or stage.name not in TOO_LARGE:
                continue
            found.append(
                f"{TOO_LARGE[stage.name][0]} may need {gib(stage.by_formula)} ({stage.about}), and "
                f"{self.room.name} has {self.room.free or gib(most)}: {TOO_LARGE[stage.name][1]}"
            )
        return found

    @property
    def images(self) -> int:
        """Images to train on, without repeats."""
        return sum(d.images for d in self.datasets if d.batches)


def overview(
    plan: Plan,
    datasets: Datasets,
    discoveries: Mapping[str, Discovery],
    schedule: Schedule,
    surroundings: Surroundings,
) -> Overview:
    """What a plan for these datasets amounts to."""
    prompts = surroundings.prompts
    samples = [s for d in discoveries.values() for s in d.samples]
    made = epochs(plan, schedule)
    pictures = picture_count(plan, len(prompts), made)
    evaluation = evaluation_count(plan, datasets, discoveries, schedule)
    counted = Counted(
        texts=1 + len({c for s in samples for c in s.captions}.union(prompts)),
        samples=samples,
        evaluation=evaluation,
        pictures=_pictures(plan, pictures),
        checkpoint_bytes=checkpoint_bytes(plan) * checkpoints_written(plan),
    )
    return Overview(
        datasets=tuple(dataset_sizes(datasets, discoveries, schedule)),
        steps_per_epoch=schedule.steps_of(1),
        epochs=made,
        repeated=repeated_in_a_step(schedule),
        pictures=pictures,
        evaluation=evaluation,
        disk=disk_need(plan, samples, prompts),
        time=run_time(plan, counted),
        download_bytes=2 * sum(part_sizes(plan.model)[p] for p in surroundings.missing_parts),
        host_bytes=host_need(plan),
        host_available_bytes=limits.host_bytes(plan.facts),
        free_bytes=surroundings.free_bytes,
        stages=stage_peaks(plan.model, stage_loads(plan, datasets, discoveries, prompts)),
        room=plan.facts.tightest,
    )


def dataset_sizes(
    datasets: Datasets, discoveries: Mapping[str, Discovery], schedule: Schedule
) -> list[DatasetSize]:
    """Every dataset that is used, in the order of the file."""
    shares = {share.name: share for share in schedule.shares}
    sizes = []
    for d in datasets.all:
        if d.id not in discoveries:
            continue
        samples, share = discoveries[d.id].samples, shares.get(d.id)
        sizes.append(
            DatasetSize(
                id=d.id,
                kind="regularisation" if d.is_regularisation_data else d.dataset_type,
                images=len(samples),
                drawn=sum(s.repeats + 1 for s in samples) if share else 0,
                captions=len({c for s in samples for c in s.captions}),
                buckets=len({s.geometry.bucket for s in samples}),
                batch_size=share.batch_size if share else 1,
                batches=share.count(0) if share else 0,
            )
        )
    return sizes


def epochs(plan: Plan, schedule: Schedule) -> float:
    """Epochs that the steps of the run make, counted in batches."""
    last = plan.steps * plan.batches_per_step
    number, start = schedule.begin(last - 1)
    return number + (last - start) / schedule.length(number, start)


def repeated_in_a_step(schedule: Schedule) -> int | None:
    """Images of the first epoch that their optimizer step has already: fewer different ones than a
    step draws, as in a small bucket. None for an epoch that is too large to look at; there, few
    are."""
    number, start = schedule.begin(0)
    batches = schedule.length(number, start)
    if batches * max(share.batch_size for share in schedule.shares) > MOST_COUNTED:
        return None
    drawn = islice(schedule.batches_from(start), batches)
    return sum(s.occurrence > 0 for _, _, batch in drawn for s in batch)


def picture_count(plan: Plan, prompts: int, epochs: float) -> PictureCount:
    """Each prompt is drawn in each size; with ema_validation=comparison from two versions of the
    weights."""
    how, when = plan.pictures, plan.pictures.times
    every = when.every_steps.value
    versions = 2 if plan.optimizer.average is not None and how.weights == "comparison" else 1
    one = prompts * len(how.sizes) * how.per_prompt
    during = 0
    if one and every:
        during += max(0, (plan.steps - 1) // every - max(0, when.after_step - 1) // every)
    if one and when.every_epochs:
        during += int(epochs) // when.every_epochs - when.after_epoch // when.every_epochs
    return PictureCount(one * versions, prompts, during, every, bool(one) and when.base_model)


def disk_need(plan: Plan, samples: Sequence[Sample], prompts: Sequence[str]) -> DiskNeed:
    """Bytes by arithmetic."""
    estimate, kept = plan.memory.estimate, checkpoints_kept(plan)
    trained = plan.trained.count * BYTES[plan.precision.trainable.value]
    average = 4 * plan.trained.count if plan.optimizer.average is not None else 0
    return DiskNeed(
        latents=sum(map(latent_bytes, samples)),
        captions=caption_bytes(plan, {c for s in samples for c in s.captions}.union(prompts)),
        quantised=estimate.weights if plan.memory.quantised_cache.value is not None else 0,
        checkpoints=kept * checkpoint_bytes(plan),
        kept=kept,
        result=trained + average,
    )


def checkpoint_bytes(plan: Plan) -> int:
    """One checkpoint: the trained values, the same as they are exported, the optimizer's state and
    the average."""
    trained = plan.trained.count * BYTES[plan.precision.trainable.value]
    average = 4 * plan.trained.count if plan.optimizer.average is not None else 0
    sharded = plan.processes.size if plan.parallel.sharded else 1
    return 2 * trained + plan.memory.estimate.optimizer * sharded + average


def _pictures(plan: Plan, count: PictureCount) -> int:
    """Pictures of the whole run."""
    how = plan.pictures
    base = count.prompts * len(how.sizes) * how.per_prompt if count.base_model else 0
    return count.at_once * (1 + count.during) + base


def latent_bytes(sample: Sample) -> int:
    """Mean and deviation of 16 channels, and a mask where there is one."""
    width, height = sample.geometry.bucket
    pixels = (width // VAE_SCALE) * (height // VAE_SCALE)
    mask = HEADER_BYTES + 4 * pixels if sample.mask else 0
    return HEADER_BYTES + pixels * 2 * 16 * CACHED_BYTES + mask


def caption_bytes(plan: Plan, texts: set[str]) -> int:
    """Embeddings of all captions and of the blank one, each as long as tokenizer_max_length
    allows, and coded. CLIP's tokens are as wide as its pooled vector."""
    shape = plan.model.transformer
    values = (CLIP_TOKENS + 1) * shape.pooled_dim + plan.captions.t5_tokens * shape.joint_dim
    return (len(texts) + 1) * (HEADER_BYTES + int(values * CACHED_BYTES * CODED))


def checkpoints_written(plan: Plan) -> int:
    """At their interval and at the end; rolling ones are not counted."""
    return max(1, -(-plan.steps // plan.checkpoints.every_steps))


def checkpoints_kept(plan: Plan) -> int:
    """Checkpoints on the disk at the end, the last one included, and rolling ones."""
    how, steps = plan.checkpoints, plan.steps
    written = checkpoints_written(plan)
    rolling = min(how.keep_rolling, steps // how.rolling_steps) if how.rolling_steps else 0
    best = plan.evaluation is not None and plan.evaluation.keep_best
    return min(written, how.keep) + rolling + best


def host_need(plan: Plan) -> int:
    """The largest of the stages: text encoders and transformer are loaded there before they go to
    the device, and a run on the CPU has everything there."""
    model, precision = plan.model, plan.precision
    encoders = sum(model.text_encoders) * BYTES[precision.text.value]
    transformer = model.transformer.parameters * BYTES[precision.base.value]
    training = 0 if plan.facts.accelerated else plan.memory.estimate.training
    return PROCESS_BYTES + max(encoders, transformer, training)
