"""The CPU: slow, always there, and the reference every other device is compared with."""

from collections.abc import Mapping
from pathlib import Path

from sd3tune.backends.observe.card_sources import Ask, ask_in_child
from sd3tune.backends.observe.facts import (
    Arch,
    Device,
    Facts,
    Gpu,
    Machine,
    Survey,
    TorchReport,
    Vendor,
)

VENDOR: Vendor = "cpu"


def present(root: Path = Path("/")) -> str | None:
    """There is always one."""
    return "this program runs"


def survey(root: Path = Path("/"), ask: Ask = ask_in_child) -> Survey:
    """No card, and nobody to ask: all facts of the CPU are in Host."""
    return Survey(VENDOR, source="os")


def visible(survey: Survey, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """No variable hides it."""
    return ()


def facts(
    machine: Machine,
    torch: TorchReport,
    packages: Mapping[str, str],
    tools: Mapping[str, bool],
    environ: Mapping[str, str],
) -> Facts:
    """The processor, with the memory the cgroup leaves."""
    host = machine.host
    ram = host.memory_bytes
    name = host.cpu_name or host.machine
    return Facts(
        vendor=VENDOR,
        devices=(Device(0, "cpu", name, Arch("cpu", host.machine), ram, ram),),
        torch=torch.version,
        torch_build="cpu" if torch.version else None,
        native_bf16_cpu=torch.native_bf16_cpu,
        ram_bytes=ram,
        packages=packages,
        tools=tools,
    )


def prepare(*, deterministic: bool, hidden_kernels: bool, tf32: bool) -> None:
    """Process-wide switches, before the first kernel. hidden_kernels: PyTorch hides none here.
    tf32: there is none here."""
    import torch

    torch.use_deterministic_algorithms(deterministic)


def used_bytes(index: int) -> int | None:
    """Resident memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)
