"""A package that is installed and does not load, told from one that is not installed."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sd3tune.backends.decide import chips
from sd3tune.backends.observe import imports
from sd3tune.backends.observe.facts import TorchReport
from sd3tune.cli import doctor as doctor_command
from sd3tune.doctor import Depth, hardware, software
from sd3tune.tables.libraries import LIBRARIES

Attempt = Callable[..., dict[str, object]]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """Imports a module of this text, which comes with the distribution `peft`."""
    monkeypatch.syspath_prepend(tmp_path)

    def go(text: str, names: str = "") -> dict[str, object]:
        (tmp_path / "strange_library.py").write_text(text)
        monkeypatch.delitem(sys.modules, "strange_library", raising=False)
        return imports.attempt("peft", f"strange_library: {names}")

    return go


def test_what_loads_says_its_version(attempt: Attempt) -> None:
    answer = attempt("LoraConfig = object", "LoraConfig")
    assert answer["ok"] and str(answer["words"]).startswith("0.21")


def test_a_missing_dependency_is_named_and_installed_in_the_range_that_is_asked_for(
    attempt: Attempt,
) -> None:
    answer = attempt("import httpx2_of_nobody")
    assert not answer["ok"]
    assert answer["words"] == "ModuleNotFoundError: No module named 'httpx2_of_nobody'"
    assert answer["fix"] == "pip install 'httpx2_of_nobody'"
    packed = attempt("raise ModuleNotFoundError('No module named x', name='psutil')")
    assert packed["fix"] == "pip install 'psutil'", "as peft's own metadata asks for it"


def test_a_lazy_module_s_error_is_the_one_underneath(attempt: Attempt) -> None:
    text = (
        "def __getattr__(name):\n"
        "    try:\n        import httpx2_of_nobody\n"
        "    except ImportError as e:\n"
        "        raise RuntimeError('Failed to import models.sd3:\\nlook up to see') from e\n"
    )
    answer = attempt(text, "SD3Transformer2DModel")
    assert answer["words"] == "ModuleNotFoundError: No module named 'httpx2_of_nobody'"
    assert answer["fix"] == "pip install 'httpx2_of_nobody'"


def test_a_broken_installation_is_installed_again_without_another_pytorch(attempt: Attempt) -> None:
    answer = attempt("raise OSError('libcudart.so.13: cannot open shared object file')")
    assert answer["words"] == "OSError: libcudart.so.13: cannot open shared object file"
    assert answer["fix"] == "pip install --force-reinstall --no-deps 'peft<0.22,>=0.21'"
    gone = attempt("", "LoraConfig")
    assert "has no attribute 'LoraConfig'" in str(gone["words"])


def test_what_is_not_installed_is_said_so() -> None:
    answer = imports.attempt("nobodys-distribution", "x:")
    assert answer["words"] == "it is not installed"
    assert answer["fix"] == "pip install 'nobodys-distribution'"


@pytest.mark.parametrize(
    "version, status",
    [("2.13.0+cpu", "ok"), ("2.15.1", "ok"), ("2.12.9", "warn"), ("2.16.0", "warn")],
)
def test_a_pytorch_outside_the_range_is_warned_about(version: str, status: str) -> None:
    """The range is 2.13 to 2.15, as the project's metadata says."""
    report = TorchReport(version=version, imported=True)
    found = list(hardware.torch(report, chips.facts(chips.chip("h100")), device=False))
    assert {f.status for f in found if f.id == "torch.version"} == ({status} - {"ok"})
    for f in found:
        if f.id == "torch.version":
            assert version in f.fact and ">=2.13" in f.fact
            assert f.fix.startswith("bash scripts/setup,"), "a fixed build may need a newer driver"


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Module -> distribution, where the names differ; and what ours never imports, but others' do.
NAMED_OTHERWISE = {
    "PIL": "pillow", "google": "protobuf", "cv2": "opencv-python-headless", "skimage":
    "scikit-image", "optimum": "optimum-quanto", "optimi": "torch-optimi", "lycoris":
    "lycoris-lora", "pynvml": "nvidia-ml-py", "pillow_jxl": "pillow-jxl-plugin",
}  # fmt: skip
# A vendor's system brings amdsmi; the others come with packages that are asked for.
UNASKED = {"amdsmi", "sageattention", "fsspec", "botocore", "triton", "yaml", "tokenizers",
           "pydantic_core"}  # fmt: skip


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_every_package_that_sd3tune_asks_for_is_tried_before_training_can_start() -> None:
    """A dependency in pyproject.toml is a row of the libraries, and an essential one."""
    essential = {canonicalize_name(row.name) for row in LIBRARIES.rows if row.essential}
    assert essential == names(PROJECT["dependencies"]) - {"torch"}, "torch has a child of its own"


