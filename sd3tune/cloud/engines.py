"""The engines that `sd3tune cloud write` knows, one row each."""

from sd3tune.cloud import dstack, kubeflow, kubernetes, kueue, pods, ray, sky
from sd3tune.cloud.engine_row import Engine
from sd3tune.tables.table import Table

PODS_CHECKED = "Kubernetes 1.31 and 1.37"

ENGINES = Table(
    "an engine",
    (
        Engine(
            "sky", "SkyPilot", sky.documents, sky.card, sky.assumes, sky.start,
            "SkyPilot 0.14.1", frozenset({"store", "on_demand"}), ("skypilot",),
        ),
        Engine(
            "dstack", "dstack", dstack.documents, dstack.card, dstack.assumes, dstack.start,
            "dstack 0.22.5", frozenset({"store", "on_demand"}),
        ),
        Engine(
            "kubernetes", "Kubernetes", kubernetes.documents, pods.card, kubernetes.assumes,
            kubernetes.start, PODS_CHECKED, aliases=("k8s",),
        ),
        Engine(
            "kueue", "Kueue", kueue.documents, pods.card, kueue.assumes, kubernetes.start,
            PODS_CHECKED, frozenset({"store", "queue"}),
        ),
        Engine(
            "kubeflow", "Kubeflow Trainer", kubeflow.documents, pods.card, kubeflow.assumes,
            kubeflow.start, "kubeflow-trainer-api 2.3.0", frozenset({"store", "queue"}),
        ),
        Engine(
            "ray", "Ray", ray.documents, ray.card, ray.assumes, ray.start,
            "Ray 2.60.0", frozenset(),
        ),
    ),
    {
        "slurm": "needs no specification: put `sd3tune train` into a batch script "
        "(docs/guides/devices.md has the exit codes)",
        "runpod": "is a platform without an engine of its own; docker/templates/runpod has its "
        "templates (docs/guides/clouds.md)",
        "vast": "is a platform without an engine of its own; docker/templates/vast has its "
        "templates (docs/guides/clouds.md)",
    },
)  # fmt: skip
