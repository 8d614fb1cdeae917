"""Every benchmark explains itself and stands in the documents' list; rows, targets and the script
for a card fit together. Nothing is measured; torch is not imported."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
GUIDE = (ROOT / "docs" / "guides" / "measure-a-card.md").read_text("utf-8")
SCRIPT = (FOLDER / "on_a_card.sh").read_text("utf-8")
COMMANDS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text("utf-8")]


def listed() -> set[str]:
    """The commands of the guide's list."""
    return set(re.findall(r"^\| `benchmarks/(\S+)` \|", GUIDE, re.MULTILINE))


def test_every_benchmark_is_in_the_list_and_nothing_else() -> None:
    assert listed() == {path.name for path in COMMANDS} | {"on_a_card.sh"}


def test_the_help_of_every_benchmark_is_its_text_which_says_how_it_is_started() -> None:
    """tests/cpu/test_on_a_card.py starts them; here it is read off, without torch."""
    for path in COMMANDS:
        source = path.read_text("utf-8")
        text = ast.get_docstring(ast.parse(source)) or ""
        assert re.search(rf"^    \S*python benchmarks/{path.name}", text, re.MULTILINE), path.name
        assert re.search(r"parser\(__doc__|description=__doc__", source), path.name


def test_what_is_not_a_command_is_imported_by_one() -> None:
    sources = [path.read_text("utf-8") for path in FOLDER.glob("*.py")]
    for path in set(FOLDER.glob("*.py")) - set(COMMANDS):
        used = re.compile(rf"^\s*(?:from|import) {path.stem}\b", re.MULTILINE)
        assert any(used.search(source) for source in sources), path.name


def test_the_guide_has_every_part_of_the_script() -> None:
    parts = set(re.findall(r"^\s*(?:run|part|aside|table) ([\w-]+) \d", SCRIPT, re.MULTILINE))
    table = GUIDE.partition("| part |")[2].partition("\n\n")[0]
    assert parts and parts == set(re.findall(r"`([\w-]+)`(?=,| \|)", table))


def test_the_parts_of_the_script_are_benchmarks() -> None:
    for name in re.findall(r"^run (\w+)[\w-]* \d", SCRIPT, re.MULTILINE):
        assert (FOLDER / f"{name}.py").exists(), name


def test_the_script_explains_itself() -> None:
    done = subprocess.run(["bash", str(FOLDER / "on_a_card.sh"), "--help"], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2 and "BUDGET" in done.stdout and "set -" not in done.stdout


def test_memory_py_names_rows_of_the_full_size_table() -> None:
    command = [sys.executable, str(FOLDER / "full_size.py"), "--list"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    named = re.findall(r'full_size="(.+)"', (FOLDER / "memory.py").read_text("utf-8"))
    assert named and set(named) <= set(rows)


def summary_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The document and the printed table."""
    command = [sys.executable, str(FOLDER / "card_summary.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document, done.stdout


def test_a_summary_says_what_was_met_missed_and_not_measured(tmp_path: Path) -> None:
    gib, kept = 2**30, "medium b3 r128 1024 px, kept, compiled"
    int8 = "large b1 r16 1024 px, int8-quanto, checkpointed, streamed, eager"
    rows = {
        kept: {"seconds": 0.3, "predicted_seconds": 0.25, "predicted_error": 0.1,
               "peak_bytes": 101 * gib, "predicted_bytes": 100 * gib},
        int8: {"seconds": 1.0, "peak_bytes": 6 * gib, "predicted_bytes": 5 * gib},
        "medium b3 r128 1024 px, checkpointed, compiled": {"failed": "no memory"},
    }  # fmt: skip
    (tmp_path / "full_size.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "determinism.json").write_text(json.dumps({"same": True}))
    (tmp_path / "compiling.json").write_text(json.dumps({"graph_breaks": 0}))
    document, printed = summary_of(tmp_path)
    targets = document["targets"]
    assert targets[f"{kept} s/step"]["ratio"] == 1.25 and targets[f"{kept} s/step"]["met"] is False
    assert targets[f"{int8} GiB"]["ratio"] == 0.8 and targets[f"{int8} GiB"]["met"] is True
    failed = targets["medium b3 r128 1024 px, checkpointed, compiled s/step"]
    assert failed["met"] is None and "ratio" not in failed
    assert targets["deterministic: equal adapters of 3 runs, one killed"]["met"] is True
    assert targets["compiling: graph breaks"]["met"] is True
    assert "memory: 1 of 2 rows within 2 % of the plan" in printed
    assert "time: 0 of 1 rows within 10% of the plan" in printed


def test_a_folder_without_results_has_every_target_unmeasured(tmp_path: Path) -> None:
    document, _ = summary_of(tmp_path)
    assert {cell["met"] for cell in document["targets"].values()} == {None}
