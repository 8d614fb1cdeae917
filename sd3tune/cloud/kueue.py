"""Kueue: the Job of Kubernetes, which waits in a queue until its quota is free."""

from sd3tune.cloud import kubernetes
from sd3tune.cloud.cloud_job import CloudJob
from sd3tune.cloud.engine_row import Choices, Document

LABEL = "kueue.x-k8s.io/queue-name"
QUEUE = "sd3tune"


def documents(job: CloudJob, choices: Choices) -> tuple[Document, ...]:
    """The policy and the Job, suspended: Kueue starts it, and suspends it again when it is
    preempted."""
    made = kubernetes.batch_job(job, choices)
    labels = {LABEL: choices.queue or QUEUE}
    queued = {
        **made,
        "metadata": {**made["metadata"], "labels": labels},
        "spec": {"suspend": True, **made["spec"]},
    }
    return kubernetes.network_policy(job), queued


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true of the cluster."""
    queue = choices.queue or QUEUE
    return (
        f"A LocalQueue `{queue}` exists in the namespace, and its ClusterQueue has quota for "
        f"{job.vendor.resource}, cpu and memory (`kubectl get localqueue {queue}`).",
        "A preempted run gets SIGTERM, saves, and continues when Kueue admits it again.",
        *kubernetes.assumes(job, choices),
    )
