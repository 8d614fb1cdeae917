"""The child process that counts: a step's load as JSON, and the answer as JSON.

Counting imports PyTorch and exchanges functions in it, so that it has a process of its own, with a
time limit (backends/observe/child.py).
"""

import json
from pathlib import Path
from typing import Any

from sd3tune.counted import training_step
from sd3tune.counted.load_data import read
from sd3tune.report.quiet import quiet_libraries

LARGEST = 20  # groups of tensors that an answer lists


def observe(path: str) -> dict[str, Any]:
    """path: a file that load_data.written made. Bytes of the step, and of what its peak is made."""
    quiet_libraries()
    found = training_step.count(*read(json.loads(Path(path).read_text())))
    groups = sorted(found.at_peak.items(), key=lambda item: -item[1])[:LARGEST]
    return {
        "before": found.before,
        "forward": found.forward,
        "peak": found.peak,
        "at_peak": [[size, *group] for group, size in groups],
    }
