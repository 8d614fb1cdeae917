"""What a run amounts to: the plan's figures beside what this machine has and lacks."""

from sd3tune.config.files.prompts import load_prompts
from sd3tune.filesystem import disk
from sd3tune.plan.overview import Overview, Surroundings, overview
from sd3tune.prepare import Prepared
from sd3tune.sd3.missing_parts import missing_parts


def overview_of(prepared: Prepared) -> Overview:
    """Images, epochs, pictures, disk, downloads and host memory. Of another machine (`--on`) the
    free disk is unknown."""
    plan = prepared.plan
    measured = plan.facts.origin == "measured"
    surroundings = Surroundings(
        prompts=tuple(p.text for p in load_prompts(prepared.config)),
        missing_parts=missing_parts(plan.model),
        free_bytes=disk.free_bytes(plan.output_dir) if measured else None,
    )
    return overview(plan, prepared.datasets, prepared.discoveries, prepared.schedule, surroundings)
