"""`sd3tune doctor`: can this machine train, and what would sd3tune choose here?"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON
from sd3tune.errors import ConfigError
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sd3tune.doctor import Report
    from sd3tune.doctor.finding import Finding


VERDICTS = {  # where nothing FAILs
    "all": "training can start",
    "software": "the software can train, and no device was tried",
    "nothing": "nothing was tried; `sd3tune doctor` without --quick says whether a run can start",
}


@click.command("doctor", short_help="Can this machine train?")
@JSON
@click.option(
    "--on",
    "chip",
    metavar="NAME",
    help="a chip of the catalogue instead of this machine; `--on list` prints the catalogue",
)
@click.option("--quick", is_flag=True, help="look, but run nothing on the device (under a second)")
@click.option("--deep", is_flag=True, help="slow probes too: torch.compile on a CPU")
@click.option("--no-device", is_flag=True, help="check the software only: for image builds")
@click.option(
    "--report",
    "bundle",
    is_flag=False,
    flag_value="sd3tune-report.json",
    metavar="[FILE]",
    type=click.Path(path_type=Path, dir_okay=False),
    help="write a file without names or serial numbers that helps us with hardware like this",
)
def command(
    as_json: bool, chip: str | None, quick: bool, no_device: bool, deep: bool, bundle: Path | None
) -> None:
    """Can this machine train, and what would sd3tune choose here?

    Every line is `ok`, `warn`, `FAIL` or `skip`, with the measured fact and where it was read;
    every warn and FAIL has a fix. Exit code 0 when training can start, 1 when it cannot.

    \b
      sd3tune doctor                 look at everything and compute on the device
      sd3tune doctor --quick         look only
      sd3tune doctor --on rtx4090    what a card you do not have could do
      sd3tune doctor --report        what you can send us about this machine
    """
    from sd3tune.doctor import Depth, consult, examine

    if chip and bundle:
        raise ConfigError(
            "`--report` describes this machine, and `--on` another one",
            hint="leave out one of them",
        )
    if chip == "list":
        from sd3tune.cli import catalogue_lines

        if as_json:
            echo(words.document("doctor", catalogue_lines.document()))
        else:
            words.show(catalogue_lines.catalogue_lines())
        return
    if as_json or chip:
        depth = Depth(quick=quick, device=not no_device, deep=deep)
        report = consult(chip) if chip else examine(depth)
        echo(document(report)) if as_json else words.show(lines(report))
    else:
        shown = FindingsAsTheyCome()
        report = examine(Depth(quick=quick, device=not no_device, deep=deep), shown.tell)
        words.show(lines(report, shown))
    if bundle:
        from sd3tune.doctor.report import write

        words.show(write(json.loads(document(report)), bundle).splitlines(), err=True)
    sys.exit(0 if report.can_train else 1)


class FindingsAsTheyCome:
    """Prints findings as soon as they are known, each once."""

    def __init__(self) -> None:
        self._told: set[Finding] = set()
        self._failed: set[str] = set()

    def new(self, findings: "Sequence[Finding]") -> "list[Finding]":
        """Those that were not printed yet. A package that is not installed also fails its probe:
        that is one line."""
        found = [
            f
            for f in dict.fromkeys(findings)
            if f not in self._told and not (f.status == "FAIL" and f.id in self._failed)
        ]
        self._told.update(found)
        self._failed.update(f.id for f in found if f.status == "FAIL")
        return found

    def tell(self, findings: "Sequence[Finding]") -> None:
        """Prints the new ones."""
        shown = [line for f in self.new(findings) for line in finding_lines(f)]
        if shown:
            words.show(shown)


def finding_lines(finding: "Finding") -> list[words.Line]:
    """A finding with its source."""
    return words.status_lines(finding, f" ({finding.source})")


def lines(report: "Report", told: FindingsAsTheyCome | None = None) -> list[words.Line]:
    """Findings, decisions and the verdict, as a terminal shows them. told: what was printed."""
    from sd3tune.cli.decision_lines import decision_lines

    shown: list[words.Line] = []
    if report.chip:
        shown += [f"{report.chip}: from the catalogue, not measured on a device", ""]
    for finding in told.new(report.findings) if told else report.findings:
        shown += finding_lines(finding)
    shown += ["", "sd3tune would choose here"]
    shown += decision_lines(report.decisions, report.capabilities)
    count = {s: sum(f.status == s for f in report.findings) for s in ("FAIL", "warn")}
    verdict = VERDICTS[report.tried] if report.can_train else "training cannot start"
    return [*shown, "", f"{verdict}: {count['FAIL']} FAIL, {count['warn']} warn"]


def document(report: "Report") -> str:
    """`doctor --json`; `doctor --report` and `plan --on FILE.json` begin with it."""
    from sd3tune.backends.observe.facts import to_json
    from sd3tune.plan.describe import decision

    content = {
        "verdict": report.verdict,
        "can_train": report.can_train,
        "tried": report.tried,
        "measured": report.chip is None,
        "chip": report.chip,
        "seconds": round(report.seconds, 3),
        "findings": [asdict(f) for f in report.findings],
        "facts": to_json(report.facts),
        "machine": to_json(report.machine) if report.machine else None,
        "torch": to_json(report.torch) if report.torch else None,
        "decisions": {axis: decision(d) for axis, d in report.decisions.items()},
        "capabilities": {
            axis: {
                name: {"level": level, "usable": not why, "reasons": list(why)}
                for name, (level, why) in options.items()
            }
            for axis, options in report.capabilities.items()
        },
    }
    return words.document("doctor", content)
