"""Everything that is encoded before training: captions, then images, one model after the other."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import torch

from sd3tune.config.files.prompts import Prompt
from sd3tune.encode.caches import Caches
from sd3tune.encode.embeddings import fill_text
from sd3tune.encode.image_latents import fill_images
from sd3tune.errors import ConfigError
from sd3tune.filesystem import disk, drafts
from sd3tune.load import variant
from sd3tune.plan.changes import changes
from sd3tune.plan.plan import Plan
from sd3tune.prepare import Prepared
from sd3tune.processes.world import World
from sd3tune.report.progress import say, waiting, warn
from sd3tune.sd3 import model_folder, weights

SET_ASIDE, PLAN_CHANGES = "set_aside.json", "plan_changes.json"  # in output_dir


def downloaded(prepared: Prepared) -> Prepared:
    """The same plan with its model on this disk."""
    plan, source = prepared.plan, prepared.plan.model.source
    # The hub draws its own bars on a terminal.
    with waiting(f"getting {source}", drawn=False):
        model = replace(plan.model, source=weights.local(source, **hub(plan)))
    if model.source.base != source.base:  # folders were checked before the plan
        without = {part for part in ("transformer", "vae") if getattr(source, part) != source.base}
        model_folder.check(
            Path(model.source.base), model.transformer, without=without, variant=plan.files.variant
        )
    return replace(prepared, plan=replace(plan, model=model))


def filled(
    prepared: Prepared,
    prompts: Sequence[Prompt],
    device: torch.device,
    vendor: ModuleType,
    world: World,
) -> Caches:
    """Everything encoded; files that turned out to be unusable are out of the plan, and in the
    report."""
    caches = Caches.of(prepared)
    plan, index = prepared.plan, prepared.plan.hardware.device.index
    wanted = [p.text for p in prompts] + [plan.pictures.negative_prompt]
    fill_text(caches, wanted, device, lambda: vendor.used_bytes(index))
    bad = fill_images(caches, device)
    caches = replace(caches, prepared=prepared.without(bad))
    world.wait()  # what another process was writing is there now
    if world.main:
        report(caches.prepared, len(bad), changes(prepared.plan, caches.prepared.plan))
    return caches


def report(prepared: Prepared, late: int, changed: Sequence[str]) -> None:
    """Writes JSON to output_dir: each file that is set aside, with its reason, and each decision
    that differs from the printed plan. late: number of files that failed to decode."""
    output = prepared.plan.output_dir
    aside = [asdict(r) for discovery in prepared.discoveries.values() for r in discovery.rejected]
    for path, rows in ((output / SET_ASIDE, aside), (output / PLAN_CHANGES, changed)):
        with disk.explained("write", path):
            if rows:
                drafts.write(path, (json.dumps(rows, indent=1) + "\n").encode())
            else:
                path.unlink(missing_ok=True)
    if late:
        where = output / SET_ASIDE
        warn(f"{late} files could not be decoded and are left out; {where} says why")
    for line in changed:
        say(f"plan changed: {line}")


def hub(plan: Plan) -> dict[str, str]:
    """Arguments of from_pretrained that say which files of a repository are meant."""
    revision = {"revision": plan.files.revision} if plan.files.revision else {}
    return revision | variant(plan)


def make_output(folder: Path) -> None:
    """Makes output_dir. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        why, remedy = disk.reason(e)
        raise ConfigError(f"`output_dir={folder}` cannot be made: {why}", hint=remedy) from None
