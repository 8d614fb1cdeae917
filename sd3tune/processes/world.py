"""Communication between the processes of one run: sums, agreement, and averaged gradients (DDP,
FSDP2).

A single process is the special case without communication. The plan chooses the backend (nccl,
gloo). The launcher may be sd3tune, torchrun or accelerate.
"""

import datetime
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from sd3tune.backends.kernels import torch_devices
from sd3tune.errors import HardwareError, PeerLost
from sd3tune.processes.environment import ALONE, Processes
from sd3tune.report.progress import waiting

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=2)  # the others wait while rank 0 samples pictures


@dataclass(frozen=True)
class World:
    """This process among the processes of the run. Every process must call each method, in the same
    order."""

    processes: Processes
    device: torch.device

    @property
    def size(self) -> int:
        return self.processes.size

    @property
    def main(self) -> bool:
        return self.processes.main

    def sum(self, *values: float) -> tuple[float, ...]:
        """Sum of each value over the processes, in float64 on the CPU and float32 elsewhere."""
        if self.size == 1:
            return values
        t = torch.tensor(values, dtype=torch_devices.dtype_of_sums(self.device), device=self.device)
        torch.distributed.all_reduce(t)
        return tuple(t.tolist())

    def largest(self, value: int) -> int:
        """Maximum of `value` over the processes; used so that a signal caught by one stops all."""
        if self.size == 1:
            return value
        t = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(t, op=torch.distributed.ReduceOp.MAX)
        return int(t.item())

    def gathered(self, items: tuple[T, ...]) -> tuple[T, ...]:
        """The items of all processes, in the order of their ranks."""
        if self.size == 1:
            return items
        found: list[tuple[T, ...]] = [()] * self.size
        torch.distributed.all_gather_object(found, items)
        return tuple(item for some in found for item in some)

    def wait(self) -> None:
        """Waits until every process has called this."""
        if self.size > 1:
            torch.distributed.barrier()


ALONE_ON_CPU = World(ALONE, torch.device("cpu"))


@contextmanager
def failing_together(world: World) -> Iterator[None]:
    """Where the block fails in one process, it fails in all: each raises its own error, or
    HardwareError for that of another one. Every process must come here, and communicate in the
    block as all others do."""
    own: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, the others must know
        own = error
    if not world.largest(int(own is not None)):
        return
    reasons = world.gathered((str(own) if own else "",))
    if own is not None:
        raise own
    rank, reason = next((rank, reason) for rank, reason in enumerate(reasons) if reason)
    raise HardwareError(f"process {rank} of this run: {reason}", hint="look at that process first")


@contextmanager
def join(processes: Processes, device: torch.device, backend: str | None) -> Iterator[World]:
    """The world of this process while the block runs. Raises HardwareError when the processes
    cannot connect to each other, PeerLost when another one disappears later."""
    if processes.size == 1:
        yield World(processes, device)
        return
    try:
        with waiting(f"connecting {processes.size} processes"):
            _meet(processes, backend)
    except (RuntimeError, ValueError) as e:
        hint = "check main_process_ip, main_process_port and the firewall between the machines"
        if processes.store is not None:
            hint = "unset GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, and start the command again"
        raise HardwareError(
            f"the {processes.size} processes of this run cannot connect to each other over "
            f"{backend}: {first_sentence(e)}",
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
    """Connects the processes: on one machine through a file that only this user can open, because
    torch's TCP store listens on all interfaces and unpickles what it receives."""
    if processes.store is None:
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
        return
    store = torch.distributed.FileStore(  # type: ignore[attr-defined]  # documented, not in __all__
        processes.store, processes.size
    )
    store.set_timeout(PATIENCE)
    torch.distributed.init_process_group(
        backend, store=store, rank=processes.rank, world_size=processes.size, timeout=PATIENCE
    )


def first_sentence(error: Exception) -> str:
    """The first sentence of a message of gloo or NCCL, without the source location in front. Their
    messages are long."""
    line = str(error).splitlines()[0]
    return re.sub(r"^\[[^\]]*\] ", "", line).split(". ")[0]


def replicated(model: Any, world: World) -> Any:
    """The model wrapped in DDP, which averages gradients over the processes; the model itself when
    there is one process. All processes start with equal weights, because their seeds are the run's,
    so DDP sends nothing at the start."""
    if world.size == 1:
        return model
    ids = torch_devices.device_ids(world.device)
    return nn.parallel.DistributedDataParallel(
        model, device_ids=ids, forward_sync_buffers=False, init_sync=False
    )


def sharded(model: Any, world: World, *, reshard: bool) -> None:
    """Applies FSDP2 in place: each process keeps a part of every weight and gathers one block at a
    time. reshard: free gathered weights after the forward pass."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)


def unsynchronised(wrapped: Any, last: bool) -> AbstractContextManager[None]:
    """A context in which DDP does not average gradients, for all accumulated batches but the
    last."""
    if last or not isinstance(wrapped, nn.parallel.DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = wrapped.no_sync()
    return context
