"""How sd3tune reads the datasets: every image with its geometry, every refused file with its
reason.

Looks at the files and nothing else: no device is asked, no weight loaded, nothing written.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.run_files import load_run
from sd3tune.data.buckets import enlarged
from sd3tune.data.discover import (
    Discovery,
    RejectedFile,
    Sample,
    shorter_buckets,
    without,
)
from sd3tune.data.minimum import check_minimum, check_vae_batch
from sd3tune.discovered import Discovered, discover_all
from sd3tune.errors import DataError, Sd3tuneError
from sd3tune.prepare import model_of
from sd3tune.report.progress import stage
from sd3tune.urls import shown_url


@dataclass(frozen=True)
class Bucket:
    """Images of one size."""

    size: tuple[int, int]
    aspect: float
    images: int  # without repeats
    enlarged: int  # of them, how many are scaled up


@dataclass(frozen=True)
class InspectedDataset:
    """One dataset as understood."""

    settings: ImageDataset
    discovery: Discovery
    buckets: tuple[Bucket, ...]
    problems: tuple[str, ...]  # what would stop a run


@dataclass(frozen=True)
class Inspection:
    found: Discovered
    datasets: tuple[InspectedDataset, ...]
    notes: tuple[str, ...]


def inspect(path: Path, overrides: Sequence[str], *, decode: bool) -> Inspection:
    """decode: every pixel too, so that files broken behind their headers are found. Raises
    Sd3tuneError."""
    config, datasets = load_run(path, overrides)
    notes = list(datasets.notes)
    longest = None
    try:
        longest = model_of(config).transformer.longest_side
    except Sd3tuneError as e:  # the images are there to be looked at without the model
        notes.append(f"the model is not known here, so sizes beyond its positions are not: {e}")
    found = discover_all(config, datasets, None)
    notes += found.datasets.notes[len(datasets.notes) :]  # what `look` has to say
    discoveries = dict(found.discoveries)
    if decode:
        for name in discoveries:
            discoveries[name] = without(discoveries[name], _undecodable(found, name))
    drawn = [d for d in datasets.all if d.id in discoveries]
    for d in datasets.all:
        if d.id not in discoveries:
            notes.append(f"dataset `{d.id}`: probability={d.probability:g}: it is never drawn from")
    asked = {d.id for d in drawn if datasets.source(d.id, "vae_batch_size").by == "user"}
    seen = [_seen(d, discoveries[d.id], config, longest, d.id in asked) for d in drawn]
    return Inspection(
        Discovered(config, datasets, found.sources, discoveries), tuple(seen), tuple(notes)
    )


def _seen(
    settings: ImageDataset,
    discovery: Discovery,
    config: Config,
    longest: int | None,
    asked_vae_batch: bool,
) -> InspectedDataset:
    groups: dict[tuple[tuple[int, int], float], list[Sample]] = defaultdict(list)
    for s in discovery.samples:
        groups[s.geometry.bucket, s.geometry.aspect].append(s)
    buckets = [
        Bucket(size, aspect, len(some), sum(enlarged(s.size, s.geometry) > 1 for s in some))
        for (size, aspect), some in sorted(groups.items())
    ]
    problems = []
    beyond = [s for s in discovery.samples if longest and max(s.geometry.bucket) > longest]
    if beyond:
        problems.append(
            f"the model ends at {longest} pixels: training sets {len(beyond)} images aside; "
            + shorter_buckets(settings)
        )
    try:
        check_vae_batch(discovery, settings, asked_vae_batch)
    except DataError as e:
        problems.append(f"{e}; {e.hint}")
    if settings.dataset_type == "image" and discovery.samples:
        try:
            check_minimum(
                discovery,
                settings,
                train_batch_size=config.train_batch_size or 1,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                oversubscribe=config.allow_dataset_oversubscription,
            )
        except DataError as e:
            problems.append(f"{e}; {e.hint}")
    return InspectedDataset(settings, discovery, tuple(buckets), tuple(problems))


def _undecodable(found: Discovered, name: str) -> list[RejectedFile]:
    """Decodes every image of a dataset. The answer is the images that cannot be decoded, with
    reasons."""
    from sd3tune.data import pixels
    from sd3tune.data.headers import Unusable

    source, bad = found.sources[name], []
    samples = found.discoveries[name].samples
    with stage(f"decode {name}", len(samples)) as bar:
        for s in samples:
            try:
                pixels.rgb(pixels.decoded(source.read(s.name)))
            except (Unusable, OSError) as e:
                bad.append(RejectedFile(name, s.path, str(e)))
            bar.advance()
    return bad


def draw_sheet(inspection: Inspection, path: Path, most: int) -> None:
    """A contact sheet with images of every bucket. Raises DataError."""
    from sd3tune.data import sheet

    groups: dict[tuple[str, tuple[int, int]], list[Sample]] = defaultdict(list)
    for seen in inspection.datasets:
        for s in seen.discovery.samples:
            groups[s.dataset, s.geometry.bucket].append(s)
    found = inspection.found
    masks = {d.id: found.sources[d.conditioning_data]
             for d in found.datasets.all if d.conditioning_data}  # fmt: skip
    picked = sheet.chosen([some for _, some in sorted(groups.items())], most)
    if not picked:
        return
    try:
        sheet.draw(path, picked, found.sources, masks)
    except (OSError, ValueError) as e:  # ValueError: a suffix that Pillow cannot write
        raise DataError(
            f"the contact sheet `{path}` cannot be written: {e}", hint="name another with --sheet"
        ) from None


def document(inspection: Inspection) -> dict[str, Any]:
    """As JSON: docs/reference/json.md."""
    images, datasets = [], []
    for seen in inspection.datasets:
        for s in seen.discovery.samples:
            g = s.geometry
            images.append(
                {
                    "dataset": s.dataset,
                    "path": s.path,
                    "original_size": list(s.size),
                    "resized_size": list(g.resized),
                    "crop": [*g.crop, *g.bucket],
                    "bucket_size": list(g.bucket),
                    "aspect": g.aspect,
                    "captions": list(s.captions),
                }
                | ({"mask": shown_url(s.mask)} if s.mask else {})
            )
        for r in seen.discovery.rejected:
            images.append({"dataset": r.dataset, "path": r.path, "rejected": r.reason})
        reasons = Counter(r.reason for r in seen.discovery.rejected)
        datasets.append(
            {
                "id": seen.settings.id,
                "dataset_type": seen.settings.dataset_type,
                "images": len(seen.discovery.samples),
                "repeats": seen.settings.repeats,
                "probability": seen.settings.probability,
                "rejected": len(seen.discovery.rejected),
                "reasons": dict(reasons.most_common()),
                "buckets": [
                    {"aspect": b.aspect, "bucket_size": list(b.size), "images": b.images,
                     "enlarged": b.enlarged}
                    for b in seen.buckets
                ],
                "problems": list(seen.problems),
            }
        )  # fmt: skip
    return {"images": images, "datasets": datasets, "notes": list(inspection.notes)}
