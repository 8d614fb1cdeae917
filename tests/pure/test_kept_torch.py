"""What PyTorch said is kept, and asked again when anything has changed on which it depends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.observe import kept_torch, machine, this_machine
from sd3tune.backends.observe.facts import Arch, Gpu, Machine, Problem, Survey, TorchReport
from sd3tune.backends.observe.kept_torch import KeptTorch, report_of
from sd3tune.errors import HardwareError

CARD = Gpu("cuda", 0, "NVIDIA L4", Arch("sm", "sm_89"), "nvml", 24 * 2**30, uuid="GPU-1")
NVIDIA = Survey("cuda", (CARD,), driver="580.1", runtime="13.0")
HERE = Machine(machine.host(), (NVIDIA,))
REPORT = TorchReport(version="2.13.0", arch_list=("sm_89",), imported=True)


def asked_again(kept: KeptTorch, here: Machine) -> bool:
    begun = kept.begun()
    return begun is None or report_of(begun, here) is None


def test_an_answer_holds_for_the_same_machine_whatever_its_heat_and_load(tmp_path: Path) -> None:
    kept = KeptTorch(tmp_path / "kept")
    assert kept.begun() is None
    kept.store(HERE, REPORT)
    begun = kept.begun()
    busy = replace(CARD, used_bytes=2**30, temperature_celsius=80.0, throttle=("power",))
    assert begun is not None
    assert report_of(begun, HERE) == REPORT
    assert report_of(begun, Machine(HERE.host, (replace(NVIDIA, gpus=(busy,)),))) == REPORT


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, surveys=()),
        lambda m: replace(m, surveys=(replace(NVIDIA, driver="581.2"),)),
        lambda m: replace(m, surveys=(replace(NVIDIA, runtime="13.1"),)),
        lambda m: replace(m, surveys=(replace(NVIDIA, gpus=()),)),
        lambda m: replace(m, surveys=(replace(NVIDIA, gpus=(CARD, CARD)),)),
        lambda m: replace(m, surveys=(replace(NVIDIA, gpus=(replace(CARD, uuid="GPU-2"),)),)),
        lambda m: replace(m, surveys=(replace(NVIDIA, gpus=(replace(CARD, mig=True),)),)),
        lambda m: replace(m, surveys=(replace(NVIDIA, gpus=(replace(CARD, error="lost"),)),)),
        lambda m: replace(
            m, surveys=(replace(NVIDIA, problems=(Problem("nvidia.fabric", "fail", "", ""),)),)
        ),
        lambda m: replace(m, host=replace(m.host, os_version="another kernel")),
        lambda m: replace(m, host=replace(m.host, cpu_name="another processor")),
        lambda m: replace(m, host=replace(m.host, container="another container")),
    ],
)
def test_another_card_driver_kernel_or_processor_asks_again(
    change: Callable[[Machine], Machine], tmp_path: Path
) -> None:
    kept = KeptTorch(tmp_path)
    kept.store(HERE, REPORT)
    assert asked_again(kept, change(HERE)) and not asked_again(kept, HERE)


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, error="undefined symbol"),
        replace(REPORT, devices_error="CUDA error 802"),
        replace(REPORT, imported=False),
    ],
)
def test_a_failure_is_not_kept(report: TorchReport, tmp_path: Path) -> None:
    kept = KeptTorch(tmp_path)
    kept.store(HERE, report)
    assert asked_again(kept, HERE)


def test_doctor_reads_no_kept_answer_and_replaces_it(tmp_path: Path) -> None:
    KeptTorch(tmp_path).store(HERE, REPORT)
    doctor = KeptTorch(tmp_path, anew=True)
    assert doctor.begun() is None
    doctor.store(HERE, replace(REPORT, cuda="13.0"))
    begun = KeptTorch(tmp_path).begun()
    assert begun is not None and report_of(begun, HERE) == replace(REPORT, cuda="13.0")


@pytest.mark.parametrize(
    "variable",
    ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "LD_PRELOAD",
     "LD_LIBRARY_PATH", "ONEDNN_MAX_CPU_ISA", "PYTHONPATH", "SD3TUNE_BACKEND"],
)  # fmt: skip
def test_a_variable_that_changes_what_torch_shows_asks_again(variable: str) -> None:
    assert kept_torch.software({variable: "1"}) != kept_torch.software({})
    assert kept_torch.software({"HF_TOKEN": "hf_1"}) == kept_torch.software({})


def test_torch_installed_again_or_a_damaged_library_asks_again(tmp_path: Path) -> None:
    library = tmp_path / "torch" / "lib" / "libtorch_cpu.so"
    library.parent.mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0'\n")
    code = "from sd3tune.backends.observe import kept_torch; print(kept_torch.files())"
    found = []
    for content, time in ((b"whole", 1), (b"who", 1), (b"whole", 2), (b"whole", 2)):
        library.write_bytes(content)
        os.utime(library, (time, time))
        # First on the path, as in another virtual environment.
        words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
        found.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len(set(found[:3])) == 3 and found[2] == found[3]


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: [],
        lambda document: document | {"report": None},
        lambda document: document | {"report": {"version": "2.13.0"}},
        lambda document: document | {"report": document["report"] | {"nonsense": 1}},
        lambda document: document | {"software": {}},
        lambda document: document | {"schema": 0},
        lambda document: document | {"machine": None},
    ],
)
def test_a_damaged_file_counts_as_not_there(damage: Callable[[Any], Any], tmp_path: Path) -> None:
    kept = KeptTorch(tmp_path)
    kept.store(HERE, REPORT)
    (file,) = tmp_path.glob("torch-*.json")
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    assert asked_again(kept, HERE)
    file.write_text("{")
    assert asked_again(kept, HERE)


def test_a_folder_in_which_others_can_write_is_not_believed(tmp_path: Path) -> None:
    kept = KeptTorch(tmp_path)
    kept.store(HERE, REPORT)
    tmp_path.chmod(0o777)
    assert asked_again(kept, HERE)


def test_a_kept_answer_starts_no_child_process(tmp_path: Path) -> None:
    """The kept report says what no PyTorch would, so a child that was asked would show itself."""
    kept = KeptTorch(tmp_path)
    kept.store(machine.survey(), replace(REPORT, version="0.0 kept"))
    _, report, _ = this_machine.observe(kept=kept)
    assert report.version == "0.0 kept"


def test_a_backend_that_does_not_exist_is_refused_with_a_kept_answer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeptTorch(tmp_path).store(machine.survey(), REPORT)
    monkeypatch.setenv("SD3TUNE_BACKEND", "tpu")
    with pytest.raises(HardwareError, match="tpu"):
        this_machine.observe(kept=KeptTorch(tmp_path))
