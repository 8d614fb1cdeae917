"""`sd3tune train --nproc N`: a process for each device, started anew when one of them dies.

torch's elastic agent starts, watches and stops them, exactly as torchrun does; what torchrun cannot
tell apart is told apart here: a process that was killed, or lost another one, is worth starting
again from the newest checkpoint, an error that will come again is not.
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from sd3tune.backends.processes import RESTARTS
from sd3tune.errors import PeerLost
from sd3tune.report.progress import say

SAVE_SECONDS = 600  # for a checkpoint after SIGTERM, before the agent kills
MOST_RESTARTS = 3


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
    from torch.distributed.launcher.api import launch_agent

    logging.disable(logging.ERROR)  # the agent's; what matters of it is said here
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    pass_hangups_on()
    # Launchers of several machines do not agree on attempts (seen: one waits for the other for
    # ever), so there whoever started them starts all again.
    most = MOST_RESTARTS if machines.count == 1 else 0
    for restarts in range(most + 1):
        os.environ[RESTARTS] = str(restarts)
        try:
            launch_agent(_agent(processes, machines), sys.executable,
                         ["-m", "sd3tune", "train", *words])  # fmt: skip
            return 0
        except SignalException as e:
            return 128 + int(e.sigval)
        except ChildFailedError as e:
            code, why = _verdict({rank: f.exitcode for rank, f in e.failures.items()})
        if why is None:
            return code
        if restarts < most:
            say(f"warning: {why}; all are started again from the newest checkpoint "
                f"({restarts + 1} of {most})")  # fmt: skip
    if not most:
        say(f"error: {why}\nhint: start the command again on every machine: it continues from "
            "the newest checkpoint")  # fmt: skip
        return code
    say(f"error: {why}, for the {MOST_RESTARTS + 1}th time\nhint: the lines above say more; "
        "`dmesg` shows whether memory ran out")  # fmt: skip
    return code


def pass_hangups_on() -> None:
    """SIGHUP ends the run once, however often a closing terminal sends it; the agent would begin to
    end it again while processes save. Where `nohup` had it ignored, it stays ignored."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise SignalException("the terminal is gone", sigval=signal.Signals(number))

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, end)


def _agent(processes: int, machines: Machines) -> "object":
    from torch.distributed.launcher.api import LaunchConfig

    alone = machines.count == 1
    return LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex if alone else "sd3tune",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else f"{machines.address}:{machines.port}",
        rdzv_configs={} if alone else {"rank": machines.rank},
        local_addr="localhost" if alone else None,
        max_restarts=0,
        shutdown_timeout=SAVE_SECONDS,
        signals_to_handle="SIGTERM,SIGINT,SIGQUIT",  # SIGHUP: pass_hangups_on
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
