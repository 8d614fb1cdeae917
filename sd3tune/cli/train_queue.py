"""`sd3tune train A B C`: runs one after the other. All are checked before the first one starts; one
that fails does not keep the next ones from running.

Each run is a process of its own, so that nothing of one run reaches the next. Runs beside each
other that train on the same base model share one process, which loads it once
(plan/shared_base.py).
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from sd3tune.cli import plan, words
from sd3tune.cli.arguments import prepared
from sd3tune.cli.queue_lines import STOPPED, QueuedResult, queue_lines
from sd3tune.errors import ConfigError, ErrorAndHint, Sd3tuneError
from sd3tune.report import messages, stopping, streams
from sd3tune.report.messages import say

if TYPE_CHECKING:
    from sd3tune.prepare import Prepared
    from sd3tune.train.outcome import Outcome

REPORT = "SD3TUNE_QUEUE_REPORT"  # a file to which a run of a queue appends its result
SUFFIXES = (".json", ".toml", ".env")


@dataclass(frozen=True)
class QueuedRun:
    """One run of a queue before it starts."""

    config: str
    overrides: tuple[str, ...]
    ready: "Prepared"


def configurations(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The configuration files among the words, and the KEY=VALUE words for all of them. A file is a
    word that exists, or has no `=` and ends as a configuration does."""
    files = [word for word in arguments if _is_file(word)]
    return files, tuple(word for word in arguments if word not in files)


def _is_file(word: str) -> bool:
    if "=" in word:
        return Path(word).exists()
    return word.endswith(SUFFIXES) or Path(word).exists()


def is_queue(arguments: Sequence[str]) -> bool:
    """Whether the words name several configurations."""
    return len(configurations(arguments)[0]) > 1


def train_all(arguments: Sequence[str], *, dry_run: bool) -> int:
    """Trains every configuration; returns the exit code. Raises Sd3tuneError with the problems of
    all of them before anything starts."""
    streams.outlive()
    files, overrides = configurations(arguments)
    if REPORT in os.environ:
        from sd3tune.cli.train_together import train_together
        from sd3tune.processes.environment import end_with_launcher

        stopping.stop_when_told()
        end_with_launcher(os.environ)
        return train_together(checked(files, overrides))
    refuse_launchers(os.environ)
    runs = checked(files, overrides)
    if dry_run:
        for number, run in enumerate(runs, 1):
            words.show([_heading(run, number, runs), *plan.lines(run.ready), ""])
        return 0
    return _report(*_train_in_turn(runs))


def refuse_launchers(environ: Mapping[str, str]) -> None:
    """Raises ConfigError where torchrun or accelerate started this process: each of its processes
    would train every run."""
    if "WORLD_SIZE" in environ:
        raise ConfigError(
            "torchrun and accelerate start one run, and several configurations are given",
            hint="give one configuration, or `sd3tune train A B --nproc N` without a launcher",
        )


def checked(files: Sequence[str], overrides: tuple[str, ...]) -> list[QueuedRun]:
    """The plans of all runs. Raises ConfigError with the problems of all of them."""
    runs, problems = [], []
    for file in files:
        try:
            runs.append(QueuedRun(file, overrides, prepared((file, *overrides))))
        except Sd3tuneError as e:
            problems += [ErrorAndHint(_naming(file, p.message), p.hint) for p in e.problems]
    for output, same in groupby(sorted(runs, key=_output), key=_output):
        names = [run.config for run in same]
        if len(names) > 1:
            listed = " and ".join(f"`{name}`" for name in names)
            message = f"{listed} have one output_dir, {output}: a run needs its own"
            problems.append(ErrorAndHint(message, "write another output_dir into each file"))
    if problems:
        raise ConfigError.of(problems)
    return runs


def _naming(file: str, message: str) -> str:
    """A message that names the configuration it is about, once."""
    return message if f"`{file}" in message else f"{file}: {message}"


def _output(run: QueuedRun) -> str:
    return str(run.ready.plan.output_dir.resolve())


