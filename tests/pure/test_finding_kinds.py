"""docs/reference/findings.md: a row for every finding and every error that the code can give."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from sd3tune import errors
from sd3tune.backends.observe import amdsmi, cuda_devices, nvml
from sd3tune.backends.observe.card_sources import SOURCES
from sd3tune.doctor import hardware, software
from sd3tune.doctor.finding import Finding
from sd3tune.doctor.finding_kinds import GROUPS, FindingKind, kind_of
from tests.recordings import load, names, observed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "findings.md"
MAKERS = {"Finding", "Problem", "Note", "Lack", "problem", "_problem"}  # they take an id first
# The beginning that a module's own `problem` puts before its ids.
BEGINNINGS = {"mps.py": "mps.", "nvml.py": "nvidia.", "amdsmi.py": "amd.", "cuda.py": "nvidia.",
              "rocm.py": "amd.", "kfd.py": "amd.", "amd_smi_program.py": "amd."}  # fmt: skip


def pattern(node: ast.expr) -> str | None:
    """A text of the code with `*` for what is put into it; None: it is not a text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "*" for v in node.values]
        return "".join(map(str, parts))
    return None


def ids(path: Path) -> Iterator[str]:
    """Ids of findings that a module makes, with `*` for what varies."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
            continue
        made, name = pattern(node.args[0]), node.func.id
        if name in MAKERS and made is not None:
            own = name in ("problem", "_problem")
            yield (BEGINNINGS.get(path.name, "nvidia.") if own else
                   "container." if name == "Lack" else "") + made  # fmt: skip


@pytest.fixture(scope="module")
def made() -> set[str]:
    """Ids of every finding: those in calls, those in tables of return codes, those of sources."""
    rooms = [ROOT / "sd3tune" / "backends", ROOT / "sd3tune" / "doctor"]
    found = {i for room in rooms for path in room.rglob("*.py") for i in ids(path)}
    found |= {f"nvidia.{row[0]}" for row in nvml.INIT.values()}
    found |= {f"nvidia.cuinit-{row[0]}" for row in cuda_devices.INIT.values()}
    found |= {f"amd.{row[0]}" for row in amdsmi.INIT.values()}
    found = {id for id in found if not id.startswith("*-")}  # of a source, whose ids follow
    return found | {f"{s.id}-{end}" for s in SOURCES.values() for end in ("hangs", "implausible")}


def meet(kind: FindingKind, id: str) -> bool:
    """Whether a row and an id of the code, each perhaps with `*`, can be of one finding."""
    return kind.fits(id) or fnmatchcase(kind.id, id)


def test_every_finding_of_the_code_has_a_row(made: set[str]) -> None:
    rows = [kind for group in GROUPS.values() for kind in group]
    assert len(made) > 90
    assert [id for id in sorted(made) if not any(meet(kind, id) for kind in rows)] == []


def test_every_row_is_of_a_finding_of_the_code(made: set[str]) -> None:
    rows = [kind for group in GROUPS.values() for kind in group]
    assert [kind.id for kind in rows if not any(meet(kind, id) for id in made)] == []
    assert len({kind.id for kind in rows}) == len(rows)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """What doctor says on every recorded machine."""
    found: list[Finding] = []
    for name in names():
        with pytest.MonkeyPatch.context() as here:
            machine, torch, facts = observed(load(name), tmp_path_factory.mktemp(name), here)
        found += software.host(machine.host)
        found += hardware.torch(torch, facts, device=True)
        found += hardware.accelerators(machine, facts)
    return found


def example(kind: FindingKind, findings: list[Finding]) -> str:
    """The first warning or failure of a kind, with its fix; empty: no recorded machine has one."""
    of_kind = (f for f in findings if f.status in ("warn", "FAIL") and kind_of(f.id) == kind)
    shown = next(of_kind, None)
    return f"{cell(shown.fact)}. **Fix:** {cell(shown.fix)}" if shown else ""


def cell(text: str) -> str:
    """Text in a cell of a table, where nothing of it is Markdown."""
    return re.sub(r"([\\|*_<>\[\]`$])", r"\\\1", text)


def error_rows() -> Iterator[str]:
    """The tree of sd3tune/errors.py as rows; each error with its exit code."""
    tree = re.findall(r"^[│├└─ ]*(\w+) {2,}(\S.*)$", str(errors.__doc__), re.M)
    for name, meaning in tree:
        yield f"| `{name}` | {meaning.split(';')[0]} | {getattr(errors, name).exit_code} |"


def document(findings: list[Finding]) -> str:
    lines = ["# Findings and errors", "", (
        "`sd3tune doctor` prints findings: a status, a name, what was seen, and for each `warn` "
        "and `FAIL` a fix. `sd3tune doctor --json` has the `id` too. Only `FAIL` keeps a run from "
        "training. This page is made from `sd3tune/doctor/finding_kinds.py` and "
        "`sd3tune/errors.py`; the examples are of the recorded machines in `tests/machines`. What "
        "to do about a message: [Troubleshooting](../troubleshooting.md)."), ""]  # fmt: skip
    for title, kinds in GROUPS.items():
        lines += [f"## {title}", "", "| id | meaning | for example |", "|-|-|-|"]
        lines += [f"| `{k.id}` | {k.meaning} | {example(k, findings)} |" for k in kinds] + [""]
    lines += ["## Errors", "", (
        "Every error that sd3tune raises on purpose has a line `error:` that names file, key and "
        "value, and a line `hint:` that says what to do. Anything else is a bug: a traceback, and "
        "exit code 2."), "", "| error | what it is about | exit code |", "|-|-|-|"]  # fmt: skip
    return "\n".join([*lines, *error_rows()]) + "\n"


def test_the_reference_of_findings_is_current(
    recorded: list[Finding], request: pytest.FixtureRequest
) -> None:
    text = document(recorded)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "pytest --update-golden tests/pure/test_finding_kinds.py"


def test_every_recorded_finding_has_a_row(recorded: list[Finding]) -> None:
    assert {f.id for f in recorded if kind_of(f.id) is None} == set()
