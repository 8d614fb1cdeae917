"""The pod of a run, as Kubernetes, Kueue and Kubeflow Trainer start it: user 1000, a root file
system that nobody writes to, no privilege, time to save, and the token by reference."""

from typing import Any

from sd3tune.cloud.cloud_job import SHM_GIB, WORKSPACE, CloudJob
from sd3tune.cloud.engine_row import STORE, Choices

GRACE_SECONDS = 660  # sd3tune gives its processes 600 s to save
TOKEN = {"secretKeyRef": {"name": "huggingface", "key": "token", "optional": True}}
ENVIRONMENT = [{"name": "HF_TOKEN", "valueFrom": TOKEN}]
MOUNTS = [
    {"name": "project", "mountPath": WORKSPACE},
    {"name": "shm", "mountPath": "/dev/shm"},
    {"name": "tmp", "mountPath": "/tmp"},
]
UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def card(job: CloudJob) -> str:
    """The label of nodes that have the card: `key=value`; empty where there is none."""
    return "".join(f"{key}={value}" for key, value in job.vendor.label(job.chip).items())


def security(job: CloudJob) -> dict[str, Any]:
    """The pod's securityContext."""
    groups = {"supplementalGroups": list(job.vendor.groups)} if job.vendor.groups else {}
    return {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        **groups,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(job: CloudJob) -> dict[str, Any]:
    """Requests and limits of the container. /dev/shm counts towards the memory."""
    memory = f"{job.host_gib}Gi"
    return {
        "limits": {job.vendor.resource: job.cards, "memory": memory},
        "requests": {"cpu": str(job.cpus), "memory": memory},
    }


def volumes(choices: Choices) -> list[dict[str, Any]]:
    """The project on a claim, and memory and scratch of the pod."""
    claim = {"claimName": choices.store or STORE}
    shm = {"medium": "Memory", "sizeLimit": f"{SHM_GIB}Gi"}
    return [
        {"name": "project", "persistentVolumeClaim": claim},
        {"name": "shm", "emptyDir": shm},
        {"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}},
    ]


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true of the cluster."""
    store = choices.store or STORE
    return (
        f"A PersistentVolumeClaim `{store}` of {job.disk_gib} GiB or more exists and holds the "
        "project folder, which user 1000 may read and write "
        "(examples/cluster/kubernetes/claims.yaml).",
        f"Nodes with the card have the label {card(job)}.",
        "The token, where one is needed, is in a secret: `kubectl create secret generic "
        "huggingface --from-file=token=/dev/stdin`.",
        *job.vendor.pods_assume,
        *job.vendor.assumes,
    )
