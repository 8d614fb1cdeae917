"""The architecture, as a test. A file may import only from rooms in rows above its own."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "sd3tune"

ROWS = [  # top of the list: knows nobody
    ["urls"],
    ["errors", "escaping", "start", "deferred", "garbage", "decision"],
    ["tables"],
    ["filesystem"],
    ["report"],
    ["config", "backends"],
    ["processes", "sd3", "data", "quant"],
    ["plan", "formats"],
    ["publish"],
    ["adapters", "discovered", "devices", "modulations", "preflight", "webhooks"],
    ["checked_run", "admitted_plan"],
    ["prepare", "drawing", "out_of_memory", "load", "offload"],
    ["encode", "sample"],
    ["train"],
    ["counted"],
    ["doctor", "demo", "containers", "live", "dataset_inspection", "run_overview", "imports"],
    ["configure", "cloud", "card_comparison"],
    ["cli"],
    ["__main__"],
]
# Must work, or answer at once, where torch is missing or broken.
TORCH_FREE = [
    "urls.py",
    "errors.py",
    "decision.py",
    "filesystem",
    "escaping.py",
    "tables",
    "report/stopping.py",
    "report/streams.py",
    "start.py",
    "deferred.py",
    "garbage.py",
    "__main__.py",
    "cli",
    "configure",
    "cloud",
    "containers",
    "live",
    "config",
    "plan",
    "discovered.py",
    "devices.py",
    "webhooks",
    "prepare.py",
    "drawing",
    "counted/counting.py",
    "counted/load_data.py",
    "preflight.py",
    "checked_run.py",
    "admitted_plan.py",
    "card_comparison.py",
    "publish",
    "dataset_inspection.py",
    "doctor",
    "imports",
    "demo/__init__.py",
    "backends/__init__.py",
    "backends/cuda.py",
    "backends/rocm.py",
    "backends/mps.py",
    "backends/cpu.py",
    "backends/observe",
    "backends/decide",
    "processes/environment.py",
]
SD3 = "variants models single module_names configs hub hub_refusals model_folder tensor_names "
SD3 += "comfyui_rules tokenizer_files weight_files clip_files"
TORCH_FREE += [f"sd3/{name}.py" for name in SD3.split()]
FORMATS = "key_names scale adapter_description readers file_metadata identify manifest "
FORMATS += "earlier_weights finished_run initial_adapter"
TORCH_FREE += [f"formats/{name}.py" for name in FORMATS.split()]
TORCH_FREE += ["data/discover.py", "data/buckets.py", "data/captions.py", "data/cache.py"]
TORCH_FREE += ["data/shards.py", "data/shard_bytes.py", "encode/cleaning.py", "encode/census.py"]
BELOW_THE_PLAN = (
    "encode",
    "train",
    "sample",
    "webhooks",
    "load",
    "out_of_memory",
    "offload",
    "modulations",
)
VENDOR_WORDS = ("torch.cuda.", "torch.mps.", "torch.version.", "backends.mps", "is_rocm", "is_mps")

FILES = sorted(ROOT.rglob("*.py"))
RANK = {room: i for i, row in enumerate(ROWS) for room in row}


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def typing_only(path: Path) -> set[str]:
    """Imports under `if TYPE_CHECKING`: they bind nobody at run time."""
    tree = ast.parse(path.read_text())
    blocks = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    nodes = [n for b in blocks for n in b.body if isinstance(n, ast.ImportFrom) and n.module]
    return {n.module or "" for n in nodes} | {
        f"{n.module}.{a.name}" for n in nodes for a in n.names
    }


def test_rooms_import_only_what_stands_above_them() -> None:
    for path in FILES:
        if path.stem == "__init__" and path.parent == ROOT:
            continue
        for target in imports(path) - typing_only(path):
            if not target.startswith("sd3tune.") or target == "sd3tune.__version__":
                continue
            other = target.split(".")[1]
            if other != room(path):
                assert RANK[other] < RANK[room(path)], f"{path.name} may not import {target}"


def test_below_the_plan_nobody_reads_the_configuration() -> None:
    """Neither `config.x` nor `plan.config.x`, and no decision by its name in a string."""
    for path in FILES:
        if room(path) in BELOW_THE_PLAN:
            for node in ast.walk(ast.parse(path.read_text())):
                assert not reads_settings(node), f"{path}: {ast.unparse(node)}"


def reads_settings(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        owner = node.value
        return getattr(owner, "id", getattr(owner, "attr", "")) == "config"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        texts = [a for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        return node.func.attr == "value" and bool(texts)
    return False


@pytest.mark.parametrize(
    "line, reads",
    [
        ("plan.config.seed", True),
        ("config.seed", True),
        ("plan.value('seed')", True),
        ("load_prompts(prepared.config)", False),
        ("plan.seed + plan.data.steps.value", False),
    ],
)
def test_reading_a_setting_is_recognised(line: str, reads: bool) -> None:
    assert any(map(reads_settings, ast.walk(ast.parse(line)))) == reads


def test_vendors_are_named_only_in_backends() -> None:
    for path in FILES:
        if room(path) != "backends":
            assert not [w for w in VENDOR_WORDS if w in path.read_text()], path


def vendor_branches(source: str) -> list[str]:
    """Comparisons that ask for a vendor by its name: `x.vendor == …`, `device.type in …`, and any
    with the word "cuda", "rocm" or "mps"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare | ast.match_case):
            continue
        parts = list(ast.walk(node.pattern if isinstance(node, ast.match_case) else node))
        words = {p.value for p in parts if isinstance(p, ast.Constant)}
        names = {ast.unparse(p) for p in parts if isinstance(p, ast.Attribute)}
        asks = any(n.endswith(".vendor") or n.endswith("device.type") for n in names)
        if asks or words & {"cuda", "rocm", "mps"}:
            found.append(ast.unparse(node))
    return found