def together(runs: Sequence[QueuedRun]) -> Iterator[list[QueuedRun]]:
    """The runs in their order, those that share a base model in one list."""
    from sd3tune.plan.shared_base import base_key

    for key, group in groupby(runs, key=lambda run: base_key(run.ready.plan)):
        if key is None:
            yield from ([run] for run in group)
        else:
            yield list(group)


def _train_in_turn(runs: Sequence[QueuedRun]) -> tuple[list[QueuedResult], int | None]:
    """The results in order, and the signal that ended the queue early."""
    from sd3tune.filesystem.temporary import private_folder
    from sd3tune.processes.stoppable_child import Children

    results: list[QueuedResult] = []
    children = Children()
    with private_folder("queue") as folder, children.passing_signals_on():
        for group in together(runs):
            left = group
            while left and children.stopped_by is None:
                for number, run in enumerate(left, len(results) + 1):
                    say(_heading(run, number, runs))
                report = folder / f"{len(results)}.jsonl"
                started = time.monotonic()
                flags = messages.FLAGS[messages.verbosity()]
                files = [run.config for run in left]
                command = ["train", *flags, *files, *left[0].overrides]
                code = children.run(command, {REPORT: str(report)})
                done = _results_of(left, report, code, time.monotonic() - started)
                results += done
                left = left[len(done) :]
    results += [QueuedResult(r.config, "not started", None) for r in runs[len(results) :]]
    return results, children.stopped_by


def _results_of(
    runs: Sequence[QueuedRun], report: Path, code: int, seconds: float
) -> list[QueuedResult]:
    """The results of runs that one child made: those it reported, and where it ended before it
    reported all, the one that it was at."""
    lines = report.read_text().splitlines() if report.exists() else []
    done = [QueuedResult(**json.loads(line)) for line in lines]
    if len(done) == len(runs) == 1:  # whose own time begins after its imports
        return [replace(done[0], seconds=seconds)]
    if len(done) == len(runs) or (done and done[-1].result == STOPPED):
        return done
    run = runs[len(done)]
    seconds -= sum(result.seconds for result in done)
    what = "finished before" if code == 0 else STOPPED if code in (129, 130, 143) else "failed"
    output = str(run.ready.plan.output_dir)
    return [*done, QueuedResult(run.config, what, code, output=output, seconds=seconds)]


def _report(results: Sequence[QueuedResult], signal: int | None) -> int:
    """Prints the table; returns the exit code, and says which runs failed."""
    words.show(queue_lines(results))
    if signal is not None:
        return 128 + signal
    failed = [result for result in results if result.code]
    if not failed:
        return 0
    listed = ", ".join(f"{result.config} (exit code {result.code})" for result in failed)
    words.show_error(
        f"{len(failed)} of {len(results)} runs failed: {listed}",
        "its error stands above, where it ran; the same command continues what is not finished",
    )
    return failed[0].code or 1


def _heading(run: QueuedRun, number: int, runs: Sequence[QueuedRun]) -> str:
    return f"run {number} of {len(runs)}: {run.config}"


def result_of(config: str, outcome: "Outcome", seconds: float) -> QueuedResult:
    """A run that has ended, or was stopped and has saved."""
    code = 128 + outcome.signal if outcome.signal else 0
    return QueuedResult(
        config,
        STOPPED if outcome.signal else "finished",
        code,
        steps=f"{outcome.step} of {outcome.steps}",
        loss_before=outcome.loss_before,
        loss_after=outcome.loss_after,
        output=str(outcome.output),
        seconds=seconds,
    )


def report_outcome(arguments: Sequence[str], outcome: "Outcome") -> None:
    """Tells the queue that started this process for one run how it ended; nothing without a
    queue."""
    if REPORT in os.environ:
        (config,), _ = configurations(arguments)
        report(result_of(config, outcome, 0))


def report(result: QueuedResult) -> None:
    """Tells the queue that started this process how a run ended."""
    with Path(os.environ[REPORT]).open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")
