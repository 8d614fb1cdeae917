"""The vocabulary in which options.py states where each option works.

A rule is a pure function of what was observed (`Facts`) and what is asked (`Request`): None when
satisfied, otherwise one sentence for a human. Rules observe nothing and decide nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sd3tune.backends.observe.facts import Facts, Vendor
from sd3tune.decision import Provenance
from sd3tune.tables.needs import Need

Rule = Callable[["Facts", "Request"], "str | None"]


@dataclass(frozen=True)
class Request:
    """What the run asks of the machine, in the vocabulary of the settings. None: decide for me.

    Axes are decided in the order of `options.AXES`, and every decision is written back here, so
    that a rule may look at what was decided before it.
    """

    mixed_precision: str | None = None
    base_model_default_dtype: str | None = None
    text_encoder_dtype: str | None = None
    vae_dtype: str | None = None
    optimizer: str | None = None
    trainable_dtype: str | None = None
    grad_scaler: str | None = None
    base_model_precision: str | None = None
    text_encoder_1_precision: str | None = None
    text_encoder_2_precision: str | None = None
    text_encoder_3_precision: str | None = None
    quantize_via: str | None = None
    gradient_checkpointing_backend: str | None = None
    hidden_kernels: str | None = None
    attention_mechanism: str | None = None
    attention_no_grad: str | None = None
    attention_inputs: str | None = None
    dynamo_backend: str | None = None
    pin_memory: str | None = None
    fp8_dtype: str | None = None
    distributed_backend: str | None = None
    deterministic: str | None = None
    model_type: str = "lora"
    processes: int = 1
    sharded: bool = False  # weights are split over the processes (FSDP)
    whole_weights: str | None = None  # what needs the frozen weights as they are
    head_dim: int = 64  # of every SD3 model
    sources: Mapping[str, Provenance] = field(default_factory=dict)  # axis -> who asked
    # value of the axis being decided -> why that much weight does not fit; absent: it fits, or
    # nobody knows
    too_big: Mapping[str, str] = field(default_factory=dict)

    def with_value(self, axis: str, value: str) -> "Request":
        return replace(self, **{axis: value})  # type: ignore[arg-type]


def version(text: str | None) -> tuple[int, ...]:
    """ "2.13.0+cpu" -> (2, 13, 0): enough to compare releases, local labels dropped."""
    return tuple(int(n) for n in re.findall(r"\d+", (text or "0").split("+")[0])[:3])


def vendors(*allowed: Vendor) -> Rule:
    wanted = " or ".join(allowed)
    return lambda f, r: None if f.vendor in allowed else f"needs {wanted}, this is {f.vendor}"


def never_on(vendor: Vendor, why: str) -> Rule:
    return lambda f, r: why if f.vendor == vendor else None


def sm_at_least(lowest: int, why: str) -> Rule:
    """Holds on NVIDIA only; says nothing about other vendors."""

    def rule(f: Facts, r: Request) -> str | None:
        sm = f.weakest.arch.sm
        if f.vendor != "cuda" or (sm is not None and sm >= lowest):
            return None
        return f"{why}: needs sm_{lowest} or newer, {f.weakest.name} is {f.weakest.arch.name}"

    return rule


def sm_in(*known: int) -> Rule:
    def rule(f: Facts, r: Request) -> str | None:
        if f.vendor != "cuda" or f.weakest.arch.sm in known:
            return None
        return f"its kernels exist for sm_{'/'.join(map(str, known))}, not {f.weakest.arch.name}"

    return rule


def gfx_in(*known: str) -> Rule:
    def rule(f: Facts, r: Request) -> str | None:
        if f.vendor != "rocm" or f.weakest.arch.gfx in known:
            return None
        return f"known to work on {', '.join(known)}, not on {f.weakest.arch.name}"

    return rule


@dataclass(frozen=True)
class Package:
    """A rule: a distribution is installed in this version or a newer one, and can be imported where
    that was tried. extra: of sd3tune, where no vendor's own extra brings it."""

    name: str
    lowest: str
    extra: str = ""

    def __call__(self, f: Facts, r: Request) -> str | None:
        have = f.packages.get(self.name)
        if have is None:
            how = f": pip install 'sd3tune[{self.extra}]'" if self.extra else ""
            return f"the package {self.name} is not installed{how}"
        if version(have) < version(self.lowest):
            return f"needs {self.name} {self.lowest} or newer, {have} is installed"
        imported = f.smoke.get(f"import_{self.name}", "ok")
        return None if imported == "ok" else f"{self.name} cannot be imported: {imported}"


package = Package


@dataclass(frozen=True)
class ExceptOn:
    """A rule that some vendors skip, because another rule already excludes them: advice to install
    a package would not help there."""

    rule: Rule
    vendors: tuple[Vendor, ...]

    def __call__(self, f: Facts, r: Request) -> str | None:
        return None if f.vendor in self.vendors else self.rule(f, r)


def except_on(rule: Rule, *never: Vendor) -> Rule:
    """`rule`, except on the vendors named."""
    return ExceptOn(rule, never)


