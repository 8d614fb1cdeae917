"""How long until the first step, beside a bare loop; and how long the commands take.

    python benchmarks/startup.py                      tiny model, 78 M model, commands
    python benchmarks/startup.py --parts tiny --rounds 5
    python benchmarks/startup.py --parts commands

The start is measured from the start of the process to the end of the first step, with full caches,
ours (`sd3tune train`) and the bare loop (bare_start.py) taking turns; both are killed after
--steps steps, and the peak of the main process's memory (VmHWM) is read before. One thread
(OMP_NUM_THREADS=1) unless that is set. `cpu` is the processor time of all processes of the run
until then, which says more than the clock on a machine that does other work.

What a command spends its time on: python -X importtime -m sd3tune COMMAND
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from machine import ROOT, parser, report, summary

BARE = Path(__file__).with_name("bare_start.py")
SD3TUNE = (sys.executable, "-m", "sd3tune")
PARTS = ("tiny", "78m", "commands")
LAYERS = 8  # and heads: 78 million weights
LIMIT_SECONDS = 300.0
LOOK_SECONDS = 0.005
FAIR = ("mixed_precision=no", "lora_dropout=0", "validation_disable=true")  # as the bare loop
TICKS = os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """One thread, and this checkout, wherever the commands are started. Compiled files are kept, as
    an installation has them."""
    kept = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {"OMP_NUM_THREADS": "1"} | kept | {"PYTHONPATH": path}


def run(words: Sequence[str], folder: Path) -> None:
    """Raises CalledProcessError, with what the command wrote on the terminal."""
    subprocess.run(words, cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip


def try_out(parent: Path) -> Path:
    """The demo's folder: a tiny model, photos, a configuration, and full caches."""
    run([*SD3TUNE, "demo", str(parent / "try"), "--model", "sd3.5-medium"], parent)
    root = parent / "try"
    listed = root / "config" / "multidatabackend.json"
    entries = json.loads(listed.read_text())
    listed.write_text(json.dumps([e for e in entries if e["id"] != "aspect"]))  # one size of image
    run([*SD3TUNE, "cache", "build"], root)
    return root


def enlarge(root: Path, model: str) -> None:
    """Replaces the transformer by one of 78 million weights; encoders and caches stay."""
    sys.path.insert(0, str(ROOT))
    from sd3tune.demo import tiny
    from sd3tune.tables.architectures import ARCHITECTURES

    shape = dict(ARCHITECTURES["sd3.5-medium"].tiny) | {"num_layers": LAYERS}
    folder = root / model / "transformer"
    shutil.rmtree(folder)
    tiny.transformer(shape).save_pretrained(folder)


def start(words: Sequence[str], root: Path, steps: int, count: Callable[[], int]) -> dict[str, Any]:
    """Seconds of the clock and of processors until the first step ended, and MiB of the main
    process after `steps`. count: of finished steps. Raises RuntimeError with what it wrote."""
    with tempfile.TemporaryFile() as written:
        begun = time.perf_counter()
        process = subprocess.Popen(words, cwd=root, env=environment(), stdout=written,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        first: dict[str, Any] | None = None
        try:
            while (done := count()) < steps:
                seconds = time.perf_counter() - begun
                if first is None and done:
                    first = {"seconds": seconds, "cpu": cpu_seconds(process.pid)}
                if process.poll() is not None or seconds > LIMIT_SECONDS:
                    written.seek(0)
                    raise RuntimeError(written.read().decode(errors="replace"))
                time.sleep(LOOK_SECONDS)
            first = first or {"seconds": time.perf_counter() - begun,
                              "cpu": cpu_seconds(process.pid)}  # fmt: skip
            return first | {"mib": peak_mib(process.pid)}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cpu_seconds(pid: int) -> float:
    """Of the process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(n) for n in fields[11:15]) / TICKS


def peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def ours(root: Path, steps: int) -> dict[str, Any]:
    """`sd3tune train`, from nothing but full caches."""
    shutil.rmtree(root / "output", ignore_errors=True)
    rows = root / "output" / "metrics.jsonl"

    def count() -> int:
        return rows.read_bytes().count(b"\n") if rows.exists() else 0

    return start([*SD3TUNE, "train", *FAIR], root, steps, count)


def bare(root: Path, model: str, steps: int) -> dict[str, Any]:
    """The bare loop on the same files."""
    log = root / "bare.log"
    log.unlink(missing_ok=True)
    words = f'exec "$0" "$1" . {model} {steps + 1} > bare.log'

    def count() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    return start(["sh", "-c", words, sys.executable, str(BARE)], root, steps, count)


def starts(root: Path, model: str, args: Namespace) -> dict[str, Any]:
    """Both, in turns; once before the clock counts."""
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "bare": lambda: bare(root, model, args.steps),
        "ours": lambda: ours(root, args.steps),
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for number in range(-1, args.rounds):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            row = ways[name]()
            if number >= 0:
                rows[name].append(row)
                print(f"{name}: {row['seconds']:.2f} s, processors {row['cpu']:.2f} s, "
                      f"{row['mib']:.0f} MiB", flush=True)  # fmt: skip
    return {
        what: summary({name: [row[what] for row in each] for name, each in rows.items()}, "bare")
        for what in ("seconds", "cpu", "mib")
    }


def commands(root: Path, args: Namespace) -> dict[str, float]:
    """The best of `rounds` of each command, in seconds; `python` starts and does nothing."""
    run([*SD3TUNE, "train", *FAIR, "max_train_steps=2", "lr_warmup_steps=0"], root)
    asked = {
        "python": [sys.executable, "-c", "pass"],
        "--help": [*SD3TUNE, "--help"],
        "train --help": [*SD3TUNE, "train", "--help"],
        "doctor --quick": [*SD3TUNE, "doctor", "--quick"],
        "plan --on h100": [*SD3TUNE, "plan", "--on", "h100"],
        "plan": [*SD3TUNE, "plan"],
        "cache info": [*SD3TUNE, "cache", "info"],
        "inspect a checkpoint": [*SD3TUNE, "inspect", "output/checkpoint-2"],
        "inspect an adapter": [*SD3TUNE, "inspect", "output"],
    }
    best = dict.fromkeys(asked, float("inf"))
    for _ in range(args.rounds):
        for name, words in asked.items():
            begun = time.perf_counter()
            subprocess.run(words, cwd=root, env=environment(), check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            best[name] = min(best[name], time.perf_counter() - begun)
    for name, seconds in best.items():
        print(f"{name:<22}{seconds:8.2f} s", flush=True)
    return best


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--steps", type=int, default=3, help="before the peak of memory is read")
    asked.add_argument("--keep", type=Path, metavar="DIR", help="make the folders here, once")
    args = asked.parse_args()
    model, result = "models/sd3.5-medium", {}
    with tempfile.TemporaryDirectory() as temporary:
        parent = args.keep or Path(temporary)
        parent.mkdir(parents=True, exist_ok=True)
        root = parent / "try"
        if not root.exists():
            try_out(parent)
        for part in args.parts:
            if part == "commands":
                result[part] = commands(root, args)
                continue
            folder = root if part == "tiny" else parent / "large"
            if not folder.exists():
                shutil.copytree(root, folder)
                enlarge(folder, model)
            print(part, flush=True)
            result[part] = starts(folder, model, args)
    report("startup", result, args.json)


if __name__ == "__main__":
    main()
