"""Memory and time of one attention that trains: the definition, and a slice of queries at a time.

    python benchmarks/attention.py [math|sliced] [SLICE] [B] [HEADS] [TOKENS] [DTYPE]

    python benchmarks/attention.py sliced 33554432 1 24 4327 bfloat16    SD3.5 medium at 1024 px

Prints one JSON object: peaks of resident memory above what the inputs take, in MiB, while the
forward and the backward pass run, what the first leaves for the second, the size of one float32
matrix of all scores, and seconds. Linux only; start it with MALLOC_MMAP_THRESHOLD_=65536, so that
freed memory is given back at once.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import machine
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sd3tune.backends.kernels import sliced

HEAD_DIM = 64
MIB = 2**20


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def measured(
    kind: str, most: int, batch: int, heads: int, tokens: int, dtype: torch.dtype
) -> dict[str, float]:
    attend: Callable[..., Tensor] = partial(sliced.attention, most=most)
    if kind == "math":
        attend = scaled_dot_product_attention

    def forward(leaves: list[Tensor]) -> Tensor:
        with sdpa_kernel([SDPBackend.MATH]):
            return attend(*(t.transpose(1, 2).contiguous() for t in leaves))

    def leaves(*shape: int) -> list[Tensor]:
        return [torch.randn(*shape).to(dtype).requires_grad_() for _ in range(3)]

    forward(leaves(1, tokens, heads, HEAD_DIM)).sum().backward()  # libraries have their buffers
    given = leaves(batch, tokens, heads, HEAD_DIM)
    gradient = torch.randn(batch, tokens, heads, HEAD_DIM).to(dtype).transpose(1, 2)
    before, found = resident("VmRSS"), {"matrix": 4 * batch * heads * tokens**2 / MIB}
    for name in ("forward", "backward"):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now
        started = time.perf_counter()
        if name == "forward":
            out = forward(given)
        else:
            out.backward(gradient)
        found[name] = (resident("VmHWM") - before) / MIB
        found[f"{name}_seconds"] = time.perf_counter() - started
        found.setdefault("kept", (resident("VmRSS") - before) / MIB)
    return {key: round(value, 2) for key, value in found.items()}


if __name__ == "__main__":
    made = machine.parser(__doc__, writes_json=False)
    made.add_argument("kind", choices=["math", "sliced"])
    for name in ("slice", "batch", "heads", "tokens"):
        made.add_argument(name, type=int)
    made.add_argument("dtype", help="of torch: bfloat16, float32")
    given = made.parse_args()
    torch.set_num_threads(1)
    sizes = given.slice, given.batch, given.heads, given.tokens
    print(json.dumps(measured(given.kind, *sizes, getattr(torch, given.dtype))))
