"""Several processes as one run: sums, agreement, and gradients that are those of the whole batch.

One process is the special case in which nothing has to be said. The backend (nccl, gloo) is the
plan's choice; who started the processes does not matter.
"""

import datetime
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from sd3tune.errors import HardwareError, PeerLost
from sd3tune.processes.environment import ALONE, Processes

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=2)  # rank 0 draws pictures while the others wait


@dataclass(frozen=True)
class World:
    processes: Processes
    device: torch.device

    @property
    def size(self) -> int:
        return self.processes.size

    @property
    def main(self) -> bool:
        return self.processes.main

    def sum(self, *values: float) -> tuple[float, ...]:
        """Each value summed over the processes, in float64 on the CPU and float32 elsewhere."""
        if self.size == 1:
            return values
        kind = torch.float64 if self.device.type == "cpu" else torch.float32
        t = torch.tensor(values, dtype=kind, device=self.device)
        torch.distributed.all_reduce(t)
        return tuple(t.tolist())

    def largest(self, value: int) -> int:
        """The same answer for all: a signal that one of them caught stops every one."""
        if self.size == 1:
            return value
        t = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(t, op=torch.distributed.ReduceOp.MAX)
        return int(t.item())

    def gathered(self, items: tuple[T, ...]) -> tuple[T, ...]:
        """Those of all processes, in the order of their ranks."""
        if self.size == 1:
            return items
        found: list[tuple[T, ...]] = [()] * self.size
        torch.distributed.all_gather_object(found, items)
        return tuple(item for some in found for item in some)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            torch.distributed.barrier()


ALONE_ON_CPU = World(ALONE, torch.device("cpu"))


@contextmanager
def join(processes: Processes, device: torch.device, backend: str | None) -> Iterator[World]:
    """Raises HardwareError when the processes do not find each other."""
    if processes.size == 1:
        yield World(processes, device)
        return
    try:
        _meet(processes, backend)
    except (RuntimeError, ValueError) as e:
        hint = "check main_process_ip, main_process_port and the firewall between the machines"
        if processes.store is not None:
            hint = "unset GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, and start the command again"
        raise HardwareError(
            f"the {processes.size} processes of this run do not find each other over {backend}: "
            f"{first_sentence(e)}",
            hint=hint,
        ) from None
    try:
        yield World(processes, device)
    except RuntimeError as e:
        # gloo has no error class of its own.
        if not isinstance(e, torch.distributed.DistError) and "gloo" not in str(e):
            raise
        raise PeerLost(
            f"process {processes.rank} lost another process of this run: {first_sentence(e)}",
            hint="the same command continues from the newest checkpoint",
        ) from None
    finally:
        torch.distributed.destroy_process_group()


def _meet(processes: Processes, backend: str | None) -> None:
    """On one machine through a file that only this user can open: torch's TCP store listens on all
    interfaces, and unpickles what anybody writes into it."""
    if processes.store is None:
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
        return
    store = torch.distributed.FileStore(processes.store, processes.size)
    store.set_timeout(PATIENCE)
    torch.distributed.init_process_group(
        backend, store=store, rank=processes.rank, world_size=processes.size, timeout=PATIENCE
    )


def first_sentence(error: Exception) -> str:
    """Of gloo's and NCCL's messages, which go on at length and begin with a place in their code."""
    line = str(error).splitlines()[0]
    return re.sub(r"^\[[^\]]*\] ", "", line).split(". ")[0]


def replicated(model: Any, world: World) -> Any:
    """What to call so that gradients are averaged over the processes (DDP); the model itself when
    there is one. All start alike: seeds are the run's, so nothing is sent around first."""
    if world.size == 1:
        return model
    ids = None if world.device.type == "cpu" else [world.device]
    return nn.parallel.DistributedDataParallel(
        model, device_ids=ids, forward_sync_buffers=False, init_sync=False
    )


def sharded(model: Any, world: World, *, reshard: bool) -> None:
    """FSDP2: each process keeps a part of every weight, gathered block by block when needed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)


def unsynchronised(wrapped: Any, last: bool) -> AbstractContextManager[None]:
    """Gradients of all but the last accumulated batch stay where they are."""
    if last or not isinstance(wrapped, nn.parallel.DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = wrapped.no_sync()
    return context
