"""Reads a specification with the engine's own parser. Started with the Python of an environment
that has the engine, which cannot be sd3tune's own (SkyPilot pins click below 8.2):

    python -m venv V && V/bin/pip install skypilot==0.14.1 dstack==0.22.5 'ray[default]==2.60.0' \\
      kubeflow-trainer-api==2.3.0
    SD3TUNE_ENGINES_PYTHON=V/bin/python pytest tests/pure/test_cloud_engines.py

It prints what the engine understood as JSON, and ends with a traceback where it refuses the file.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any


def sky(text: str) -> Any:
    import yaml
    from sky import Task
    from sky.utils import schemas, validator

    content = yaml.safe_load(text)
    schema = schemas.get_resources_schema()
    validator.get_schema_validator()(schema).validate(content["resources"])
    content["file_mounts"] = {}  # SkyPilot looks for them on this disk
    names = content["resources"].pop("accelerators")  # it asks its catalogue, on the network
    task = Task.from_yaml_config(content, secrets_overrides=[("HF_TOKEN", "x")])
    (resources,) = task.resources
    recovery = resources.job_recovery
    return {"cards": names, "recovery": recovery, "disk": resources.disk_size, "run": task.run}


def dstack(text: str) -> Any:
    import yaml
    from dstack._internal.core.models.configurations import parse_run_configuration
    from gpuhunt._internal.constraints import KNOWN_AMD_GPUS, KNOWN_NVIDIA_GPUS

    task = parse_run_configuration(yaml.safe_load(text))
    (name,) = task.resources.gpu.name
    known = {gpu.name for gpu in (*KNOWN_NVIDIA_GPUS, *KNOWN_AMD_GPUS)}
    return {
        "kind": type(task).__name__,
        "known": name in known,
        "count": task.resources.gpu.count.min,
        "events": [event.value for event in task.retry.on_events],
        "stop_seconds": task.stop_duration,
    }


def kubeflow(text: str) -> Any:
    import yaml
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    return TrainerV1alpha1TrainJob.from_dict(yaml.safe_load(text)).to_dict()


def ray(text: str) -> Any:
    import yaml
    from ray.dashboard.modules.job.cli import submit
    from ray.runtime_env import RuntimeEnv
    from ray.util.accelerators import accelerators

    (command,) = [line for line in text.splitlines() if line.startswith("#   ray job submit")]
    words = shlex.split(command.removeprefix("#   ray job submit"))
    given = submit.make_context("submit", words).params
    (kind,) = json.loads(given["entrypoint_resources"])
    known = {f"accelerator_type:{value}" for value in vars(accelerators).values()}
    environment = RuntimeEnv(**yaml.safe_load(text)).to_dict()
    return {
        "environment": environment,
        "known": kind in known,
        "cards": given["entrypoint_num_gpus"],
        "entrypoint": given["entrypoint"],
    }


if __name__ == "__main__":
    engine, file = sys.argv[1:]
    parse = {"sky": sky, "dstack": dstack, "kubeflow": kubeflow, "ray": ray}[engine]
    print(json.dumps(parse(Path(file).read_text()), default=str))
