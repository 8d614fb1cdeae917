"""Variables that change how PyTorch's MPS backend works, judged as its allocator would.

Pure functions of the environment: what is wrong with a value, what is worth knowing, how much of
the memory they leave. The checks are those of aten/src/ATen/mps/MPSAllocator.mm (torch 2.15).
"""

import re
from collections.abc import Iterator, Mapping

from sd3tune.backends.observe.facts import Note, Problem

HIGH, LOW = "PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_MPS_LOW_WATERMARK_RATIO"
FALLBACK, PREFER_METAL = "PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_PREFER_METAL"
FAST_MATH = "PYTORCH_MPS_FAST_MATH"
NAMES = (HIGH, LOW, FALLBACK, PREFER_METAL, FAST_MATH)
# As multiples of what Metal recommends.
DEFAULT_HIGH, DEFAULT_LOW, MOST_HIGH = 1.7, 1.4, 2.0


def ratio(text: str) -> float:
    """As C's strtod reads it: the number at the beginning, and 0 for words."""
    start = re.match(r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan)", text)
    return float(start.group()) if start else 0.0


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def share(environ: Mapping[str, str]) -> float:
    """Of what Metal recommends, what the allocator gives out. Above 1 it would only be swapped."""
    high = ratio(environ[HIGH]) if HIGH in environ else DEFAULT_HIGH
    return high if 0 < high < 1 else 1.0


def problems(environ: Mapping[str, str]) -> Iterator[Problem]:
    high = ratio(environ[HIGH]) if HIGH in environ else DEFAULT_HIGH
    low = ratio(environ[LOW]) if LOW in environ else DEFAULT_LOW
    for name in (HIGH, LOW):
        if name in environ and not is_number(environ[name]):
            words = f"{name}={environ[name]} is no number: PyTorch reads {ratio(environ[name]):g}"
            yield Problem("mps.watermark-no-number", "warn", words, f"unset {name}")
    if not 0 <= high <= MOST_HIGH:
        words = f"{HIGH}={environ[HIGH]} is outside 0 to {MOST_HIGH:g}: the first tensor fails"
        yield Problem("mps.watermark", "fail", words, f"unset {HIGH}")
    elif not 0 <= low <= (high or MOST_HIGH):
        yield _low(low, high, environ)
    elif high == 0:
        words = f"{HIGH}={environ[HIGH]} lifts the memory limit: the Mac may freeze"
        yield Problem("mps.watermark", "warn", words, f"unset {HIGH}")


def _low(low: float, high: float, environ: Mapping[str, str]) -> Problem:
    """A high mark set alone falls below the default low one (kohya-ss/sd-scripts#603)."""
    who = f"{LOW}={environ[LOW]}" if LOW in environ else f"{LOW} is {DEFAULT_LOW} by default"
    limit = f"{HIGH}={environ[HIGH]}" if HIGH in environ else f"the high mark of {DEFAULT_HIGH}"
    words = f"{who}, which must be from 0 to {limit}: the first tensor fails"
    fix = f"export {LOW}={high:g}" if 0 < high < MOST_HIGH else f"unset {LOW}"
    return Problem("mps.watermark-low", "fail", words, fix)


def notes(environ: Mapping[str, str]) -> Iterator[Note]:
    if environ.get(FALLBACK) == "1":
        words = f"{FALLBACK}=1: what MPS lacks runs on the CPU, slowly, with one warning each"
        yield Note("mps.fallback", words, "environment")
    if environ.get(FAST_MATH) == "1":
        yield Note("mps.fast-math", f"{FAST_MATH}=1: kernels round less exactly", "environment")
    for name in (HIGH, LOW, PREFER_METAL):
        if name in environ:
            yield Note("mps.setting", f"{name}={environ[name]}", "environment")
