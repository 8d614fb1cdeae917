"""Runs of a queue that train on the same base model, in one process: everything is encoded first,
then the base model is loaded, and each run trains on it. A run that fails does not end the
others."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sd3tune.cli import plan, publish, words
from sd3tune.cli.failures import show_failure
from sd3tune.cli.finished_lines import finished, finished_lines
from sd3tune.cli.outcome_lines import outcome_lines
from sd3tune.cli.queue_lines import STOPPED, QueuedResult
from sd3tune.report import stopping
from sd3tune.report.messages import say
from sd3tune.report.progress import waiting

R = TypeVar("R")

if TYPE_CHECKING:
    from sd3tune.cli.train_queue import QueuedRun
    from sd3tune.plan.shared_base import BaseKey


def train_together(runs: "Sequence[QueuedRun]") -> int:
    """Trains them in order, and reports each; returns the exit code of the first one that failed.
    Raises Stopped."""
    from sd3tune.cli.train_queue import report, result_of

    keys, results = _encoded(runs)
    with waiting("importing PyTorch"):
        from sd3tune.config.files.prompts import load_prompts
        from sd3tune.train.kept_base import KeptBase
        from sd3tune.train.run import train

    base = KeptBase(keys.values())
    for run in runs:
        started = time.monotonic()
        result = results.get(run.config)
        if result is None:
            say(f"train    {run.config}")

        def trained(run: "QueuedRun" = run, started: float = started) -> QueuedResult:
            outcome = train(run.ready, load_prompts(run.ready.config), base.transformer)
            words.show(outcome_lines(outcome))
            return result_of(run.config, outcome, time.monotonic() - started)

        if result is None:
            result = _attempted(run, trained, started)
        base.ended(keys.get(run.config))
        report(result)
        results[run.config] = result
        if result.result == STOPPED:
            sys.exit(result.code)
    return next((r.code for r in results.values() if r.code), 0)


def _encoded(
    runs: "Sequence[QueuedRun]",
) -> "tuple[dict[str, BaseKey | None], dict[str, QueuedResult]]":
    """Fills the caches of all runs, while no base model is on the device. Returns the keys of the
    runs that train, and the results of those that are finished or failed."""
    with waiting("importing PyTorch"):
        from sd3tune.config.files.prompts import load_prompts
        from sd3tune.encode import upkeep
        from sd3tune.plan.shared_base import base_key

    keys: dict[str, BaseKey | None] = {}
    results = {}
    for run in runs:
        started = time.monotonic()

        def filled(run: "QueuedRun" = run) -> None:
            publish.check_login(run.ready.plan)
            caches = upkeep.encoded(run.ready, load_prompts(run.ready.config))
            keys[run.config] = base_key(caches.prepared.plan)

        words.tell([f"encode   {run.config}", *plan.lines(run.ready)])
        if (before := finished(run.ready.plan)) is not None:
            words.show(finished_lines(run.ready.plan, before) + publish.caught_up(run.ready.plan))
            output = str(run.ready.plan.output_dir)
            results[run.config] = QueuedResult(run.config, "finished before", 0, output=output)
            continue
        failed = _attempted(run, filled, started)
        if failed is not None:
            results[run.config] = failed
    return keys, results


def _attempted(run: "QueuedRun", work: Callable[[], R], started: float) -> R | QueuedResult:
    """What the work returns, or that the run failed, after its error is shown. Raises Stopped."""
    try:
        return work()
    except Exception as e:
        if (stopped := stopping.received()) is not None:
            raise stopped from None
        code = show_failure(e)
        e.__traceback__ = None  # its frames hold the memory of the run
    output, seconds = str(run.ready.plan.output_dir), time.monotonic() - started
    return QueuedResult(run.config, "failed", code, output=output, seconds=seconds)
