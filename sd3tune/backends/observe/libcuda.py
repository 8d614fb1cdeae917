"""libcuda.so.1, the driver's own library, through ctypes: the newest CUDA that the driver offers
and the cards that CUDA can start. PyTorch uses the same library: what stops it here stops training.

Functions and codes: cuda.h. Nothing here raises.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import system
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey
from sd3tune.backends.observe.nvml import REINSTALL, UNKNOWN, problem

NAME = "libcuda.so.1"
MAJOR, MINOR, BUS, DEVICE, DOMAIN = 75, 76, 33, 34, 50  # CUdevice_attribute
MOST_CARDS = 64
RESTART = "restart the container with --gpus all; look at dmesg for Xid messages"
# CUresult of cuInit, what it means, what helps.
INIT = {
    3: ("not-initialized", "CUDA does not start", REINSTALL),
    34: ("stub", "it is the CUDA toolkit's stub, which has no driver in it",
         "take the folder `stubs` off LD_LIBRARY_PATH"),
    46: ("unavailable", "the card is taken by another program, or its compute mode forbids use",
         "stop the other program; sudo nvidia-smi -c 0"),
    100: ("no-device", "CUDA finds no card that it can use", RESTART),
    304: ("os-call", "the operating system refused a call of the driver: permissions of "
          "/dev/nvidia*, or a sandbox", "ls -l /dev/nvidia*; docker run --gpus all …"),
    802: ("not-ready", "the system is not ready: the fabric manager of the NVLink switches does "
          "not run", "sudo systemctl start nvidia-fabricmanager, or rent another host"),
    803: ("mismatch", "the library and the kernel driver are of different versions",
          "reboot, or restart the container so that it gets the host's current driver libraries"),
    999: ("unknown-error", "CUDA does not start: unknown error", RESTART),
    804: ("compatibility", "the CUDA compatibility package in this container does not support "
          "this card", "remove cuda-compat from LD_LIBRARY_PATH, or update the host's driver"),
}  # fmt: skip
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
Load = Callable[[str], Any]


def survey(root: Path, load: Load = ctypes.CDLL) -> Survey:
    """What CUDA answers, with all cards in the order of their buses. load: opens a library, as
    ctypes.CDLL does."""
    with _every_card_visible():
        return _survey(load)


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


def _survey(load: Load) -> Survey:
    try:
        library = load(NAME)
    except OSError as e:
        cause, words = system.load_failure(e)
        fix = REINSTALL
        if cause == "absent":
            fix = "install the NVIDIA driver; in a container: docker run --gpus all …"
        kind = "not-found" if cause == "absent" else cause
        words = f"{NAME} {words}: PyTorch may not find the card"
        found = problem(f"libcuda-{kind}", "warn", words, fix)
        return Survey("cuda", problems=(found,))
    number = _number(library, "cuDriverGetVersion")
    runtime = f"{number // 1000}.{number % 1000 // 10}" if number else None
    problems: list[Problem] = []
    gpus = _cards(library, problems)
    source = "libcuda" if gpus or runtime else None
    return Survey("cuda", gpus, None, runtime, source, tuple(problems))


def _cards(library: Any, problems: list[Problem]) -> tuple[Gpu, ...]:
    status = _status(library, "cuInit", 0)
    if status != 0:
        if status is None:
            known = ("garbage", "it has no cuInit: it is not the driver's library", REINSTALL)
        else:
            known = INIT.get(status, ("init", f"cuInit fails with code {status}", REINSTALL))
        kind, words, fix = known
        problems.append(problem(f"libcuda-{kind}", "fail", f"{NAME}: {words}", fix))
        return ()
    count = _number(library, "cuDeviceGetCount") or 0
    if not 0 <= count <= MOST_CARDS:
        words = f"{NAME} answers rubbish: {count} cards"
        problems.append(problem("libcuda-garbage", "warn", words, REINSTALL))
        return ()
    return tuple(_gpu(library, index) for index in range(count))


def _gpu(library: Any, index: int) -> Gpu:
    device = ctypes.c_int(_number(library, "cuDeviceGet", index) or 0)

    def attribute(number: int) -> int | None:
        return _number(library, "cuDeviceGetAttribute", number, device)

    major, minor = attribute(MAJOR), attribute(MINOR)
    where = attribute(DOMAIN), attribute(BUS), attribute(DEVICE)
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
    named = _status(library, "cuDeviceGetName", name, 255, device) == 0
    sized = _status(library, "cuDeviceTotalMem_v2", ctypes.byref(total), device) == 0
    return Gpu(
        vendor="cuda",
        index=index,
        name=(named and name.value.decode(errors="replace")) or "NVIDIA GPU",
        arch=UNKNOWN if major is None or minor is None else Arch("sm", f"sm_{major}{minor}"),
        source="libcuda",
        total_bytes=total.value if sized and total.value else None,
        bus_id=None if None in where else "{:04x}:{:02x}:{:02x}.0".format(*where),
    )


def _number(library: Any, function: str, *words: Any) -> int | None:
    """The whole number that a function writes; None where it is missing or fails."""
    value = ctypes.c_int()
    return value.value if _status(library, function, ctypes.byref(value), *words) == 0 else None


def _status(library: Any, function: str, *words: Any) -> int | None:
    """The CUresult of a call; None where the library lacks the function."""
    try:
        return int(getattr(library, function)(*words))
    except (AttributeError, ValueError, TypeError):
        return None
