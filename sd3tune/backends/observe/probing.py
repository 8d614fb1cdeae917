"""Gets the answers of probes: kept ones from the disk, the others from child processes with a time
limit. Imports no torch; the children do."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from sd3tune.backends.decide import kernel_speeds, product_speeds
from sd3tune.backends.decide.admission import ProbeRunner
from sd3tune.backends.decide.probes import IMPORT, ProbeAnswer, probes
from sd3tune.backends.observe import child, kept_answers
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.facts import Facts

Ask = Callable[..., child.Answer]
TOGETHER_SECONDS = 120.0  # for all probes of one child, torch's start included
ALONE_SECONDS = 60.0  # for one, after a child that ran several gave no answer


def on_this_machine(
    *,
    anew: bool = False,
    several: bool = False,
    while_running: Callable[[], AbstractContextManager[None]] = nullcontext,
    folder: Path | None = None,
    execute: ProbeRunner | None = None,
    awaited: Awaited | None = None,
) -> ProbeRunner:
    """A runner that asks the disk first. Answers are kept for the environment of this call: what a
    run sets later, as `prepare` of a backend does, is not another machine.

    anew: every probe runs, and its answer replaces the kept one.
    several: this is one of several processes of a run.
    while_running: entered while probes run.
    folder: of kept answers; None: the user's own.
    execute: runs the probes; None: in child processes.
    awaited: told which probes have not answered yet.
    """
    execute = execute or partial(in_children, awaited=awaited)
    where = kept_answers.folder(os.environ) if folder is None else folder
    environ = dict(os.environ)
    return partial(_answers, execute, where, environ, anew, several, while_running)


def _answers(
    execute: ProbeRunner,
    folder: Path | None,
    environ: Mapping[str, str],
    anew: bool,
    several: bool,
    while_running: Callable[[], AbstractContextManager[None]],
    facts: Facts,
    names: Sequence[str],
) -> dict[str, ProbeAnswer]:
    state = kept_answers.state(facts, environ)
    load = partial(kept_answers.load, folder, state, several=several)
    kept = {} if anew else load()
    if all(name in kept for name in names):
        return {name: kept[name] for name in names}
    with while_running(), kept_answers.turn(folder):
        known = load()  # another process may have run them meanwhile
        missing = [n for n in names if anew or n not in known]
        fresh = execute(facts, missing) if missing else {}
        known |= fresh
        keep = {n: a for n, a in known.items() if several or kept_answers.lasting(n, a)}
        kept_answers.store(folder, state, keep)
    return {name: known[name] for name in names}


def in_children(
    facts: Facts,
    names: Sequence[str],
    ask: Ask = child.ask,
    awaited: Awaited | None = None,
) -> dict[str, ProbeAnswer]:
    """The probes of each observer in a child of their own, side by side. Answers for every name;
    raises nothing but KeyboardInterrupt, and then the children are gone. ask: starts a child, as
    child.ask does. awaited: told which probes have not answered yet."""
    stop = threading.Event()
    waits = awaited or Awaited()

    def run(observer: str, words: Sequence[str], timeout_seconds: float) -> child.Answer:
        with waits.answer(_named(words[1:])) as now:

            def part(name: str) -> None:
                now(_named([name]))

            return ask(observer, words, timeout_seconds=timeout_seconds, stop=stop, now=part)

    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_observer(name), []).append(name)
    device = facts.weakest.torch_device
    # A card in exclusive mode refuses the second child.
    together = 1 if facts.weakest.exclusive else max(len(groups), 1)
    with ThreadPoolExecutor(together) as pool:
        try:
            pending = [pool.submit(_group, run, o, device, some) for o, some in groups.items()]
            return {name: answer for each in pending for name, answer in each.result().items()}
        except BaseException:
            stop.set()  # the pool waits for its threads
            raise


def _observer(probe: str) -> str:
    """Of observe/child.py: the one whose child runs a probe."""
    if kernel_speeds.shape_of(probe):
        return "probes"
    return "quant" if product_speeds.shape_of(probe) else probes()[probe].observer


def _group(ask: Ask, observer: str, device: str, names: Sequence[str]) -> dict[str, ProbeAnswer]:
    """Runs probes in one child process. When a probe ends the child, the answers of all are lost;
    then each probe runs in a child of its own."""
    answer = ask(observer, [device, *names], timeout_seconds=TOGETHER_SECONDS)
    if answer.data is None and len(names) > 1:
        alone = {n: ask(observer, [device, n], timeout_seconds=ALONE_SECONDS) for n in names}
        return {name: _read(name, one) for name, one in alone.items()}
    return {name: _read(name, answer) for name in names}


def _named(probes: Sequence[str]) -> str:
    """For the user: "the import of diffusers and 12 more packages"."""
    first, more = probes[0], len(probes) - 1
    kind = "packages" if first.startswith(IMPORT) else "probes"
    what = first.removeprefix(IMPORT)
    what = f"the import of {what}" if what != first else f"the probe {first}"
    return f"{what} and {more} more {kind}" if more else what


def _read(name: str, answer: child.Answer) -> ProbeAnswer:
    row: Mapping[str, Any] = (answer.data or {}).get(name) or {}
    if not row:
        return ProbeAnswer(False, answer.error or "it gave no answer", answered=False)
    return ProbeAnswer(bool(row["ok"]), str(row["words"]), row.get("seconds"), row.get("fix", ""))
