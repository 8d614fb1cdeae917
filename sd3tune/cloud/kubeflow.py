"""Kubeflow Trainer 2: a TrainJob for the runtime `torch-distributed`.

One node; sd3tune starts its processes itself. What Trainer sets for torchrun is not used.
"""

from sd3tune.cloud import pods
from sd3tune.cloud.cloud_job import CloudJob
from sd3tune.cloud.engine_row import Choices, Document
from sd3tune.cloud.kueue import LABEL

RUNTIME = "torch-distributed"
NODE = "node"  # the runtime's replicated job, and the container in it
MANAGER = "sd3tune.cloud/write"  # whose patch it is


def documents(job: CloudJob, choices: Choices) -> tuple[Document, ...]:
    """The TrainJob; with a queue it is suspended until Kueue admits it."""
    labels = {"labels": {LABEL: choices.queue}} if choices.queue else {}
    made = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": job.name, **labels},
        "spec": {
            **({"suspend": True} if choices.queue else {}),
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": job.image,
                "command": ["tini", "--", "sd3tune-entrypoint"],
                "args": list(job.words),
                "env": pods.ENVIRONMENT,
                "numNodes": 1,
                "numProcPerNode": 1,
                "resourcesPerNode": pods.resources(job),
            },
            "runtimePatches": [_patch(job, choices)],
        },
    }
    return (made,)


def _patch(job: CloudJob, choices: Choices) -> Document:
    """What the pod of the runtime gets beside the trainer's fields."""
    container = {
        "name": NODE,
        "securityContext": pods.UNPRIVILEGED,
        "volumeMounts": pods.MOUNTS,
    }
    pod = {
        "terminationGracePeriodSeconds": pods.GRACE_SECONDS,
        "nodeSelector": job.vendor.label(job.chip),
        "securityContext": pods.security(job),
        "containers": [container],
        "volumes": pods.volumes(choices),
    }
    node = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    spec = {"template": {"spec": {"replicatedJobs": [node]}}}
    return {"manager": MANAGER, "trainingRuntimeSpec": spec}


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true of the cluster."""
    queue = f"A LocalQueue `{choices.queue}` of Kueue exists in the namespace."
    return (
        f"Kubeflow Trainer 2.3 and its runtime `{RUNTIME}` are installed.",
        *([queue] if choices.queue else []),
        *pods.assumes(job, choices),
        "A TrainJob has no rule for exit codes: the runtime's Job decides how often a failed pod "
        "is tried again, also after exit codes 1 and 2, which come again.",
    )


def start(job: CloudJob, file: str) -> str:
    """The command that creates the TrainJob."""
    return f"kubectl apply -f {file}"
