"""Runs every probe that says something about this machine, for the findings of doctor."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sd3tune.backends.decide import admission, kernel_speeds, product_speeds
from sd3tune.backends.decide.admission import ProbeRunner, probes_of
from sd3tune.backends.decide.decisions import decide_all, why_not
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.decide.probes import IMPORT, ProbeAnswer, essential, probes
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import Decision
from sd3tune.doctor.finding import Finding, of

SLOW_SECONDS = 5.0
# What doctor, which knows no run, measures at: one image of 1024 px in SD3.5 large (4096 tokens and
# 231 of its caption).
REFERENCE = "the shape of SD3.5 large at 1024 px"
REFERENCE_HEADS, REFERENCE_TOKENS, REFERENCE_WIDTH = 38, 4327, 2432


def imports() -> list[str]:
    """The essential probes that need no device: packages without which nothing trains."""
    return [name for name in essential() if name.startswith(IMPORT)]


def offered(facts: Facts) -> list[str]:
    """The essential probes, and those of every option that the rules offer here."""
    open_ = replace(facts, smoke={})
    _, decided = decide_all(open_, Request())
    options = (o for axis in AXES.values() for o in axis if not why_not(o, open_, decided))
    resting = (name for option in options for name in probes_of(option))
    informing = (p.name for p in probes().values() if p.informs(facts))
    needed = essential()
    names = dict.fromkeys((*needed, *resting, *informing))
    return [n for n in names if n in needed or not n.startswith(IMPORT)]


def measuring(facts: Facts, decisions: Mapping[str, Decision[str]]) -> list[str]:
    """The probes of speeds on which a run's choices rest, at the shape of REFERENCE: attention
    kernels, and products in 8 bits."""
    if not kernel_speeds.has_choice(facts):
        return []
    autocast, base = decisions["mixed_precision"].value, decisions["base_model_default_dtype"].value
    dtype = base if autocast == "no" else autocast
    usable = {o.name for o in AXES["base_model_precision"] if not why_not(o, facts, Request())}
    names = [kernel_speeds.probe_of(1, REFERENCE_HEADS, REFERENCE_TOKENS, dtype)]
    if usable & set(product_speeds.multiplying()):
        names.append(product_speeds.probe_of(REFERENCE_TOKENS, REFERENCE_WIDTH, dtype))
    return names


def of_a_shape(probe: str) -> bool:
    """Whether a probe measures at one shape: no option rests on whether it succeeds."""
    return kernel_speeds.shape_of(probe) is not None or product_speeds.shape_of(probe) is not None


def slow(facts: Facts, names: Sequence[str]) -> list[str]:
    """The probes that take long on a CPU, where no automatic choice depends on them."""
    if facts.accelerated:
        return []
    return [n for n in names if probes()[n].seconds_on_cpu > SLOW_SECONDS]


def remembering(run: ProbeRunner, answers: dict[str, ProbeAnswer]) -> ProbeRunner:
    """A runner that runs no probe twice. answers: the known answers; new ones are added."""

    def answered(facts: Facts, names: Sequence[str]) -> dict[str, ProbeAnswer]:
        if missing := [n for n in names if n not in answers]:
            answers.update(run(facts, missing))
        return {n: answers[n] for n in names if n in answers}

    return answered


def findings(facts: Facts, answers: Mapping[str, ProbeAnswer]) -> list[Finding]:
    """A line for each probe that computes; one for all packages that can be imported."""
    computed = {n: a for n, a in answers.items() if not n.startswith(IMPORT)}
    imported = {n.removeprefix(IMPORT): a for n, a in answers.items() if n.startswith(IMPORT)}
    found = [_finding(facts, name, answer) for name, answer in computed.items()]
    good = [f"{name} {a.words}" for name, a in imported.items() if a.ok]
    if good:
        found.insert(0, Finding("software.imports", "ok", "imports", ", ".join(good), "import"))
    for name, answer in imported.items():
        if not answer.ok:
            found.append(_finding(facts, IMPORT + name, answer))
    return found


def skipped(name: str) -> Finding:
    why = "takes half a minute on a CPU; `sd3tune doctor --deep` runs it"
    return Finding(f"probe.{name}", "skip", name, why, "doctor")


def _finding(facts: Facts, name: str, answer: ProbeAnswer) -> Finding:
    seconds = answer.seconds
    source = "child process" if seconds is None else f"computed in {seconds:.2f} s"
    if answer.ok:
        return Finding(f"probe.{name}", "ok", name, answer.words, source)
    problem = admission.problem(facts, name, answer)
    row = probes().get(name)  # None: a probe of a shape
    if row is not None and row.essential:  # the sentence with which plan and train refuse
        return of(problem, name.removeprefix(IMPORT), source)
    fix = "nothing to do: sd3tune does not use it here; see what it chose instead below"
    return Finding(problem.id, "warn", name, answer.words, source, fix)
