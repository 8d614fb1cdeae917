"""Runs the known-answer programs that apply to a device, in child processes side by side."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sd3tune.backends.decide.decisions import capabilities
from sd3tune.backends.observe import child
from sd3tune.backends.observe.facts import Facts
from sd3tune.doctor.finding import Finding

SECONDS = 120.0
ALWAYS = ("matmul_fp32", "optimizer_adamw", "bandwidth", "attention_native-math")
# Probe -> the option it stands for: run where the rules offer the option.
OFFERED = {
    "matmul_bf16": ("mixed_precision", "bf16"),
    "autocast_bf16": ("mixed_precision", "bf16"),
    "matmul_fp16": ("mixed_precision", "fp16"),
    "autocast_fp16": ("mixed_precision", "fp16"),
    "attention_diffusers": ("attention_mechanism", "diffusers"),
    "attention_native-flash": ("attention_mechanism", "native-flash"),
    "attention_native-efficient": ("attention_mechanism", "native-efficient"),
    "attention_cudnn": ("attention_mechanism", "cudnn"),
    "attention_sliced": ("attention_mechanism", "sliced"),
    "attention_sageattention": ("attention_no_grad", "sageattention"),
}
COMPILING = {"compile_inductor": ("dynamo_backend", "inductor")}  # seconds on a card, more on a CPU
SCHEMES = ("int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "nf4-bnb")
QUANTISED = {f"linear_{s}": ("base_model_precision", s) for s in SCHEMES} | {
    "optimizer_bnb": ("optimizer", "bnb-adamw8bit")
}
NATIVE_FP8_SM, NATIVE_FP8_GFX = 89, ("gfx942", "gfx950", "gfx1200", "gfx1201")


def run(facts: Facts, *, deep: bool = False) -> tuple[list[Finding], dict[str, str]]:
    """A finding per probe, and for the rules: probe id -> "ok" or what went wrong."""
    table = capabilities(facts)

    def offered(choices: Mapping[str, tuple[str, str]]) -> list[str]:
        return [name for name, (axis, option) in choices.items() if not table[axis][option][1]]

    device = facts.weakest.torch_device
    core = [*ALWAYS, *offered(OFFERED), *_claimed(facts)]
    compiling = offered(COMPILING)
    if deep or facts.vendor != "cpu":
        core += compiling
    asked = {"probes": core, "quant": offered(QUANTISED)}
    with ThreadPoolExecutor(len(asked)) as pool:
        pending = {
            room: pool.submit(child.ask, room, [device, *names], timeout_seconds=SECONDS)
            for room, names in asked.items()
            if names
        }
        answers = {room: answer.result() for room, answer in pending.items()}
    findings, smoke = [], {}
    for room, answer in answers.items():
        for name in asked[room]:
            result = (answer.data or {}).get(name) or {"ok": False, "words": answer.error}
            findings.append(_finding(name, result))
            smoke[name] = "ok" if result["ok"] else str(result["words"])
    for name in set(compiling) - set(core):
        why = "takes half a minute on a CPU; `sd3tune doctor --deep` runs it"
        findings.append(Finding(f"probe.{name}", "skip", name, why, "doctor"))
    return findings, smoke


def _claimed(facts: Facts) -> list[str]:
    """Products in eight bits, where the chip claims them in hardware."""
    arch = facts.weakest.arch
    fp8 = (arch.sm or 0) >= NATIVE_FP8_SM or arch.gfx in NATIVE_FP8_GFX
    int8 = facts.vendor in ("cuda", "rocm") and (arch.sm is None or arch.sm >= 75)
    return ["matmul_fp8"] * fp8 + ["matmul_int8"] * int8


def _finding(name: str, result: Mapping[str, Any]) -> Finding:
    source = f"computed in {result['seconds']:.2f} s" if "seconds" in result else "child process"
    if result["ok"]:
        return Finding(f"probe.{name}", "ok", name, str(result["words"]), source)
    fatal = name in ALWAYS
    fix = "reinstall PyTorch for this machine: bash scripts/setup"
    if not fatal:
        fix = "nothing to do: sd3tune does not use it here; see what it chose instead below"
    status = "FAIL" if fatal else "warn"
    return Finding(f"probe.{name}", status, name, str(result["words"]), source, fix)  # type: ignore[arg-type]
