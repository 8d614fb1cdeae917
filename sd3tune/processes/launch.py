"""`sd3tune train --nproc N`: one process per device; all are restarted when one of them is killed.

torch's elastic agent starts, watches and stops the processes, as in torchrun. Unlike torchrun, this
module distinguishes two kinds of failure. A process that was killed, or that lost another process,
is restarted from the newest checkpoint. An error that would occur again ends the run.

On one machine nothing listens beyond the loopback interface: launcher and processes meet through
files in a private folder. torch's TCP store, the usual way, listens on all interfaces, needs no
password, and unpickles what it receives.
"""

import logging
import os
import signal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sd3tune import start
from sd3tune.errors import PeerLost
from sd3tune.filesystem.temporary import private_folder
from sd3tune.processes.environment import LAUNCHER, RESTARTS, SAVE_SECONDS, STORE
from sd3tune.report.messages import error, say, warn
from sd3tune.report.progress import waiting

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

MOST_RESTARTS = 3


@dataclass(frozen=True)
class Machines:
    """The machines of a run, which of them this one is, and where the processes meet."""

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def launch(processes: int, machines: Machines, words: Sequence[str]) -> int:
    """Runs `sd3tune train WORDS` in `processes` processes on this machine; returns the exit code.
    Raises HardwareError when no folder for temporary files is writable."""
    with waiting("importing PyTorch"):
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.launcher import api  # noqa: F401  the long one; used below

    say(f"starting {processes} processes")
    # The agent logs each process that ended with a traceback; what matters is said here.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    start.leave_working_directory()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    pass_hangups_on()
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.pop(STORE, None)
    if machines.count == 1:
        _keep_to_this_machine()
    # Launchers of several machines do not agree on attempts (observed: one waits for the other for
    # ever). So with several machines the user or the scheduler starts all of them again.
    most = MOST_RESTARTS if machines.count == 1 else 0
    for restarts in range(most + 1):
        os.environ[RESTARTS] = str(restarts)
        try:
            code, why = _attempt(processes, machines, words)
        except SignalException as e:  # a signal while processes start or end
            return 128 + int(e.sigval)
        if why is None:
            return code
        if restarts < most:
            again = f"{restarts + 1} of {most}"
            warn(f"{why}; all are started again from the newest checkpoint ({again})")
    if not most:
        hint = "start the command again on every machine: it continues from the newest checkpoint"
        error(str(why), hint)
        return code
    error(
        f"{why}, for the {MOST_RESTARTS + 1}th time",
        "the lines above say more; `dmesg` shows whether memory ran out",
    )
    return code


def pass_hangups_on() -> None:
    """Makes the first SIGHUP end the run and ignores the following ones: a closing terminal sends
    several, and the agent would interrupt the processes while they save. A SIGHUP that `nohup`
    ignores stays ignored."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise SignalException("the terminal is gone", sigval=signal.Signals(number))

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, end)


def _attempt(processes: int, machines: Machines, words: Sequence[str]) -> tuple[int, str | None]:
    """Runs the processes once. Returns the exit code, and the reason for another attempt or
    None."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import launch_agent

    command, *arguments = start.command(start.PACKAGE, "train", *words)
    with private_folder("run") as folder:
        if machines.count == 1:
            os.environ[STORE] = str(folder / "processes")
        try:
            launch_agent(_agent(processes, machines, folder), command, arguments)
            return 0, None
        except ChildFailedError as e:
            return _verdict({rank: f.exitcode for rank, f in e.failures.items()})


def _keep_to_this_machine() -> None:
    """Binds the ports of gloo and NCCL to the loopback interface, unless the user chose another
    one. NCCL: untested on hardware."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # torch 2.13: else a TCP store as well
    name = _loopback()
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _loopback() -> str | None:
    """Name of the loopback interface: `lo` on Linux, `lo0` on macOS; None if it does not exist."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == "127.0.0.1" for a in addresses):
            return str(name)
    return None


def _agent(processes: int, machines: Machines, folder: Path) -> "LaunchConfig":
    """The configuration of torch's elastic agent. folder: private; it holds the agent's logs and,
    on one machine, its store."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    alone = machines.count == 1
    return LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex if alone else "sd3tune",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint=str(folder / "launcher") if alone else f"{machines.address}:{machines.port}",
        rdzv_configs={"store_type": "file"} if alone else {"rank": machines.rank},
        local_addr="localhost" if alone else None,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(
            log_dir=str(folder / "notes")
        ),  # else /tmp/torchelastic_… stays
        shutdown_timeout=SAVE_SECONDS,
        signals_to_handle="SIGTERM,SIGINT,SIGQUIT",  # SIGHUP: pass_hangups_on
    )


def _verdict(codes: dict[int, int]) -> tuple[int, str | None]:
    """From rank -> exit code: the exit code of the run, and the reason for another attempt or None.

    When one process ends, the others lose their connection to it (75) or the agent sends them
    SIGTERM. A process that saved and ended after a SIGTERM (143) got it from the agent or the user.
    """
    told, after = 128 + signal.SIGTERM, (-signal.SIGTERM, PeerLost.exit_code)
    causes = {r: c for r, c in sorted(codes.items()) if c not in after} or codes
    rank, code = min(causes.items(), key=lambda cause: (cause[1] == told, cause[0]))
    if code < 0:
        return 128 - code, f"process {rank} was killed by signal {-code}"
    if code == PeerLost.exit_code:
        return code, f"process {rank} lost another process"
    return code, None
