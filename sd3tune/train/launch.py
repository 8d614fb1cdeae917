"""`sd3tune train --nproc N`: a process for each device, started anew when one of them dies.

torch's elastic agent starts, watches and stops them, exactly as torchrun does; what torchrun cannot
tell apart is told apart here: a process that was killed, or lost another one, is worth starting
again from the newest checkpoint, an error that will come again is not.
"""

import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sd3tune.backends.processes import RESTARTS
from sd3tune.errors import PeerLost
from sd3tune.report.progress import say

SAVE_SECONDS = 600  # for a checkpoint after SIGTERM, before the agent kills
MOST_RESTARTS = 3
MEET_SECONDS = 600  # until machine 0 is given up
AGAIN_SECONDS = 2


@dataclass(frozen=True)
class Machines:
    """Where the processes meet."""

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def launch(processes: int, machines: Machines, words: Sequence[str]) -> int:
    """Runs `sd3tune train WORDS` in so many processes on this machine; its exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # the agent's; what matters of it is said here
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for restarts in range(MOST_RESTARTS + 1):
        os.environ[RESTARTS] = str(restarts)
        try:
            _attempt(_agent(processes, machines, restarts), words)
            return 0
        except SignalException as e:
            return 128 + int(e.sigval)
        except ChildFailedError as e:
            code, why = _verdict({rank: f.exitcode for rank, f in e.failures.items()})
        if why is None:
            return code
        if restarts < MOST_RESTARTS:
            say(f"warning: {why}; all are started again from the newest checkpoint "
                f"({restarts + 1} of {MOST_RESTARTS})")  # fmt: skip
    say(f"error: {why}, for the {MOST_RESTARTS + 1}th time\nhint: the lines above say more; "
        "`dmesg` shows whether memory ran out")  # fmt: skip
    return code


def _attempt(config: "object", words: Sequence[str]) -> None:
    """Machine 0 may still be closing the meeting place of the attempt before: then once more."""
    from torch.distributed import DistNetworkError
    from torch.distributed.launcher.api import launch_agent

    until = time.monotonic() + MEET_SECONDS
    while True:
        try:
            launch_agent(config, sys.executable, ["-m", "sd3tune", "train", *words])
            return
        except DistNetworkError as e:
            if time.monotonic() > until:
                raise PeerLost(
                    f"the machines of this run do not find each other: {first_line(e)}",
                    hint="check main_process_ip, main_process_port and the firewall between them",
                ) from None
            time.sleep(AGAIN_SECONDS)


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _agent(processes: int, machines: Machines, restarts: int) -> "object":
    from torch.distributed.launcher.api import LaunchConfig

    alone = machines.count == 1
    return LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=processes,
        # Keys of an earlier attempt stay in machine 0's store, and would be taken for this one's.
        run_id=uuid.uuid4().hex if alone else f"sd3tune-{restarts}",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else f"{machines.address}:{machines.port}",
        rdzv_configs={} if alone else {"rank": machines.rank},
        local_addr="localhost" if alone else None,
        max_restarts=0,
        shutdown_timeout=SAVE_SECONDS,
    )


def _verdict(codes: dict[int, int]) -> tuple[int, str | None]:
    """The exit code, and why another attempt is worth making."""
    # When one process ends, the others lose it (75) or are told to end by the agent (SIGTERM).
    after = (-signal.SIGTERM, PeerLost.exit_code)
    causes = {r: c for r, c in sorted(codes.items()) if c not in after} or codes
    rank, code = next(iter(causes.items()))
    if code < 0:
        return 128 - code, f"process {rank} was killed by signal {-code}"
    if code == PeerLost.exit_code:
        return code, f"process {rank} lost another one"
    return code, None