def inner(rule: Rule) -> Rule:
    """The rule inside `except_on`; any other is its own."""
    return rule.rule if isinstance(rule, ExceptOn) else rule


def tool(name: str, why: str) -> Rule:
    """A tool whose presence is unknown (a catalogued chip) does not fail the rule."""
    return lambda f, r: f"{why}, and there is none" if f.tools.get(name) is False else None


COMPILING = {  # tool -> what to do where it is missing
    "c++": "Xcode's command line tools (xcode-select --install)",
    "ninja": "ninja on PATH (activate the environment)",
    "site_packages_writable": "an environment that can be written to",
}


def compiles_on(vendor: Vendor, why: str) -> Rule:
    """There, an extension is compiled at first use, and nothing else would do its work. Unknown
    tools are no failure."""

    def rule(f: Facts, r: Request) -> str | None:
        missing = [words for name, words in COMPILING.items() if f.tools.get(name) is False]
        return f"{why} with {missing[0]}" if f.vendor == vendor and missing else None

    return rule


@dataclass(frozen=True)
class Smoke:
    """A rule: the probe did not fail on this device. One that was not run refuses nothing here;
    admission.py runs those that a choice rests on."""

    probe: str  # a row of probes.py

    def __call__(self, f: Facts, r: Request) -> str | None:
        result = f.smoke.get(self.probe, "ok")
        return None if result == "ok" else f"its probe failed on this device: {result}"


smoke = Smoke


def decided(axis: str, *values: str) -> Rule:
    """An earlier axis must have come out as one of `values`."""
    wanted = " or ".join(values)

    def rule(f: Facts, r: Request) -> str | None:
        have = getattr(r, axis)
        return None if have in values else f"needs {axis}={wanted}, and this run has {axis}={have}"

    return rule


def not_full(why: str) -> Rule:
    """Frozen weights may be what weights that are trained may not."""
    return lambda f, r: why if r.model_type == "full" else None


def alone(f: Facts, r: Request) -> str | None:
    return None if r.processes == 1 else f"{r.processes} processes train one model"


def fits(precision: str) -> Rule:
    return lambda f, r: r.too_big.get(precision)


def one_memory(f: Facts) -> str | None:
    """Why moving something from the device to the host frees nothing; None where it does."""
    if f.vendor in ("mps", "cpu"):
        return "the device and the host share one memory"
    return None


def native_bf16(f: Facts, r: Request) -> str | None:
    """bf16 arithmetic in hardware. `torch.cuda.is_bf16_supported()` also returns True for emulation
    (T4, V100), so this looks at the chip (docs/reference/hardware.md, "NVIDIA")."""
    device = f.weakest
    if f.vendor == "cuda":
        rule = sm_at_least(80, "bf16 is emulated on this chip")
        return rule(f, r)
    if f.vendor == "rocm":
        # CDNA2/3/4 and RDNA3/4 have bf16 matrix instructions; RDNA2 and older do not.
        known = (
            "gfx90a",
            "gfx942",
            "gfx950",
            "gfx1100",
            "gfx1101",
            "gfx1102",
            "gfx1200",
            "gfx1201",
        )
        return gfx_in(*known)(f, r)
    if f.vendor == "mps":
        if (device.arch.apple or 0) < 2:
            return f"bf16 is emulated on {device.name}: needs M2 or newer"
        old = f.runtime is not None and version(f.runtime) < (14,)
        return f"bf16 on MPS needs macOS 14, found {f.runtime}" if old else None
    if f.native_bf16_cpu:
        return None
    if f.native_bf16_cpu is None:
        return "whether this CPU has bf16 in hardware is unknown: torch was not started"
    return "bf16 is emulated on this CPU (no AVX512-BF16 or AMX) and 5 to 40 times slower than fp32"


def whole_weights(f: Facts, r: Request) -> str | None:
    """Seen with one gloo process: these optimizers call kernels or sums that DTensor refuses."""
    return "it cannot step weights that are split over processes; use adamw" if r.sharded else None


def float32_weights(f: Facts, r: Request) -> str | None:
    """The weights of a model that is trained whole may be bf16."""
    bf16 = r.model_type == "full" and r.base_model_default_dtype == "bf16"
    return "in bf16 an update below 1/256 of a weight is lost" if bf16 else None


# Kind of need, as the rows of `sd3tune/tables` state it -> the rule of its arguments.
RULES: Mapping[str, Callable[..., Rule]] = {
    "package": package,
    "never_on": never_on,
    "smoke": smoke,
    "sm_at_least": sm_at_least,
    "gfx_in": gfx_in,
    "compiles_on": compiles_on,
    "decided": decided,
    "native_bf16": lambda: native_bf16,
    "whole_weights": lambda: whole_weights,
    "float32_weights": lambda: float32_weights,
}


def rule_of(need: Need) -> Rule:
    """The rule that says whether a row's need is met."""
    return except_on(RULES[need.kind](*need.arguments), *need.not_on)
