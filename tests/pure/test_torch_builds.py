"""Which PyTorch a fresh environment gets: one that the driver runs, and never by hope."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sd3tune import start
from sd3tune.backends import cuda
from sd3tune.backends.decide.torch_builds import cuda_build, extra, torch_build
from sd3tune.backends.observe.facts import (
    Arch,
    Gpu,
    Machine,
    Problem,
    Survey,
    TorchReport,
)
from sd3tune.backends.observe.host_facts import Host
from sd3tune.errors import HardwareError
from tests import recordings

HOST = Host("Linux", "6.8", "x86_64", "3.12.1")


def nvidia(
    driver: str | None, runtime: str | None = None, *chips: int, source: str | None = "nvml"
) -> Machine:
    cards = tuple(Gpu("cuda", i, f"card {c}", Arch("sm", f"sm_{c}"), "nvml")
                  for i, c in enumerate(chips))  # fmt: skip
    return Machine(HOST, (Survey("cuda", cards, driver, runtime, source),))


def index(machine: Machine) -> str:
    return (torch_build(machine).index_url or "PyPI").rpartition("/")[2]


# NVIDIA's release notes: the newest CUDA of each branch of the driver. CUDA 12 starts with 525 and
# CUDA 13 with 580.
@pytest.mark.parametrize(
    "driver, runtime, build",
    [
        ("525.60.13", "12.0", "cu126"),
        ("530.30.02", "12.1", "cu126"),
        ("535.183.01", "12.2", "cu126"),
        ("545.23.06", "12.3", "cu126"),
        ("550.54.15", "12.4", "cu126"),
        ("560.35.05", "12.6", "cu126"),
        ("570.86.15", "12.8", "cu126"),
        ("575.57.08", "12.9", "cu126"),
        ("580.95.05", "13.0", "PyPI"),
        ("595.45", "13.2", "PyPI"),
        ("610.12", "13.4", "PyPI"),
    ],
)
def test_a_driver_gets_a_build_that_it_runs_whichever_half_of_it_is_known(
    driver: str, runtime: str, build: str
) -> None:
    for known in ((driver, runtime), (driver, None), (None, runtime)):
        assert index(nvidia(*known, 86)) == build, known


@pytest.mark.parametrize("known", [("515.105.01", "11.7"), ("470.57.02", None), (None, "11.8")])
def test_a_driver_that_no_build_runs_on_is_refused(known: tuple[str | None, str | None]) -> None:
    with pytest.raises(HardwareError, match="needs driver 525 or newer") as refused:
        torch_build(nvidia(*known, 86))
    assert "580 or newer" in refused.value.hint and "+cpu" in refused.value.hint
    assert extra(nvidia(*known, 86)) == "cuda"


@pytest.mark.parametrize("unknown", [None, "", "N/A", "[N/A]"])
def test_an_unknown_driver_is_never_new_enough(unknown: str | None) -> None:
    for machine in (nvidia(unknown, unknown, 86), nvidia(unknown, unknown, source=None)):
        build = torch_build(machine)
        assert index(machine) == "cu126" and "unknown version" in build.reason
    assert index(nvidia(unknown, None, 120)) == "cu129"


@pytest.mark.parametrize(
    "driver, chips, build",
    [
        ("580.95", (70,), "cu126"),
        ("580.95", (61, 89), "cu126"),
        ("570.86", (120,), "cu129"),  # cu126 has no kernels for Blackwell
        ("570.86", (100,), "cu129"),
        ("580.95", (120,), "PyPI"),
        ("580.95", (70, 120, 120), "PyPI"),  # no build has both
        ("570.86", (103,), "cu129"),
    ],
)
def test_a_build_has_kernels_for_the_cards(driver: str, chips: tuple[int, ...], build: str) -> None:
    assert index(nvidia(driver, None, *chips)) == build


def test_the_card_that_no_build_serves_is_named() -> None:
    assert "no kernels for sm_70" in torch_build(nvidia("580.95", None, 70, 120, 120)).reason
    with pytest.raises(HardwareError, match="card 37 is sm_37, and no build"):
        torch_build(nvidia("580.95", None, 37))


def test_no_driver_is_asked_for_that_would_not_help() -> None:
    with pytest.raises(HardwareError, match="card 37 is sm_37, and no build") as kepler:
        torch_build(nvidia("470.256.02", "11.4", 37))
    assert "update" not in kepler.value.hint
    with pytest.raises(HardwareError, match="needs driver 525 or newer") as volta:
        torch_build(nvidia("470.256.02", "11.4", 70))
    assert "580, the last series that runs sm_70" in volta.value.hint
    built = TorchReport("2.13.0", cuda="13.0", arch_list=("sm_75", "sm_80"), imported=True)
    for chip, fix in ((37, "use another card"), (70, "update the driver to 580, the last series")):
        facts = cuda.facts(nvidia("470.256.02", "11.4", chip), built, {}, {}, {})
        (problem,) = [p for p in facts.problems if p.severity == "fail"]
        assert problem.id == "torch.arch-not-in-build" and problem.fix.startswith(fix)


def test_a_card_on_the_bus_that_its_driver_leaves_out_gets_a_build_for_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that is older than the card lists none, and cuInit says as much."""
    recorded = recordings.load("rtx4090")
    card = "sys/bus/pci/devices/0000:01:00.0"
    recorded["files"] |= {f"{card}/vendor": "0x10de\n", f"{card}/class": "0x030000\n"}
    recorded["pynvml"] |= {"driver": "560.35.03", "cuda": 12060, "devices": []}
    recorded["libcuda"] = {"version": 12060, "init": 100}
    recorded["torch"] |= {"devices": [], "devices_error": "No CUDA GPUs are available"}
    machine, _, facts = recordings.observed(recorded, tmp_path, monkeypatch)
    assert torch_build(machine).extra == "cuda"
    (failed,) = [p for p in facts.problems if p.severity == "fail"]
    assert failed.message.startswith("NVML answers and lists no card")
    assert "too old for the card" in failed.fix


