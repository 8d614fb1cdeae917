"""A package that is installed and does not load, told from one that is not installed."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.observe import imports
from sd3tune.backends.observe.facts import TorchReport
from sd3tune.doctor import hardware

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
