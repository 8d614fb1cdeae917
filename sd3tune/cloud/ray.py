"""Ray: the runtime environment of a job, and the `ray job submit` that goes with it."""

import json

from sd3tune.cloud.card_names import names_of
from sd3tune.cloud.cloud_job import GIB, WORKSPACE, CloudJob
from sd3tune.cloud.engine_row import Choices, Document

SETUP_SECONDS = 600
SOME = 0.001  # of a node's accelerator_type: Ray's way to choose nodes that have it


def card(job: CloudJob) -> str:
    """Ray's accelerator type."""
    return names_of(job.chip.key).ray


def documents(job: CloudJob, choices: Choices) -> tuple[Document, ...]:
    """The runtime environment, which holds no secret: Ray shows it to everyone who sees the
    dashboard."""
    env = {"HF_HOME": f"{WORKSPACE}/.cache/huggingface"}
    return ({"env_vars": env, "config": {"setup_timeout_seconds": SETUP_SECONDS}},)


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true of the cluster."""
    a100 = (
        f"Ray does not find out how much memory an A100 has: nodes are started with "
        f"--resources='{json.dumps({f'accelerator_type:{card(job)}': 1})}'.",
    )
    return (
        f"Nodes run the image {job.image} with Ray in it (FROM it, and pip install "
        f"'ray[default]'), and all mount one volume of {job.disk_gib} GiB or more at "
        f"{WORKSPACE}, which holds the "
        "project folder.",
        *(a100 if job.chip.key == "a100" else ()),
        "HF_TOKEN, where one is needed, is in the environment of the nodes: a runtime environment "
        "is shown in the dashboard.",
        "Ray does not start a job again. When a machine was lost, submit it again: the run "
        "continues from the volume.",
        *job.vendor.assumes,
    )


def start(job: CloudJob, file: str) -> str:
    """The command that submits the job."""
    resources = json.dumps({f"accelerator_type:{card(job)}": SOME})
    return (
        f"ray job submit --runtime-env {file} --entrypoint-num-gpus {job.cards} "
        f"--entrypoint-num-cpus {job.cpus} --entrypoint-memory {job.host_gib * GIB} "
        f"--entrypoint-resources '{resources}' -- {job.command}"
    )
