"""The child process that counts: loads of stages as JSON, and the answers as JSON.

Counting imports PyTorch and exchanges functions in it, so that it has a process of its own, with a
time limit (backends/observe/child.py).
"""

import json
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import now_running
from sd3tune.counted import other_stages, training_step
from sd3tune.counted.load_data import read
from sd3tune.plan.memory import Load
from sd3tune.plan.stage_loads import (
    CAPTIONS,
    LATENTS,
    PICTURES,
    TRAINING,
    CaptionLoad,
    LatentLoad,
)
from sd3tune.report.quiet import quiet_libraries

NAMES = {"CaptionLoad": CAPTIONS, "LatentLoad": LATENTS, "Load": TRAINING, "PictureLoad": PICTURES}
LARGEST = 20  # groups of tensors that an answer lists


def observe(path: str) -> dict[str, Any]:
    """path: a file with a list of what load_data.written made. Bytes of each stage, and of what a
    step's peak is made."""
    quiet_libraries()
    return {"stages": [counted(data) for data in json.loads(Path(path).read_text())]}


def counted(data: dict[str, Any]) -> dict[str, Any]:
    """The answer for one stage."""
    shape, load = read(data)
    now_running.tell(NAMES[type(load).__name__])
    if isinstance(load, CaptionLoad):
        return {"peak": other_stages.captions(load)}
    if isinstance(load, LatentLoad):
        return {"peak": other_stages.latents(load)}
    assert shape is not None
    if not isinstance(load, Load):
        drawing, decoding = other_stages.pictures(shape, load)
        return {"peak": max(drawing, decoding), "drawing": drawing, "decoding": decoding}
    found = training_step.count(shape, load)
    groups = sorted(found.at_peak.items(), key=lambda item: -item[1])[:LARGEST]
    return {
        "before": found.before,
        "forward": found.forward,
        "peak": found.peak,
        "at_peak": [[size, *group] for group, size in groups],
    }
