"""dstack: a task, on NVIDIA's cards and on AMD's."""

from sd3tune.cloud.card_names import names_of
from sd3tune.cloud.cloud_job import SHM_GIB, WORKSPACE, CloudJob
from sd3tune.cloud.engine_row import STORE, Choices, Document

STOP = "11m"  # sd3tune saves within 600 s
RETRY = "2d"


def card(job: CloudJob) -> str:
    """dstack's name of the card, with its memory where the name alone means several."""
    return names_of(job.chip.key).dstack


def documents(job: CloudJob, choices: Choices) -> tuple[Document, ...]:
    """One task, with the project on a volume."""
    name, _, memory = card(job).partition(":")
    gpu = {"vendor": job.vendor.dstack, "name": name, "count": job.cards}
    if memory:
        gpu["memory"] = memory
    task = {
        "type": "task",
        "name": job.name,
        "image": job.image,
        "working_dir": WORKSPACE,
        "env": ["HF_TOKEN=${{ secrets.hf_token }}"],
        "commands": [f"exec {job.command}"],
        "volumes": [{"name": choices.store or STORE, "path": WORKSPACE}],
        "resources": {
            "gpu": gpu,
            "cpu": f"{job.cpus}..",
            "memory": f"{job.host_gib}GB..",
            "shm_size": f"{SHM_GIB}GB",
            "disk": f"{job.disk_gib}GB..",
        },
        "spot_policy": "on-demand" if choices.on_demand else "auto",
        "retry": {"on_events": ["no-capacity", "interruption"], "duration": RETRY},
        "stop_duration": STOP,
    }
    return (task,)


def assumes(job: CloudJob, choices: Choices) -> tuple[str, ...]:
    """What must be true where the task runs."""
    return (
        f"A volume `{choices.store or STORE}` exists and holds the project folder; only some of "
        "dstack's backends have volumes, and the volume decides the region.",
        "The token is a secret of the dstack project: `dstack secret set hf_token` once.",
        "A machine that is taken away is replaced, and the run continues from the volume. dstack "
        "cannot tell exit codes apart, so that `error` is not among the events: an error that you "
        "must correct would come again. After exit code 75 or 137, apply the file again.",
        *job.vendor.assumes,
    )


def start(job: CloudJob, file: str) -> str:
    """The command that starts the task."""
    return f"dstack apply -f {file}"
