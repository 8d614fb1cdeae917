"""The cards that CUDA itself can start, through `cuInit` of the driver's own library.

PyTorch calls the same function, so what stops it here stops training. Functions and codes: cuda.h.
Nothing here raises.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey
from sd3tune.backends.observe.libcuda import NAME, Load, number, status
from sd3tune.backends.observe.nvml import REINSTALL, UNKNOWN, problem

MAJOR, MINOR, BUS, DEVICE, DOMAIN = 75, 76, 33, 34, 50  # CUdevice_attribute
MOST_CARDS = 64
RESTART = "restart the container with --gpus all; look at dmesg for Xid messages"
CUDA_ITSELF = ("nvidia.libcuda-", "nvidia.cuinit-")  # say that CUDA does not start, and not why
# CUresult of cuInit, what it means, what helps.
INIT = {
    3: ("not-initialized", "CUDA does not start", REINSTALL),
    34: ("stub", f"{NAME} is the CUDA toolkit's stub, which has no driver in it",
         "take the folder `stubs` off LD_LIBRARY_PATH"),
    46: ("unavailable", "the card is taken by another program, or its compute mode forbids use",
         "stop the other program; sudo nvidia-smi -c 0"),
    100: ("no-device", "CUDA finds no card that it can use", f"{RESTART}; update a driver that is "
          "older than the card"),
    304: ("os-call", "the operating system refused a call of CUDA: permissions of /dev/nvidia*, or "
          "a sandbox", "ls -l /dev/nvidia*; docker run --gpus all …"),
    802: ("not-ready", "CUDA's system is not ready: the fabric manager of the NVLink switches does "
          "not run", "sudo systemctl start nvidia-fabricmanager, or rent another host"),
    803: ("mismatch", f"{NAME} and the kernel driver are of different versions",
          "reboot, or restart the container so that it gets the host's current driver libraries"),
    804: ("compatibility", "the CUDA compatibility package in this container does not support "
          "this card", "remove cuda-compat from LD_LIBRARY_PATH, or update the host's driver"),
    999: ("unknown-error", "CUDA does not start: unknown error", RESTART),
}  # fmt: skip
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def survey(root: Path, load: Load = ctypes.CDLL) -> Survey:
    """All cards in the order of their buses. A library that cannot be opened is libcuda's finding.
    load: opens a library, as ctypes.CDLL does."""
    try:
        library = load(NAME)
    except OSError:
        return Survey("cuda")
    problems: list[Problem] = []
    with _every_card_visible():
        gpus = _cards(library, problems)
    return Survey("cuda", gpus, source="cuInit" if gpus else None, problems=tuple(problems))


@contextmanager
def _every_card_visible() -> Iterator[None]:
    """Which cards a run may use is another question than which there are."""
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _cards(library: Any, problems: list[Problem]) -> tuple[Gpu, ...]:
    code = status(library, "cuInit", 0)
    if code is None:  # not the driver's library: libcuda's finding
        return ()
    if code != 0:
        kind, words, fix = INIT.get(code, ("init", f"cuInit fails with code {code}", REINSTALL))
        problems.append(problem(f"cuinit-{kind}", "fail", words, fix))
        return ()
    count = number(library, "cuDeviceGetCount") or 0
    if not 0 <= count <= MOST_CARDS:
        words = f"CUDA answers rubbish: {count} cards"
        problems.append(problem("cuinit-garbage", "warn", words, REINSTALL))
        return ()
    return tuple(_gpu(library, index) for index in range(count))


def _gpu(library: Any, index: int) -> Gpu:
    device = ctypes.c_int(number(library, "cuDeviceGet", index) or 0)

    def attribute(key: int) -> int | None:
        return number(library, "cuDeviceGetAttribute", key, device)

    major, minor = attribute(MAJOR), attribute(MINOR)
    where = attribute(DOMAIN), attribute(BUS), attribute(DEVICE)
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
    named = status(library, "cuDeviceGetName", name, 255, device) == 0
    sized = status(library, "cuDeviceTotalMem_v2", ctypes.byref(total), device) == 0
    return Gpu(
        vendor="cuda",
        index=index,
        name=(named and name.value.decode(errors="replace")) or "NVIDIA GPU",
        arch=UNKNOWN if major is None or minor is None else Arch("sm", f"sm_{major}{minor}"),
        source="cuInit",
        total_bytes=total.value if sized and total.value else None,
        bus_id=None if None in where else "{:04x}:{:02x}:{:02x}.0".format(*where),
    )
