"""Pre-emptions of every kind, in random order: is anything lost, is the result the undisturbed one?

    python benchmarks/preemptions.py [PREEMPTIONS] [REAL] [STEPS]      1000, 30 and 60 unless given

One undisturbed run, and runs that are pre-empted again and again and started again with the same
command until they end. Most attempts are forks of this process, which has imported everything; REAL
of them are `sd3tune train` in processes of their own. After each, the newest whole checkpoint must
be at most one interval behind the last step; at the end of each run adapter, checkpoint and metrics
must be the undisturbed run's (but for seconds), and what other programs left must be as it was.

Full disks are a tmpfs that is filled up where this process may mount one, and otherwise files that
may not grow (RLIMIT_FSIZE). The exit code is 1 when anything is not as it must be.
"""

import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import torch
from safetensors.torch import load_file

from sd3tune.backends.observe import probing
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.demo import write
from sd3tune.devices import observe
from sd3tune.errors import Sd3tuneError
from sd3tune.formats import manifest
from sd3tune.prepare import prepare
from sd3tune.train.run import train

INTERVAL, DISK_BYTES = 3, 400 * 2**20
WORDS = ("validation_disable=true", f"checkpoint_step_interval={INTERVAL}",
         "checkpoints_total_limit=2", "lora_dropout=0.1", "lora_rank=4",
         "use_ema=true", "train_batch_size=1", "lr_warmup_steps=0",
         "checkpointing_rolling_steps=7")  # fmt: skip
SAVED = (signal.SIGTERM, signal.SIGHUP)  # these finish the step and save
KINDS = ("SIGTERM", "SIGHUP", "SIGKILL", "SIGKILL", "full disk", "no more bytes", "damaged",
         "damaged", "foreign")  # fmt: skip
START_SECONDS, END_SECONDS = 120, 180  # patience with a busy machine, in no measurement


@dataclass
class Run:
    """One output folder, and how its next attempt is started."""

    output: Path
    config: Path
    dice: random.Random
    steps: int
    facts: Facts
    foreign: dict[Path, bytes] = field(default_factory=dict)

    def words(self) -> tuple[str, ...]:
        return (*WORDS, f"output_dir={self.output}", f"max_train_steps={self.steps}")

    def prepare(self) -> Any:
        """The plan for a machine that was asked once: that takes seconds."""
        config = Config.load(self.config, self.words())
        return prepare(config, self.facts, run_probes=probing.on_this_machine())

    def newest(self) -> int:
        """Step of the newest whole checkpoint."""
        found, _ = manifest.latest(self.output)
        return manifest.step_of(found) if found else 0

    def written(self) -> tuple[int, int] | None:
        """Changes with metrics.jsonl: rows of a killed attempt stay until the next one has one."""
        with suppress(FileNotFoundError):
            status = (self.output / "metrics.jsonl").stat()
            return status.st_size, status.st_mtime_ns
        return None

    def rows(self) -> int:
        """Lines of metrics.jsonl: steps taken, as far as they were written."""
        with suppress(FileNotFoundError):
            return (self.output / "metrics.jsonl").read_bytes().count(b"\n")
        return 0


