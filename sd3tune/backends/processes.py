"""Which of several processes this one is, as torchrun and `accelerate launch` say it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.errors import ConfigError

RESTARTS = "SD3TUNE_RESTARTS"  # set by train/launch; torchrun has its own
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """Of one run. A process started by hand is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # times the launcher started them anew

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
    return Processes(rank, size, local_rank, local_size, restarts)
