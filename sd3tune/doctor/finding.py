"""One line of `sd3tune doctor`."""

from dataclasses import dataclass
from typing import Literal

from sd3tune.backends.observe.facts import Problem

Status = Literal["ok", "warn", "FAIL", "skip"]


@dataclass(frozen=True)
class Finding:
    """`status  name: fact (source)`, and a fix that can be pasted for every warn and FAIL."""

    id: str  # stable, for programs
    status: Status
    name: str
    fact: str
    source: str
    fix: str = ""


def of(problem: Problem, name: str, source: str) -> Finding:
    """A problem met while observing, as a finding."""
    status: Status = "FAIL" if problem.severity == "fail" else problem.severity
    fix = "" if status == "skip" else problem.fix
    return Finding(problem.id, status, name, problem.message, source, fix)
