"""Which of the fused attention kernels a run takes: the one that was measured to be the fastest at
its shape, among those that the gradient check admits.

The measured times are words of a probe (kernels/attention_speed.py), whose name holds the shape.
Kernels that write out their scores, or compute them in slices, are not measured: they differ in
memory, and are chosen for it. Where PyTorch has one fused kernel, as on a CPU, there is no choice.
Untested on hardware.
"""

import re
from collections.abc import Mapping, Sequence

from sd3tune.backends.decide.option import Option
from sd3tune.backends.observe.facts import Facts

PROBE = "attention_speed"  # and a shape, as `probe_of` writes it
FUSED = ("diffusers", "native-flash", "native-efficient", "cudnn")
EQUAL = 0.05  # relative: what is not faster by more keeps the order of the table
NAMED = re.compile(PROBE + r":(\d+)x(\d+)x(\d+):(fp32|bf16|fp16)")
TIME = re.compile(r"([\w-]+) ([\d.e+-]+) ms")


def probe_of(batch: int, heads: int, tokens: int, dtype: str) -> str:
    """The probe that measures the kernels at one shape: "attention_speed:4x24x4427:bf16"."""
    return f"{PROBE}:{batch}x{heads}x{tokens}:{dtype}"


def shape_of(probe: str) -> tuple[int, int, int, str] | None:
    """Batch, heads, tokens and number format of such a probe; None for another name."""
    match = NAMED.fullmatch(probe)
    return (int(match[1]), int(match[2]), int(match[3]), match[4]) if match else None


def has_choice(facts: Facts) -> bool:
    """PyTorch has several fused kernels with a backward pass there."""
    return facts.vendor in ("cuda", "rocm")


def words_of(seconds: Mapping[str, float]) -> str:
    """As the probe says it: "diffusers 3.10 ms, cudnn 2.20 ms"."""
    return ", ".join(f"{name} {1000 * each:.3g} ms" for name, each in seconds.items())


def seconds_of(words: str) -> dict[str, float]:
    """Kernel -> seconds, from the probe's words."""
    return {name: float(number) / 1000 for name, number in TIME.findall(words)}


def quickest(default: Option, clean: Sequence[Option], facts: Facts) -> tuple[Option, str]:
    """The option to take, and why. default: the first of the table that no rule excludes. clean:
    all that no rule excludes."""
    times = {o.name: facts.attention_seconds[o.name]
             for o in clean if o.name in FUSED and o.name in facts.attention_seconds}  # fmt: skip
    if default.name not in times or len(times) == 1:
        return default, default.because
    best = min(times, key=lambda name: times[name])
    figures = words_of(dict(sorted(times.items(), key=lambda pair: pair[1])))
    if times[best] >= (1 - EQUAL) * times[default.name]:
        return default, f"{default.because}; measured at {facts.measured_at}: {figures}"
    option = next(o for o in clean if o.name == best)
    return option, f"the fastest at {facts.measured_at}: {figures}; {option.because}"
