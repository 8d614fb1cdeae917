"""`sd3tune cache build`: fills the caches without training."""

from collections.abc import Sequence
from time import monotonic

import torch

from sd3tune import backends
from sd3tune.config.files.prompts import Prompt, load_prompts
from sd3tune.encode import census
from sd3tune.encode.caches import Caches
from sd3tune.encode.census import Built
from sd3tune.encode.everything import downloaded, filled, make_output
from sd3tune.plan.arithmetic import process_switches
from sd3tune.prepare import Prepared
from sd3tune.processes.environment import ALONE
from sd3tune.processes.world import World
from sd3tune.report.progress import waiting
from sd3tune.report.quiet import quiet_libraries


def build(prepared: Prepared) -> Built:
    """Encodes the missing entries, as `train` would, and then stops. Raises Sd3tuneError."""
    started = monotonic()
    caches = encoded(prepared, load_prompts(prepared.config))
    return Built(monotonic() - started, census.held(caches))


def encoded(prepared: Prepared, prompts: Sequence[Prompt]) -> Caches:
    """The caches of one process with everything in them. Raises Sd3tuneError."""
    make_output(prepared.plan.output_dir)
    with waiting("importing diffusers and transformers"):
        quiet_libraries()
    prepared = downloaded(prepared)
    plan = prepared.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(**process_switches(plan.hardware, plan.attention))
    device = torch.device(plan.hardware.device.torch_device)
    world = World(ALONE, device)
    return filled(prepared, prompts, device, vendor, world)