def test_a_card_that_no_source_lists_does_not_get_the_cpu_s_build() -> None:
    assert extra(nvidia("535.1", None, source="/proc/driver/nvidia")) == "cuda"
    assert extra(nvidia(None, None, source="nvml")) == "cpu"  # it listed none
    on_bus = Problem("nvidia.no-driver", "fail", "words", "fix")
    seen = Survey("cuda", source="nvml", problems=(on_bus,))
    assert extra(Machine(HOST, (seen,))) == "cuda"
    there = Survey("rocm", problems=(replace(on_bus, id="amd.no-driver"),))
    assert torch_build(Machine(HOST, (there,))).extra == "rocm"
    assert extra(Machine(HOST)) == "cpu"


@pytest.mark.parametrize("driver, offered", [("535.1", "cu126"), ("515.1", None), (None, None)])
def test_doctor_offers_what_setup_would_choose(driver: str | None, offered: str | None) -> None:
    torch = TorchReport("2.13.0", cuda="13.0", imported=True)
    facts = cuda.facts(nvidia(driver, None, 86), torch, {}, {}, {})
    old = [p for p in facts.problems if p.id == "torch.driver-too-old"]
    assert bool(old) == (driver is not None)
    for problem in old:
        assert f"driver {driver}" not in problem.fix
        assert (offered in problem.fix) if offered else ("SD3TUNE_TORCH" not in problem.fix)
    beside = cuda.facts(nvidia(driver, None, 86), TorchReport("2.13.0", imported=True), {}, {}, {})
    (wrong,) = [p for p in beside.problems if p.id == "torch.cpu-build-beside-gpu"]
    assert ("cu126" in wrong.fix) == (driver != "515.1")
    build = cuda_build(driver, None, {86})
    assert (build.index if build else None) == ("cu126" if driver != "515.1" else None)


def test_setup_asks_a_bare_checkout_and_reads_four_lines_or_an_error(tmp_path: Path) -> None:
    """As scripts/setup does: isolated, nothing installed, the drivers' files in a folder."""
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)

    def asked(driver: str) -> "subprocess.CompletedProcess[str]":
        version.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue")
        words = ["--torch", "--root", str(tmp_path)]
        command = [sys.executable, "-I", start.SCRIPT, "sd3tune.backends.observe.machine", *words]
        environ = {"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(command, capture_output=True, text=True, env=environ)

    chosen = asked("535.183.01").stdout.splitlines()
    assert chosen[1].endswith("/cu126") and chosen[2] == "cuda" and len(chosen) == 4
    refused = asked("515.105.01")
    assert refused.returncode == 1 and refused.stdout == ""
    assert [line.split(":")[0] for line in refused.stderr.splitlines()] == ["error", "hint"]


def test_an_intel_mac_is_refused_before_pip_finds_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words, hint in (
        ("intel-mac", "this is an Intel Mac", "an Apple chip"),
        ("rosetta", "runs under Rosetta", "brew install python@3.12"),
    ):
        there = recordings.observed(recordings.load(name), tmp_path, monkeypatch)[0]
        with pytest.raises(HardwareError, match=words) as refused:
            torch_build(there)
        assert hint in refused.value.hint
    apple = recordings.observed(recordings.load("m3-max"), tmp_path, monkeypatch)[0]
    assert torch_build(apple).extra == "apple"
