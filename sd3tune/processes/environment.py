"""Which of several processes this one is, as torchrun and `accelerate launch` say it, and a guard
that ends it when the launcher of `--nproc` is gone."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.errors import ConfigError

# Set by train/launch for the processes it starts.
RESTARTS = "SD3TUNE_RESTARTS"  # torchrun has its own
STORE = "SD3TUNE_STORE"
LAUNCHER = "SD3TUNE_LAUNCHER"
SAVE_SECONDS = 600  # for a checkpoint after SIGTERM, before the kill
WATCH_SECONDS = 1.0
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """Of one run. A process started by hand is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # times the launcher started them anew
    store: str | None = None  # the file through which they meet; None: at MASTER_ADDR

    @property
    def main(self) -> bool:
        """The one that speaks and writes."""
        return self.rank == 0


ALONE = Processes()


def processes(environ: Mapping[str, str]) -> Processes:
    """Raises ConfigError for variables that contradict each other."""
    if "WORLD_SIZE" not in environ or "RANK" not in environ:
        return ALONE
    try:
        size, rank = int(environ["WORLD_SIZE"]), int(environ["RANK"])
        local_rank = int(environ.get("LOCAL_RANK", rank))
        local_size = int(environ.get("LOCAL_WORLD_SIZE", size))
        counts = (environ.get(n, 0) for n in ("TORCHELASTIC_RESTART_COUNT", RESTARTS))
        restarts = max(map(int, counts))
    except ValueError:
        size, rank, local_rank, local_size, restarts = 0, 0, 0, 0, 0
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        said = ", ".join(f"{n}={environ[n]}" for n in NAMES if n in environ)
        raise ConfigError(
            f"the environment describes no process of a run: {said}",
            hint="start with `sd3tune train --nproc N` or torchrun, or unset these variables",
        )
    return Processes(rank, size, local_rank, local_size, restarts, environ.get(STORE) or None)


def end_with_launcher(environ: Mapping[str, str]) -> None:
    """Where `sd3tune train --nproc` started this process: a SIGTERM to it when the launcher was
    killed, so that it saves and ends; and a kill after SAVE_SECONDS."""
    launcher = environ.get(LAUNCHER, "")
    if launcher.isdigit():
        threading.Thread(target=_watch, args=(int(launcher),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
