"""SkyPilot: a managed job, which goes on elsewhere when a spot machine is taken away."""

import os
from pathlib import Path

from sd3tune.cloud.card_names import names_of
from sd3tune.cloud.cloud_job import WORKSPACE, CloudJob
from sd3tune.cloud.engine_row import Choices, Document
from sd3tune.cloud.exit_codes import AGAIN
from sd3tune.errors import ConfigError

BUCKET = "sd3tune-output"


def card(job: CloudJob) -> str:
    """SkyPilot's names of the card, one for each spelling of its clouds."""
    return ", ".join(names_of(job.chip.key).sky)


def documents(job: CloudJob, choices: Choices) -> tuple[Document, ...]:
    """One task. Checkpoints are in a bucket; the project's other folders are uploaded."""
    here = Path(os.path.relpath(job.project.folder))
    bucket = {"name": choices.store or BUCKET, "mode": "MOUNT_CACHED"}
    inputs = {f"{WORKSPACE}/{f}": (here / f).as_posix() for f in job.project.inputs}
    task = {
        "name": job.name,
        "resources": _resources(job, choices),
        "secrets": {"HF_TOKEN": None},
        "file_mounts": {**inputs, f"{WORKSPACE}/{job.project.output}": bucket},
        "run": f"cd {WORKSPACE}\nexec {job.command}\n",
    }
    return (task,)


def _resources(job: CloudJob, choices: Choices) -> Document:
    """Raises ConfigError for --on-demand where there are no spot machines."""
    if choices.on_demand and job.vendor.sky_kubernetes:
        raise ConfigError(
            "--on-demand does nothing on Kubernetes, where SkyPilot starts AMD's cards",
            hint="leave --on-demand out",
        )
    kubernetes = {"infra": "kubernetes"} if job.vendor.sky_kubernetes else {}
    spot = {} if choices.on_demand or kubernetes else {"use_spot": True}
    names = names_of(job.chip.key).sky
    return {
        **kubernetes,
        "image_id": f"docker:{job.image}",
        "accelerators": dict.fromkeys(names, job.cards),
        "cpus": f"{job.cpus}+",
        "memory": f"{job.host_gib}+",
        "disk_size": job.disk_gib,
        **spot,
        "job_recovery": {
            "strategy": "EAGER_NEXT_REGION",
            "recover_on_exit_codes": list(AGAIN),
        },
    }


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true where the task runs."""
    labelled = (
        f"Only on Kubernetes, whose nodes have the label skypilot.co/accelerator="
        f"{names_of(job.chip.key).sky[0].lower()}: on virtual machines SkyPilot starts containers "
        "with `--gpus all`, which is NVIDIA's.",
    )
    machine = (
        "SkyPilot has no filter for the driver. On virtual machines it starts a shell in place of "
        "the image's ENTRYPOINT, so that the task calls sd3tune-entrypoint.",
    )
    codes = ", ".join(map(str, AGAIN))
    return (
        *job.vendor.assumes,
        *(labelled if job.vendor.sky_kubernetes else machine),
        f"Bucket names are everybody's: choose your own with --store. `{job.project.output}` is "
        "mounted there; a checkpoint that was only half uploaded does not have its checksums and "
        "is passed over. Caches stay on the machine, and a new machine encodes again.",
        f"A machine that is taken away is replaced in any case. Exit codes {codes} start the run "
        "again; 1 and 2 would come again and end the job.",
        "HF_TOKEN comes from your shell, and SkyPilot keeps it as a secret.",
    )


def start(job: CloudJob, file: str) -> str:
    """The command that starts a managed job."""
    return f"sky jobs launch {file} --secret HF_TOKEN"
