"""The rank of this process in its run, from the variables that torchrun and `accelerate launch`
set, and a watcher that ends the process when the launcher of `--nproc` has ended."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.errors import ConfigError

# Set by processes/launch.py for the processes that it starts.
RESTARTS = "SD3TUNE_RESTARTS"  # torchrun sets TORCHELASTIC_RESTART_COUNT instead
STORE = "SD3TUNE_STORE"
LAUNCHER = "SD3TUNE_LAUNCHER"
SAVE_SECONDS = 600  # time for a checkpoint between SIGTERM and SIGKILL
WATCH_SECONDS = 1.0
HINT = "start with `sd3tune train --nproc N` or torchrun, or unset these variables"


@dataclass(frozen=True)
class Processes:
    """This process and the run it belongs to. The defaults describe a run of one process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # how often the launcher has restarted the processes
    store: str | None = None  # the file of torch's FileStore; None: they meet at MASTER_ADDR

    @property
    def main(self) -> bool:
        """Whether this is process 0, which prints and writes files."""
        return self.rank == 0


ALONE = Processes()


def processes(environ: Mapping[str, str]) -> Processes:
    """The process that RANK, WORLD_SIZE and the other variables of `environ` describe; ALONE when
    they are not set. Raises ConfigError for variables that contradict each other."""
    if "WORLD_SIZE" not in environ or "RANK" not in environ:
        return ALONE
    size, rank = _number(environ, "WORLD_SIZE", 1), _number(environ, "RANK", 0)
    local_rank = _number(environ, "LOCAL_RANK", rank)
    local_size = _number(environ, "LOCAL_WORLD_SIZE", size)
    restarts = max(_number(environ, n, 0) for n in ("TORCHELASTIC_RESTART_COUNT", RESTARTS))
    for name, value, above, limit in (
        ("RANK", rank, "WORLD_SIZE", size),
        ("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_size),
    ):
        if not 0 <= value < limit:
            why = "be 0 or more" if value < 0 else f"be below {above}={limit}"
            raise ConfigError(f"{name}={value} must {why}", hint=HINT)
    if local_size > size:
        words = f"LOCAL_WORLD_SIZE={local_size} must not be above WORLD_SIZE={size}"
        raise ConfigError(words, hint=HINT)
    return Processes(rank, size, local_rank, local_size, restarts, environ.get(STORE) or None)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environ.get(name, default))
    except ValueError:
        words = f"{name}={environ[name]} is not a whole number"
        raise ConfigError(words, hint=HINT) from None


def end_with_launcher(environ: Mapping[str, str]) -> None:
    """Watches the launcher, if `sd3tune train --nproc` started this process. When the launcher was
    killed, this process gets SIGTERM, so that it saves and ends, and SIGKILL after SAVE_SECONDS."""
    launcher = environ.get(LAUNCHER, "")
    if launcher.isdigit():
        threading.Thread(target=_watch, args=(int(launcher),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
