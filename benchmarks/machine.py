"""What the benchmarks share: the machine in words, alternatives that alternate, and JSON out.

    python benchmarks/machine.py            prints the description of this machine

A figure is a ratio of two alternatives that took turns in one process (`alternating`), because a
machine that does other work changes faster than the code. `report` prints the ratios as the last
line, one JSON document, with the machine, the date and the commit.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors")


def describe() -> dict[str, Any]:
    """The machine, its load, and the versions of what is measured. torch is asked for devices and
    threads only where the caller has imported it."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                 else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := installed(name))},
        **devices(),
    }  # fmt: skip


def devices() -> dict[str, Any]:
    """Threads and accelerators, where torch is imported already."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "device": "cpu"}
    if torch.accelerator.is_available():
        found["device"] = str(torch.accelerator.current_accelerator())
        if torch.cuda.is_available():
            found["device"] = torch.cuda.get_device_name(0)
    return found


def processor() -> str:
    """Its name, as Linux has it; elsewhere the platform's word."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    """The version of a package; None: it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of this checkout, with `+` where files differ from it; without git, what the
    variable COMMIT says."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True,
                              text=True, check=True).stdout.strip()  # fmt: skip
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True,
                                 text=True, check=True).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "unknown")
    return head + ("+" if changed else "")


def alternating(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    after: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each way, `rounds` times each, the ways taking turns; the order turns round every
    other time. clock: time.thread_time counts the work of this thread alone. after: what the clock
    waits for, torch.accelerator.synchronize on a card."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warmup, rounds):
        turn = list(ways.items())
        for name, run in turn if number % 2 == 0 else turn[::-1]:
            gc.collect()
            started = clock()
            run()
            after()
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def summary(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median, least and greatest seconds of each way, and the ratios of the medians and of the
    minima to those of the way `base`."""
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    least = {name: min(values) for name, values in seconds.items()}
    return {
        name: {
            "median": middle[name],
            "min": least[name],
            "max": max(values),
            "ratio": middle[name] / middle[base],
            "ratio_of_minima": least[name] / least[base],
        }
        for name, values in seconds.items()
    }


def parser(description: str | None, *, writes_json: bool = True) -> argparse.ArgumentParser:
    """A parser whose --help is the module's own text; with `--json FILE` where asked."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if writes_json:
        made.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    return made


def report(benchmark: str, result: Mapping[str, Any], path: Path | None = None) -> None:
    """Prints the result as one line of JSON, the last one, and writes it to `path`."""
    print(json.dumps(write(benchmark, result, path)))


def write(benchmark: str, result: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """The document of a result, complete or not yet; written to `path`, which is never half of
    one."""
    document = {"benchmark": benchmark, "machine": describe(), **result}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(json.dumps(document, indent=1) + "\n")
        draft.replace(path)
    return document


if __name__ == "__main__":
    parser(__doc__).parse_args()
    print(json.dumps(describe(), indent=1))
