"""Which kernels a step consists of, by torch's profiler. Not a command: full_size.py uses it."""

import time
from typing import Any

import torch

SHOWN = 30


class KernelProfile:
    """Profiles `steps` steps after `after` ones, counted by forward passes with gradients. A
    profiler that fails costs the profile and nothing else."""

    def __init__(self, after: int, steps: int) -> None:
        self._after, self._steps = after, steps
        self._passes, self._started, self._seconds = 0, 0.0, 0.0
        self._profiler: Any = None
        self._failed: str | None = None

    def attach(self, model: Any) -> None:
        """To the model of the run, which makes one such pass a step."""
        model.register_forward_pre_hook(lambda module, inputs: self._pass())

    def result(self) -> dict[str, Any]:
        """Kernels by their time, in milliseconds a step; `busy`: the share of the time in which the
        device computes."""
        if self._failed or self._profiler is None:
            return {"failed": self._failed or "too few steps"}
        on_device = torch.accelerator.is_available()
        name = "self_device_time_total" if on_device else "self_cpu_time_total"
        events = self._profiler.key_averages()
        rows = [(e.key, getattr(e, name) / 1000 / self._steps, e.count / self._steps)
                for e in events]  # fmt: skip
        rows.sort(key=lambda row: -row[1])
        total = sum(row[1] for row in rows)
        return {
            "step_ms": round(1000 * self._seconds / self._steps, 1),
            "busy": round(total / (1000 * self._seconds / self._steps), 3),
            "kernels_a_step": round(sum(row[2] for row in rows)),
            "largest": [{"name": n[:120], "ms": round(ms, 3), "calls": round(calls, 1)}
                        for n, ms, calls in rows[:SHOWN]],
        }  # fmt: skip

    def _pass(self) -> None:
        if not torch.is_grad_enabled() or self._failed:
            return
        self._passes += 1
        try:
            if self._passes == self._after + 1:
                self._start()
            elif self._passes == self._after + 1 + self._steps:
                self._stop()
        except Exception as e:
            self._failed = f"{type(e).__name__}: {e}"

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        on_device = torch.accelerator.is_available()
        kinds = [ProfilerActivity.CUDA if on_device else ProfilerActivity.CPU]
        self._profiler = profile(activities=kinds)
        self._profiler.start()
        self._started = time.perf_counter()

    def _stop(self) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._seconds = time.perf_counter() - self._started
        self._profiler.stop()
