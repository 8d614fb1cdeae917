"""Can this machine train? Asks the operating system, then PyTorch, then the device itself.

Whatever is broken becomes a finding with a fix; nothing found here raises. What sd3tune would
choose comes from the same table the trainer uses, so that doctor, plan and trainer tell one story.
"""

import time
from dataclasses import dataclass, replace

from sd3tune.backends.decide.decisions import capabilities, decide_all
from sd3tune.backends.decide.option import Level
from sd3tune.backends.decide.rules import Request
from sd3tune.backends.observe.facts import Facts, Machine, TorchReport
from sd3tune.decision import Decision
from sd3tune.doctor.finding import Finding

Table = dict[str, dict[str, tuple[Level, tuple[str, ...]]]]


@dataclass(frozen=True)
class Report:
    """Everything doctor has to say. `chip` set: from the catalogue, nothing was measured."""

    findings: tuple[Finding, ...]
    facts: Facts
    decisions: dict[str, Decision[str]]
    capabilities: Table
    seconds: float
    machine: Machine | None = None
    torch: TorchReport | None = None
    chip: str | None = None

    @property
    def can_train(self) -> bool:
        return not any(f.status == "FAIL" for f in self.findings)

    @property
    def verdict(self) -> str:
        statuses = {f.status for f in self.findings}
        return "fail" if "FAIL" in statuses else "warn" if "warn" in statuses else "ok"


def examine(*, quick: bool = False, device: bool = True, deep: bool = False) -> Report:
    """This machine. quick: nothing runs on the device and torch is not started. device=False: the
    software only, as in an image build on a host without the card. deep: slow probes too."""
    from sd3tune.backends.observe import this_machine
    from sd3tune.doctor import hardware, probing, software

    started = time.perf_counter()
    machine, torch, facts = this_machine.observe(import_torch=not quick)
    findings = [*software.host(machine.host), *software.packages(), *software.hub()]
    findings += hardware.torch(torch, facts, device=device)
    if device:
        findings += hardware.accelerators(machine, facts)
    if quick or not device or torch.error or torch.version is None:
        why = "torch is not usable" if torch.error or torch.version is None else "not asked for"
        findings.append(Finding("probes", "skip", "probes", why, "doctor"))
    else:
        found, smoke = probing.run(facts, deep=deep)
        findings += found
        facts = replace(facts, smoke=smoke)
    return _report(findings, facts, started, machine=machine, torch=torch)


def consult(name: str) -> Report:
    """A catalogued chip: facts from documents, with the software sd3tune would install for it."""
    from sd3tune.backends.decide import chips
    from sd3tune.doctor import hardware

    started = time.perf_counter()
    chip = chips.chip(name)
    findings = hardware.catalogued(chip)
    return _report(findings, chips.facts(chip), started, chip=chip.key)


def _report(
    findings: list[Finding],
    facts: Facts,
    started: float,
    *,
    machine: Machine | None = None,
    torch: TorchReport | None = None,
    chip: str | None = None,
) -> Report:
    decisions, _ = decide_all(facts, Request())
    seconds = time.perf_counter() - started
    table = capabilities(facts)
    return Report(tuple(findings), facts, decisions, table, seconds, machine, torch, chip)
