"""Can this machine train? Asks the operating system, then PyTorch, then the device itself.

Whatever is broken becomes a finding with a fix; nothing found here raises. What sd3tune would
choose comes from the same table the trainer uses, so that doctor, plan and trainer tell one story.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from sd3tune.backends.decide.admission import ProbeRunner, admit, recorded, smoke_of
from sd3tune.backends.decide.decisions import capabilities, decide_all
from sd3tune.backends.decide.option import Level
from sd3tune.backends.decide.probes import ProbeAnswer
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Facts, Machine, TorchReport
from sd3tune.decision import Decision
from sd3tune.doctor.finding import Finding
from sd3tune.errors import ConfigError, PlanError

Tried = Literal["all", "software", "nothing"]
Table = dict[str, dict[str, tuple[Level, tuple[str, ...]]]]


@dataclass(frozen=True)
class Report:
    """Everything doctor has to say. `chip` set: from the catalogue, nothing was measured."""

    findings: tuple[Finding, ...]
    facts: Facts
    decisions: dict[str, Decision[str]]
    capabilities: Table
    seconds: float = 0.0
    machine: Machine | None = None
    torch: TorchReport | None = None
    chip: str | None = None
    tried: Tried = "all"  # what ran, and was not just looked at

    @property
    def can_train(self) -> bool:
        return not any(f.status == "FAIL" for f in self.findings)

    @property
    def verdict(self) -> str:
        statuses = {f.status for f in self.findings}
        return "fail" if "FAIL" in statuses else "warn" if "warn" in statuses else "ok"


@dataclass(frozen=True)
class Depth:
    """How far to look. quick: nothing runs on the device and torch is not started. device=False:
    the software only, as in an image build on a host without the card. deep: slow probes too."""

    quick: bool = False
    device: bool = True
    deep: bool = False

    @property
    def tried(self) -> Tried:
        """What runs at this depth."""
        return "nothing" if self.quick else "all" if self.device else "software"


WHOLE = Depth()
Tell = Callable[[Sequence[Finding]], None]


def told_nobody(findings: Sequence[Finding]) -> None:
    """For callers that wait for the whole report."""


def examine(depth: Depth = WHOLE, tell: Tell = told_nobody) -> Report:
    """This machine. PyTorch and every probe are asked anew, and their answers are kept for plan
    and train. tell: gets the findings as they are known."""
    from sd3tune.backends.observe import kept_answers, probing, this_machine
    from sd3tune.backends.observe.awaited import Awaited
    from sd3tune.backends.observe.kept_torch import KeptTorch
    from sd3tune.doctor import software
    from sd3tune.report.progress import waiting

    started = time.perf_counter()
    this_machine.asked_backend(os.environ)
    tell([*software.packages()])  # before anything that may hang
    awaited = Awaited()
    with waiting(awaited.words("looking at the devices")):
        machine, torch, facts = this_machine.observe(
            import_torch=not depth.quick,
            device=depth.device,
            awaited=awaited,
            kept=KeptTorch(kept_answers.folder(os.environ), anew=True),
        )
    shown = partial(waiting, awaited.words("trying what was found"))
    run_probes = probing.on_this_machine(anew=True, while_running=shown, awaited=awaited)
    made = diagnose(machine, torch, facts, run_probes, depth, tell)
    return replace(made, seconds=time.perf_counter() - started)


def diagnose(
    machine: Machine,
    torch: TorchReport,
    facts: Facts,
    run_probes: ProbeRunner,
    depth: Depth = WHOLE,
    tell: Tell = told_nobody,
) -> Report:
    """Observations and results of probes as findings, and the decisions of a run without
    settings. tell: gets the findings before the probes run."""
    from sd3tune.doctor import hardware, logins, probe_findings, software

    findings = [*software.host(machine.host), *software.packages()]
    findings += logins.findings(ask=not depth.quick)
    findings += hardware.torch(torch, facts, device=depth.device)
    if depth.device:
        findings += hardware.accelerators(machine, facts)
    tell(findings)
    answers: dict[str, ProbeAnswer] = {}
    every, facts = facts.devices, facts.of_processes(1)  # as a run without settings
    if depth.quick or torch.error or torch.version is None:
        why = "not asked for" if depth.quick else "torch is not usable"
        findings.append(Finding("probes", "skip", "probes", why, "doctor"))
        run_probes = recorded({})
    elif not depth.device:
        answers |= run_probes(facts, probe_findings.imports())
        findings.append(Finding("probes", "skip", "probes", "not asked for", "doctor"))
        run_probes = recorded({})
    else:
        names = probe_findings.offered(facts)
        left = [] if depth.deep else probe_findings.slow(facts, names)
        answers |= run_probes(facts, [n for n in names if n not in left])
        findings += map(probe_findings.skipped, left)
    made = _decided(facts, run_probes, answers)
    probed = probe_findings.findings(facts, answers)
    said = {f.id for f in probed}  # a package that is missing, with what needs it
    found = [*(f for f in findings if f.id not in said), *probed, *made.findings]
    seen = replace(made.facts, devices=every)
    return replace(
        made, findings=tuple(found), facts=seen, machine=machine, torch=torch, tried=depth.tried
    )


def consult(name: str) -> Report:
    """A catalogued chip: facts from documents, with the software sd3tune would install for it."""
    from sd3tune.backends.decide import chips
    from sd3tune.doctor import hardware

    started = time.perf_counter()
    if name.endswith(".json"):
        raise ConfigError(
            f"`{name}` is a file, and `sd3tune doctor --on` takes a chip of the catalogue",
            hint=f"sd3tune plan --on {name} plans for the machine that the file describes",
        )
    chip = chips.chip(name)
    made = _decided(chips.facts(chip), recorded({}), {})
    findings = (*hardware.catalogued(chip), *made.findings)
    seconds = time.perf_counter() - started
    return replace(made, findings=findings, chip=chip.key, seconds=seconds)


def _decided(facts: Facts, run: ProbeRunner, answers: dict[str, ProbeAnswer]) -> Report:
    """The decisions, or a finding where one of them is impossible. answers: of probes that have
    run, to which those are added that the decisions need besides."""
    from sd3tune.doctor import probe_findings

    def decide(facts: Facts) -> dict[str, Decision[str]]:
        return decide_all(facts, Request())[0]

    try:
        admitted = admit(
            replace(facts, measured_at=probe_findings.REFERENCE),
            decide,
            chosen,
            probe_findings.remembering(run, answers),
            measuring=partial(probe_findings.measuring, facts),
        )
        deciding = {n: a for n, a in answers.items() if not probe_findings.of_a_shape(n)}
        known = replace(admitted.facts, smoke=smoke_of(deciding))
        return Report((), known, admitted.decided, capabilities(known))
    except PlanError as e:
        known = replace(facts, smoke=smoke_of(answers))
        finding = Finding("choices", "FAIL", "choices", str(e), "table of options", e.hint)
        return Report((finding,), known, {}, {})


def chosen(decisions: Mapping[str, Decision[str]]) -> dict[str, str]:
    """The option of each axis."""
    return {axis: decision.value for axis, decision in decisions.items()}