@dataclass
class Attempt:
    """A child that trains as far as it gets."""

    pid: int
    real: subprocess.Popen[bytes] | None = None
    code: int | None = None

    def ended(self, *, wait: bool = False) -> int | None:
        """Exit code, negative for a signal that was not caught; None while it runs."""
        deadline = time.monotonic() + END_SECONDS
        while self.code is None:
            if self.real is not None:
                self.code = self.real.poll()
            elif (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.code = os.waitstatus_to_exitcode(ended[1])
            if not wait or self.code is not None:
                break
            assert time.monotonic() < deadline, f"process {self.pid} does not end"
            time.sleep(0.002)
        return self.code


def forked(prepared: Any, log: int, most_bytes: int | None = None) -> Attempt:
    """log: what stderr is. most_bytes: no file may grow beyond."""
    if child := os.fork():
        return Attempt(child)
    code = 2
    try:
        os.dup2(log, 2)
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        stopped = train(prepared, ()).signal
        code = 128 + stopped if stopped else 0
    except Sd3tuneError as e:
        os.write(2, f"error: {e}\n".encode())
        code = 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def real(run: Run, log: int) -> Attempt:
    command = [sys.executable, "-m", "sd3tune", "train", str(run.config), *run.words()]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    return Attempt(child.pid, child)


@contextmanager
def logged(path: Path) -> Iterator[int]:
    """A descriptor whose bytes another process appends to the file: one that may grow."""
    with path.open("ab") as file, subprocess.Popen(["cat"], stdin=subprocess.PIPE,
                                                   stdout=file) as writer:  # fmt: skip
        assert writer.stdin is not None
        yield writer.stdin.fileno()
        writer.stdin.close()


def preempt(run: Run, kind: str, start: Callable[[int | None], Attempt], disk: Path | None) -> int:
    """One attempt and its end; its exit code. 0: it finished first."""
    if kind == "foreign":
        leave_foreign(run)
    most = run.dice.randrange(200, 60_000) if kind == "no more bytes" else None
    before, attempt = run.rows(), start(most)
    if not reached(run, attempt, run.dice.randrange(2 * INTERVAL), before):
        return attempt.ended(wait=True) or 0
    time.sleep(run.dice.uniform(0, 0.1))
    if kind == "no more bytes":
        return attempt.ended(wait=True) or 0
    if kind == "full disk" and disk is not None:
        with filled(disk):
            return attempt.ended(wait=True) or 0
    number = signal.SIGKILL if kind in ("foreign", "full disk") else signal.SIGTERM
    os.kill(attempt.pid, getattr(signal, kind, number))
    code = attempt.ended(wait=True) or 0
    if kind == "damaged" and code == 128 + signal.SIGTERM:
        damage(run)
    return code


def reached(run: Run, attempt: Attempt, rows: int, before: int) -> bool:
    """Waits until so many rows were written; False when the attempt ends first. Rows beyond the
    checkpoint go with the first new one, so that any change counts as the first."""
    deadline, changed = time.monotonic() + START_SECONDS, 0
    while changed < rows and time.monotonic() < deadline:
        if attempt.ended() is not None:
            return False
        if (now := run.rows()) != before:
            before, changed = now, changed + 1
        time.sleep(0.002)
    return attempt.ended() is None


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No room left until the block ends."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as f, suppress(OSError):
        while f.write(bytes(2**20)):
            pass
    try:
        yield
    finally:
        filler.unlink()


def damage(run: Run) -> None:
    """The newest whole checkpoint, when there is one before it."""
    ordered = reversed(manifest.folders(run.output))
    whole = [folder for folder in ordered if manifest.damage(folder) is None]
    if len(whole) < 2:
        return
    file = run.dice.choice(sorted(whole[0].iterdir()))
    how = run.dice.choice(("flip", "truncate", "remove", "empty the manifest", "{}"))
    if how == "remove":
        file.unlink()
    elif how in ("{}", "empty the manifest"):
        (whole[0] / "manifest.json").write_text("{}" if how == "{}" else "")
    else:
        content = bytearray(file.read_bytes())
        content[run.dice.randrange(len(content))] ^= 1 << run.dice.randrange(8)
        file.write_bytes(content if how == "flip" else content[: len(content) // 2])


def leave_foreign(run: Run) -> None:
    """As other trainers and people leave things: far beyond, at a step to come, as a file."""
    run.output.mkdir(exist_ok=True)
    ahead = run.newest() + run.dice.randrange(1, 2 * INTERVAL)
    number, content = run.dice.choice((9999, ahead)), run.dice.randbytes(64)
    target = run.output / f"checkpoint-{number}"
    names = run.dice.choice((("optimizer.bin", "random_states_0.pkl"), ("state.json",), ()))
    if target.exists():
        return
    if not names:
        target.write_bytes(content)
        run.foreign[target] = content
        return
    target.mkdir()
    for name in names:
        (target / name).write_bytes(content)
        run.foreign[target / name] = content


def result(output: Path) -> dict[str, Any]:
    """All that must be equal."""
    folder, _ = manifest.latest(output)
    assert folder is not None
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {
        "adapter": (output / "pytorch_lora_weights.safetensors").read_bytes(),
        "checkpoint": {f"{file.name}:{name}": tensor.view(torch.uint8).numpy().tobytes()
                       if tensor.dim() else tensor.item()
                       for file in sorted(folder.glob("*.safetensors"))
                       for name, tensor in load_file(file).items()},
        "state": (folder / "state.json").read_bytes(),
        "metrics": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
    }  # fmt: skip


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs there, or None without the right to mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = not subprocess.run(command, capture_output=True).returncode
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass
class Tally:
    wanted: int
    wanted_real: int
    kinds: Counter[str] = field(default_factory=Counter)
    reals: int = 0
    lost: int = 0  # steps, at most
    problems: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        return sum(self.kinds.values())

    def real_is_due(self) -> bool:
        return self.reals * self.wanted < self.wanted_real * (self.done + 1)


def disturb(run: Run, tally: Tally, disk: Path | None, log: int) -> None:
    """Until the run ends, or all pre-emptions were had and it is left to end."""
    prepared = run.prepare()
    while True:
        newest_before, log_before = run.newest(), run.written()
        kind = run.dice.choice(KINDS) if tally.done < tally.wanted else ""
        as_process = bool(kind) and kind != "no more bytes" and tally.real_is_due()

        def start(most: int | None, as_process: bool = as_process) -> Attempt:
            return real(run, log) if as_process else forked(prepared, log, most)

        before = run.newest(), run.rows()
        code = preempt(run, kind, start, disk) if kind else start(None).ended(wait=True)
        if not code:
            return
        tally.kinds[kind] += 1
        tally.reals += as_process
        newest = run.newest()
        reached = run.rows() if run.written() != log_before else newest_before
        lost = reached - newest
        tally.lost = max(tally.lost, lost)
        if lost > INTERVAL:
            tally.problems.append(f"{kind}: {lost} steps lost in {run.output}")
        # Rows that a kill before this attempt left count once this one has taken a step.
        trained = before != (newest, run.rows())
        if kind in ("SIGTERM", "SIGHUP") and code > 0 and trained and run.rows() > newest:
            tally.problems.append(f"{kind}: exit code {code}, {run.rows()} steps, {newest} saved")
        if code not in expected(kind):
            tally.problems.append(f"{kind}: exit code {code}, see above")
            return


def expected(kind: str) -> tuple[int, ...]:
    """Exit codes. A signal that arrives while Python starts ends a process at once."""
    if kind in ("SIGTERM", "SIGHUP"):
        return 128 + getattr(signal, kind), -getattr(signal, kind)
    if kind == "damaged":
        return 128 + signal.SIGTERM, -signal.SIGTERM
    return (1, -signal.SIGKILL) if kind in ("full disk", "no more bytes") else (-signal.SIGKILL,)


def compare(run: Run, whole: dict[str, Any], tally: Tally) -> None:
    found = result(run.output)
    tally.problems += [f"{part} of {run.output} differs" for part in whole
                       if found[part] != whole[part]]  # fmt: skip
    tally.problems += [f"{path} was touched" for path, content in run.foreign.items()
                       if not path.is_file() or path.read_bytes() != content]  # fmt: skip


def main() -> None:
    made = machine.parser(__doc__, writes_json=False)
    for name, default in (("preemptions", 1000), ("real", 30), ("steps", 60)):
        made.add_argument(name, type=int, nargs="?", default=default)
    given = made.parse_args()
    wanted, wanted_real, steps = given.preemptions, given.real, given.steps
    os.environ["SD3TUNE_BACKEND"] = "cpu"
    torch.set_num_threads(1)
    dice, tally, started = random.Random(0), Tally(wanted, wanted_real), time.monotonic()
    with tempfile.TemporaryDirectory() as parent, small_disk(Path(parent) / "disk") as disk:
        root, said = disk or Path(parent), Path(parent) / "log"
        write(Path(parent) / "demo", model="sd3.5-medium")
        config = Path(parent) / "demo" / "config" / "config.json"
        facts = observe()
        with logged(said) as log:
            for name in ("first", "whole"):  # the first one fills the caches
                undisturbed = Run(root / name / "output", config, dice, steps, facts)
                code = forked(undisturbed.prepare(), log).ended(wait=True)
                assert code == 0, said.read_text()
            whole, runs = result(undisturbed.output), 0
            while tally.done < wanted and not tally.problems:
                run = Run(root / f"run-{runs}" / "output", config, dice, steps, facts)
                run.output.parent.mkdir(parents=True)
                disturb(run, tally, disk, log)
                runs += 1
                if not tally.problems:
                    compare(run, whole, tally)
                    shutil.rmtree(run.output.parent)
                    print(f"run {runs}: as undisturbed; {tally.done} of {wanted} pre-emptions, at "
                          f"most {tally.lost} steps lost", file=sys.stderr, flush=True)  # fmt: skip
        if tally.problems:
            print("".join(said.read_text().splitlines(keepends=True)[-30:]), file=sys.stderr)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items()))
    print(f"{platform.machine()}: {tally.done} pre-emptions ({kinds}) of {runs} runs of {steps} "
          f"steps, {tally.reals} in real processes; a disk to fill: {disk is not None}; at most "
          f"{tally.lost} steps lost, interval {INTERVAL}; adapter, checkpoint and metrics "
          f"identical: {'no' if tally.problems else 'yes'}; "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    for problem in tally.problems:
        print(f"  {problem}")
    sys.exit(bool(tally.problems))


if __name__ == "__main__":
    main()
