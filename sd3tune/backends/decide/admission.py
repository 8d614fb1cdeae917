"""Admission: runs the probes on which a run's choices depend. No choice depends on a probe that was
not run. Doctor, plan and trainer call the same `admit`, so their answers agree.

This module runs no probe itself: its caller passes a ProbeRunner (this machine, kept answers, a
recording).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sd3tune.backends.decide import kernel_speeds, product_speeds, speeds
from sd3tune.backends.decide.option import Option
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.decide.probes import IMPORT, RATES, ProbeAnswer, probes
from sd3tune.backends.decide.probes import essential as essential_probes
from sd3tune.backends.decide.rules import Package, Smoke, inner
from sd3tune.backends.observe.facts import Facts, Problem

# Answers of named probes. A name that is left out was not run, and nobody can run it: a chip from
# the catalogue, say. Whoever could run it and got no answer returns one that is not ok.
ProbeRunner = Callable[[Facts, Sequence[str]], Mapping[str, ProbeAnswer]]
T = TypeVar("T")
REINSTALL = "reinstall PyTorch for this machine: bash scripts/setup"


@dataclass(frozen=True)
class Admitted(Generic[T]):
    """Facts whose `smoke` holds the probes that the choices rest on and no others, so that the
    reasons do not depend on what else was tried on this machine; and what was decided from them.
    """

    facts: Facts
    decided: T


def admit(
    facts: Facts,
    decide: Callable[[Facts], T],
    chosen: Callable[[T], Mapping[str, str]],
    run: ProbeRunner,
    also: Iterable[str] = (),
    informing: Sequence[str] = (),
    measuring: Callable[[T], Sequence[str]] = lambda decided: (),
) -> Admitted[T]:
    """Decides, runs the probes of what was chosen, and decides again until every choice rests on
    probes that were run.

    decide: a pure function of the facts; its errors pass through.
    chosen: of its result, the option of each axis.
    also: probes that this run needs whatever is chosen.
    informing: probes that are run for their figures; nothing is refused where they fail.
    measuring: the same, as they follow from what was decided.

    An essential probe that failed becomes a problem of the facts, with severity `fail`, and ends
    the search: nothing trains there.
    """
    essential = [*essential_probes(), *also]
    asked: set[str] = set()
    answers: dict[str, ProbeAnswer] = {}
    admitted = replace(facts, smoke={})
    decided = decide(admitted)

    def needed(decided: T) -> list[str]:
        named = (*essential, *informing, *measuring(decided), *resting(chosen(decided)))
        return [probe for probe in named if probe not in asked]

    while new := needed(decided):
        answers |= run(facts, list(dict.fromkeys(new)))
        asked |= set(new)
        admitted = _with_answers(facts, answers, informing)
        if broken := problems(facts, answers, essential):
            return Admitted(replace(admitted, problems=(*facts.problems, *broken)), decided)
        decided = decide(admitted)
    return Admitted(admitted, decided)


def _with_answers(
    facts: Facts, answers: Mapping[str, ProbeAnswer], informing: Sequence[str]
) -> Facts:
    """The facts with what the probes came to. One that informs decides nothing by failing."""
    timed = {name: a for name, a in answers.items() if kernel_speeds.shape_of(name) is not None}
    products = {n: a for n, a in answers.items() if product_speeds.shape_of(n) is not None}
    figures = {*informing, *timed, *products}
    deciding = {n: a for n, a in answers.items() if n not in figures}
    # The last one is of the shape that was decided last.
    seconds = kernel_speeds.seconds_of([*timed.values()][-1].words) if timed else {}
    timed_products = [product_speeds.read(a.words) for a in products.values() if a.ok]
    measured = answers.get(RATES)
    rates = speeds.figures_of(measured.words) if measured is not None and measured.ok else {}
    return replace(
        facts,
        smoke=smoke_of(deciding),
        rates=rates or facts.rates,
        attention_seconds=seconds or facts.attention_seconds,
        product_seconds=timed_products[-1] if timed_products else facts.product_seconds,
    )


def smoke_of(answers: Mapping[str, ProbeAnswer]) -> dict[str, str]:
    """Probe -> "ok" or the error, as rules read it."""
    return {name: "ok" if a.ok else a.words for name, a in answers.items()}


def resting(chosen: Mapping[str, str]) -> list[str]:
    """The probes of the chosen options. An axis or a value that is not in the table has none."""
    options = (o for axis, value in chosen.items() for o in AXES.get(axis, ()) if o.name == value)
    return list(dict.fromkeys(name for option in options for name in probes_of(option)))


def probes_of(option: Option) -> list[str]:
    """The probes that the rules of an option name. A kernel's probe also imports its package; an
    option without such a probe gets the import probe of its package, because an installed package
    may be broken."""
    rules = [inner(rule) for rule in option.rules]
    if names := [rule.probe for rule in rules if isinstance(rule, Smoke)]:
        return names
    imports = [IMPORT + rule.name for rule in rules if isinstance(rule, Package)]
    return [name for name in imports if name in probes()]


def problems(
    facts: Facts, answers: Mapping[str, ProbeAnswer], essential: Iterable[str]
) -> list[Problem]:
    """The essential probes that failed, as doctor prints them and a run is refused with them."""
    failed = {n: a for n in dict.fromkeys(essential) if (a := answers.get(n)) and not a.ok}
    return [problem(facts, name, answer) for name, answer in failed.items()]


def problem(facts: Facts, name: str, answer: ProbeAnswer) -> Problem:
    if name.startswith(IMPORT):
        package = name.removeprefix(IMPORT)
        words = f"the package {package} cannot be imported: {answer.words}"
        return Problem(f"software.{package}", "fail", words, answer.fix or f"pip install {package}")
    words = f"the probe {name} failed on {facts.weakest.name}: {answer.words}"
    return Problem(f"probe.{name}", "fail", words, answer.fix or REINSTALL)


def recorded(smoke: Mapping[str, str]) -> ProbeRunner:
    """A ProbeRunner that returns the answers stored with a machine's facts, and no other answer."""

    def run(facts: Facts, names: Sequence[str]) -> dict[str, ProbeAnswer]:
        return {n: ProbeAnswer(smoke[n] == "ok", smoke[n]) for n in names if n in smoke}

    return run
