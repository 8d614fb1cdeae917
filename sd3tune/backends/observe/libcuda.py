"""libcuda.so.1, the driver's own library, through ctypes: the newest CUDA that the driver offers.
That needs no card and no permission. Functions and codes: cuda.h. Nothing here raises.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import system
from sd3tune.backends.observe.facts import Survey
from sd3tune.backends.observe.nvml import REINSTALL, problem

NAME = "libcuda.so.1"
Load = Callable[[str], Any]


def survey(root: Path, load: Load = ctypes.CDLL) -> Survey:
    """The newest CUDA that the driver offers. load: opens a library, as ctypes.CDLL does."""
    try:
        library = load(NAME)
    except OSError as e:
        cause, words = system.load_failure(e)
        fix = REINSTALL
        if cause == "absent":
            fix = "install the NVIDIA driver; in a container: docker run --gpus all …"
        kind = "not-found" if cause == "absent" else cause
        words = f"{NAME} {words}: PyTorch may not find the card"
        return Survey("cuda", problems=(problem(f"libcuda-{kind}", "warn", words, fix),))
    version = number(library, "cuDriverGetVersion")
    if version is None or version <= 0:
        words = f"{NAME} does not say which CUDA it offers: it is not the driver's library"
        return Survey("cuda", problems=(problem("libcuda-garbage", "warn", words, REINSTALL),))
    return Survey("cuda", runtime=f"{version // 1000}.{version % 1000 // 10}", source="libcuda")


def number(library: Any, function: str, *words: Any) -> int | None:
    """The whole number that a function writes; None where it is missing or fails."""
    value = ctypes.c_int()
    return value.value if status(library, function, ctypes.byref(value), *words) == 0 else None


def status(library: Any, function: str, *words: Any) -> int | None:
    """The CUresult of a call; None where the library lacks the function."""
    try:
        return int(getattr(library, function)(*words))
    except (AttributeError, ValueError, TypeError):
        return None