# What a container of each vendor's image is started with: its subject is the vendor.
ABOUT_VENDORS = {"containers/host_image.py"}


def test_no_branch_on_a_vendor_stands_outside_backends() -> None:
    for path in FILES:
        if room(path) != "backends" and str(path.relative_to(ROOT)) not in ABOUT_VENDORS:
            assert not vendor_branches(path.read_text()), path


@pytest.mark.parametrize(
    "source, branches",
    [
        ("x = 1 if facts.vendor != 'cpu' else 2", 1),
        ("if self.facts.vendor in SHARED: pass", 1),
        ("if device.type == 'cpu' and kind == 'mps': pass", 2),
        ("match kind:\n case 'cuda' | 'rocm': pass", 1),
        ("if dataset.type == 'csv' or self.type not in kinds or via == 'cpu': pass", 0),
        ("bytes = WORKSPACE_BYTES[load.vendor]", 0),
    ],
)
def test_a_branch_on_a_vendor_is_seen(source: str, branches: int) -> None:
    assert len(vendor_branches(source)) == branches


def test_torch_is_loaded_only_where_it_is_needed() -> None:
    for name in TORCH_FREE:
        target = ROOT / name
        for path in [target] if target.suffix else sorted(target.rglob("*.py")):
            heavy = {"torch", "diffusers", "transformers", "peft"}
            assert not heavy & {i.split(".")[0] for i in imports(path, top_level=True)}, path


def test_nothing_is_imported_before_the_working_directory_is_off_the_path() -> None:
    """What Python has loaded by itself, and this package, which is found by then."""
    before = {path.name: imports(path, top_level=True) for path in FILES if path.parent == ROOT}
    assert before["__init__.py"] == set() and before["start.py"] == {"os", "sys"}
    assert before["__main__.py"] == {"sd3tune", "sd3tune.start"}


def test_the_command_line_answers_without_torch() -> None:
    code = (
        "import sys, sd3tune.cli.decision_lines, sd3tune.doctor, sd3tune.prepare;"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_takes_under_three_tenths_of_a_second() -> None:
    def once() -> float:
        before = os.times()
        command = [sys.executable, "-m", "sd3tune", "--help"]
        assert b"sd3tune doctor" in subprocess.run(command, capture_output=True).stdout
        after = os.times()  # its own, not those of what else runs here
        used = after.children_user + after.children_system
        return used - before.children_user - before.children_system

    assert min(once() for _ in range(5)) < 0.3


def test_every_vendor_has_the_same_functions_in_the_same_order() -> None:
    def functions(vendor: str) -> list[str]:
        tree = ast.parse((ROOT / f"backends/{vendor}.py").read_text())
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
        return [n for n in names if not n.startswith("_")]

    contract = functions("cuda")
    assert {"present", "survey", "visible", "facts", "prepare", "used_bytes"} <= set(contract)
    for vendor in ("rocm", "mps", "cpu"):
        assert functions(vendor) == contract, vendor


def test_files_stay_short_enough_to_read() -> None:
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{path}: split it, or argue for an exception in docs/adr"


NAMED_OTHERWISE = ("cli", "settings")  # a command's file has its name, a topic's settings too


def test_a_file_name_leads_to_one_file_and_a_class_name_to_one_class() -> None:
    files = [p for p in FILES if p.stem != "__init__" and p.parent.name not in NAMED_OTHERWISE]
    assert {n for n, count in Counter(p.name for p in files).items() if count > 1} == set()
    trees = [ast.parse(path.read_text()) for path in FILES]
    classes = Counter(n.name for t in trees for n in ast.walk(t) if isinstance(n, ast.ClassDef))
    assert {name for name, count in classes.items() if count > 1} == set()
