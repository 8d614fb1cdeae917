"""Programs with known answers, run on a device and compared with float64 on the CPU.

What a chip claims and what it computes are two things: a probe that fails removes its option from
the plan. Probes run in a child process (observe/child.py), since a broken driver may kill it. The
probes of quantised linears are in quant/linear_probes.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sd3tune.backends.decide import kernel_speeds
from sd3tune.backends.kernels import attention_probes, attention_speed
from sd3tune.backends.kernels.fused import has_fused_kernel
from sd3tune.backends.kernels.gradient_check import Wrong as Wrong
from sd3tune.backends.kernels.rates import rates
from sd3tune.backends.observe import now_running

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Largest error relative to the largest value: a few units of the last place, sums included.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
COPY_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Result:
    ok: bool
    words: str  # the measured fact, or what went wrong
    seconds: float


Probe = Callable[[torch.device], str]


def run(device: str, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Probe id -> Result as JSON data. An unknown name is a KeyError: our bug."""
    found = {}
    for name in names:
        now_running.tell(name)
        found[name] = vars(attempt(program(name), torch.device(device)))
    return found


def program(name: str) -> Probe:
    """The probe of that name. Raises KeyError."""
    shape = kernel_speeds.shape_of(name)
    return PROBES[name] if shape is None else partial(attention_speed.measured, shape=shape)


def observe(device: str, *names: str) -> dict[str, dict[str, object]]:
    """`run` for the child process; the device "auto" is the accelerator, or the CPU."""
    if device == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        device = str(found or "cpu")
    return run(device, names)


def attempt(probe: Probe, device: torch.device) -> Result:
    started = time.perf_counter()
    try:
        words, ok = probe(device), True
    except Exception as e:  # whatever a driver, a compiler or a kernel raises is the finding
        words, ok = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e) else ''}", False
    return Result(ok, words, time.perf_counter() - started)


def close(got: Tensor, want: Tensor, what: str) -> float:
    """Error relative to the largest wanted value. Raises Wrong above the dtype's tolerance."""
    want = want.detach()
    error = float((got.detach().cpu().double() - want).abs().max() / want.abs().max())
    if not error <= TOLERANCE[got.dtype]:  # also catches NaN
        raise Wrong(f"{what} is off by {error:.1e} of its largest value")
    return error


def matmul(device: torch.device, dtype: torch.dtype) -> str:
    a, b = (torch.randn(384, 384, generator=_dice(n)).to(dtype) for n in (1, 2))
    error = close(a.to(device) @ b.to(device), a.double() @ b.double(), "the product")
    return f"error {error:.0e}"


def autocast(device: torch.device, dtype: torch.dtype) -> str:
    """A linear under autocast must really multiply in the low dtype: a wrong device name is a
    silent no-op."""
    linear = torch.nn.Linear(64, 64).to(device)
    with torch.autocast(device.type, dtype):
        got = linear(torch.randn(8, 64, generator=_dice(1)).to(device)).dtype
    if got != dtype:
        raise Wrong(f"a linear under autocast({dtype}) answered in {got}")
    return "linears run in the low dtype"


def adamw(device: torch.device) -> str:
    """One AdamW step against its definition (Loshchilov & Hutter 2019, algorithm 2): of the fused
    kernel, which trains (train/optim.py), where PyTorch has it for the device."""
    start, gradient = (torch.randn(256, generator=_dice(n)) for n in (1, 2))
    weight = torch.nn.Parameter(start.clone().to(device))
    fused = has_fused_kernel(torch.optim.AdamW, weight)
    optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1, fused=fused)
    weight.grad = gradient.to(device)
    optimizer.step()
    w, g = start.double(), gradient.double()
    want = w - 1e-2 * 0.1 * w - 1e-2 * g / (g.abs() + 1e-8)  # moments over their bias corrections
    return f"error {close(weight, want, 'the new weight'):.0e}"


def int8_matmul(device: torch.device) -> str:
    a, b = (torch.randint(-127, 128, (64, 64), generator=_dice(n)).to(torch.int8) for n in (1, 2))
    got = torch._int_mm(a.to(device), b.to(device)).cpu()
    if not torch.equal(got.long(), a.long() @ b.long()):
        raise Wrong("the integer product is not exact")
    return "exact"


def fp8_matmul(device: torch.device) -> str:
    """Dense fp8 product in the chip's own flavour, against the float64 product of the rounded."""
    flavour = getattr(torch, fp8_flavour(device))
    a, b = (torch.randn(64, 64, generator=_dice(n)).to(flavour) for n in (1, 2))
    one = torch.ones((), device=device)
    got = torch._scaled_mm(
        a.to(device), b.to(device).t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
    )
    error = close(got, a.double() @ b.double().t(), "the product")
    return f"{str(flavour).removeprefix('torch.')}, error {error:.0e}"


def fp8_flavour(device: torch.device) -> str:
    """torch's name of the float8 format that the chip multiplies: fnuz on CDNA3."""
    found = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return "float8_e4m3fnuz" if "gfx942" in getattr(found, "gcnArchName", "") else "float8_e4m3fn"


def bandwidth(device: torch.device) -> str:
    """Host to device, best of three copies of 64 MiB from pinned memory where there is any."""
    host = torch.empty(COPY_BYTES, dtype=torch.uint8).fill_(1)
    if device.type == "cuda":
        host = host.pin_memory()
    best = float("inf")
    there = torch.empty_like(host, device=device)
    for _ in range(3):
        started = time.perf_counter()
        there.copy_(host, non_blocking=True)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - started)
    return f"{COPY_BYTES / best / 1e9:.1f} GB/s"


def compiled(device: torch.device) -> str:
    """torch.compile of a small function with its gradient, against eager."""
    x = torch.randn(64, 64, generator=_dice(1)).to(device).requires_grad_()

    def f(x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x).square().sum()

    (want,) = torch.autograd.grad(f(x), x)
    (got,) = torch.autograd.grad(torch.compile(f)(x), x)
    return f"error {close(got, want.cpu().double(), 'the gradient'):.0e}"


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PROBES: dict[str, Probe] = {
    **{f"matmul_{name}": partial(matmul, dtype=dtype) for name, dtype in DTYPES.items()},
    **attention_probes.PROBES,
    "autocast_bf16": partial(autocast, dtype=torch.bfloat16),
    "autocast_fp16": partial(autocast, dtype=torch.float16),
    "optimizer_adamw": adamw,
    "matmul_int8": int8_matmul,
    "matmul_fp8": fp8_matmul,
    "bandwidth": bandwidth,
    "rates": rates,
    "compile_inductor": compiled,
}