def test_every_package_that_a_command_imports_is_asked_for() -> None:
    asked = names(PROJECT["dependencies"])
    asked |= names([line for some in PROJECT["optional-dependencies"].values() for line in some])
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "sd3tune").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in modules(node)
    }
    foreign = imported - sys.stdlib_module_names - {"sd3tune"} - UNASKED
    assert {canonicalize_name(NAMED_OTHERWISE.get(n, n)) for n in foreign} <= asked


def modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def test_every_essential_package_loads_here_and_has_the_names_that_the_row_gives() -> None:
    light = [row for row in LIBRARIES.rows if row.essential and row.name not in HEAVY]
    for row in light:
        assert imports.attempt(row.name)["ok"], imports.attempt(row.name)


HEAVY = ("diffusers", "transformers", "peft", "accelerate", "safetensors")  # seconds: test_doctor


def broken(module: str, folder: Path) -> dict[str, str]:
    """An environment in which a module that is installed does not load."""
    (folder / module).mkdir()
    text = f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')"
    (folder / module / "__init__.py").write_text(text)
    return os.environ | {"PYTHONPATH": str(folder), "SD3TUNE_BACKEND": "cpu"}


@pytest.mark.parametrize(
    "module, distribution",
    [("httpx2", "httpx2"), ("rich", "rich"), ("google", "protobuf"), ("pydantic", "pydantic")],
)
def test_the_import_child_names_the_package_to_install(
    module: str, distribution: str, tmp_path: Path
) -> None:
    probe = {"httpx2": "import_huggingface_hub"}.get(module, f"import_{distribution}")
    script = (
        "import json, sys; from sd3tune.backends.observe import imports;"
        f"print(json.dumps(imports.observe('cpu', '{probe}')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env=broken(module, tmp_path), check=True)  # fmt: skip
    answer = json.loads(done.stdout.splitlines()[-1])[probe]  # libraries print too
    assert answer["ok"] is False and f"No module named '{module}'" in answer["words"]
    assert f"'{distribution}" in answer["fix"]


@pytest.mark.parametrize("module", ["click", "packaging"])
def test_without_a_package_that_doctor_itself_needs_the_error_names_it(
    module: str, tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-m", "sd3tune", "doctor", "--quick"],
                          capture_output=True, text=True, env=broken(module, tmp_path))  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert module in said and "pip install" in said and "training can start" not in said


def test_a_package_of_a_package_that_is_not_installed_is_found_without_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As huggingface_hub's httpx2 on a rented machine. Here psutil asks for what nobody has."""
    old = metadata.distribution("psutil")
    folder = tmp_path / f"psutil-{old.version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: psutil\nVersion: {old.version}\n"
        "Requires-Dist: httpx2-of-nobody>=2\nRequires-Dist: nothing; extra == 'test'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert software.lacking() == {"httpx2-of-nobody>=2": "psutil"}
    (found,) = (f for f in software.packages() if f.status == "FAIL")
    assert found.fact == "not installed, psutil needs it"
    assert found.fix == "pip install 'httpx2-of-nobody>=2'"


def test_a_look_does_not_say_that_training_can_start() -> None:
    said = [doctor_command.VERDICTS[tried] for tried in ("nothing", "software")]
    assert not [words for words in said if "training can start" in words]
    assert Depth(quick=True).tried == "nothing" and Depth(device=False).tried == "software"
