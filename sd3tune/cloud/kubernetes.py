"""Plain Kubernetes: a Job of one pod, and a NetworkPolicy that lets nothing connect to it."""

from typing import Any

from sd3tune.cloud import pods
from sd3tune.cloud.cloud_job import CloudJob
from sd3tune.cloud.engine_row import Choices, Document
from sd3tune.cloud.exit_codes import NEVER

ATTEMPTS = 6


def documents(job: CloudJob, choices: Choices) -> tuple[Document, ...]:
    """The policy and the Job."""
    return network_policy(job), batch_job(job, choices)


def network_policy(job: CloudJob) -> Document:
    """No pod of the cluster, or host outside it, connects to the run: nothing in it serves
    anybody."""
    selector = {"matchLabels": {"batch.kubernetes.io/job-name": job.name}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job.name},
        "spec": {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": []},
    }


def batch_job(job: CloudJob, choices: Choices) -> dict[str, Any]:
    """A Job whose pod is replaced when it was evicted, and not after an error that comes again."""
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    evicted = {"action": "Ignore", "onPodConditions": [disrupted]}
    codes = {"containerName": "train", "operator": "In", "values": list(NEVER)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job.name},
        "spec": {
            "backoffLimit": ATTEMPTS,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [evicted, {"action": "FailJob", "onExitCodes": codes}]},
            "template": {"spec": pod(job, choices)},
        },
    }


def pod(job: CloudJob, choices: Choices) -> dict[str, Any]:
    """The pod. Its container has no `command`, which would take the place of the image's
    ENTRYPOINT, whose tini passes SIGTERM on."""
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pods.GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "nodeSelector": job.vendor.label(job.chip),
        "securityContext": pods.security(job),
        "containers": [
            {
                "name": "train",
                "image": job.image,
                "args": list(job.words),
                "env": pods.ENVIRONMENT,
                "securityContext": pods.UNPRIVILEGED,
                "resources": pods.resources(job),
                "volumeMounts": pods.MOUNTS,
            }
        ],
        "volumes": pods.volumes(choices),
    }


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true of the cluster."""
    return (
        *pods.assumes(job, choices),
        "A pod that was evicted, drained or preempted saved its state, and a new one continues. "
        f"Exit codes 1 and 2 end the Job; everything else is tried {ATTEMPTS} times. A new pod "
        "starts only when the old one has ended: there is no second writer.",
        "The NetworkPolicy takes effect where the cluster's network enforces policies.",
    )


def start(job: CloudJob, file: str) -> str:
    """The command that creates both."""
    return f"kubectl apply -f {file}"
