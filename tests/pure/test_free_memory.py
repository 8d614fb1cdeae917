"""Memory that others use on a card: every source of the vendors counts it, whoever lists the
process, and the plan of this machine judges by what is free."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune import devices, doctor
from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import recorded
from sd3tune.backends.observe import own_processes, recorded_machine
from sd3tune.backends.observe.device_cards import torch_cuda
from sd3tune.backends.observe.facts import Arch, Facts, Gpu, to_json
from sd3tune.cli import overview_lines
from sd3tune.config.config import Config
from sd3tune.errors import ConfigError, HardwareError, PlanError
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.processes.environment import Processes
from sd3tune.sd3.models import find
from tests import plans, recordings

GIB = 2**30


def nvml_of_another_user(answers: dict[str, Any]) -> None:
    """A container lists no process of the host, and the driver counts their memory."""
    card = answers["pynvml"]["devices"][0]
    card["nvmlDeviceGetComputeRunningProcesses"] = []
    card["nvmlDeviceGetMemoryInfo"]["used"] = 20 * GIB


def nvidia_smi(answers: dict[str, Any]) -> None:
    answers["commands"]["nvidia-smi"] = answers["commands"]["nvidia-smi"].replace(" 311,", " 8192,")


def slice_of_a_card(answers: dict[str, Any]) -> None:
    answers["pynvml"]["devices"][0]["mig"][0]["nvmlDeviceGetMemoryInfo"]["used"] = 30 * GIB


def amdsmi(answers: dict[str, Any]) -> None:
    answers["amdsmi"]["devices"][0]["amdsmi_get_gpu_vram_usage"]["vram_used"] = 20 * 1024


def amd_smi(answers: dict[str, Any]) -> None:
    used = {"used_vram": {"value": 150 * 1024, "unit": "MB"}}
    metric = {"gpu_data": [{"gpu": 0, "mem_usage": used}]}
    static = json.loads(answers["commands"]["amd-smi"])
    # The same program is asked twice; each question finds its own words in one answer.
    static["gpu_data"][0] |= metric["gpu_data"][0]
    answers["commands"]["amd-smi"] = json.dumps(static)


def kernel_files(answers: dict[str, Any]) -> None:
    answers["files"]["sys/bus/pci/devices/0000:05:00.0/mem_info_vram_used"] = f"{90 * GIB}\n"


SOURCES = {
    "rtx4090": (nvml_of_another_user, "3.5 of 23.5 GiB are free"),
    "nvml-library-missing": (nvidia_smi, "3.6 of 11.6 GiB are free"),
    "h100-mig": (slice_of_a_card, "9.2 of 39.2 GiB are free"),
    "rx7900xtx": (amdsmi, "4.0 of 24.0 GiB are free"),
    "amd-smi-only": (amd_smi, "41.7 of 191.7 GiB are free"),
    "missing-amdsmi": (kernel_files, "101.7 of 191.7 GiB are free"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_doctor_says_how_much_is_free_whichever_source_answers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = SOURCES[name]
    answers = recordings.load(name)
    change(answers)
    seen = recordings.observed(answers, tmp_path, monkeypatch)
    found = {f.id: f for f in doctor.diagnose(*seen, recorded({})).findings}
    assert found["device.free"].fact == words
    vendor = seen[2].vendor
    assert found[f"{vendor}.shared"].status == "warn" and found[f"{vendor}.shared"].fix


def test_a_card_of_a_source_that_knows_only_the_whole_card_says_nothing_of_a_slice() -> None:
    whole = Gpu("cuda", 0, "H100", Arch("sm", "sm_90"), "nvidia-smi", 80 * GIB, used_bytes=70 * GIB)
    part = torch_cuda(0, whole, 40 * GIB)
    assert part.free is None and part.room_bytes == 40 * GIB


def test_the_larger_of_the_driver_s_figure_and_the_listed_processes_counts() -> None:
    card = Gpu("cuda", 0, "x", Arch("sm", "sm_89"), "nvml", 24 * GIB, used_bytes=GIB)
    assert card.occupied_bytes == GIB
    assert replace(card, other_processes_bytes=3 * GIB).occupied_bytes == 3 * GIB
    assert replace(card, own_bytes=GIB // 2).occupied_bytes == GIB // 2
    assert replace(card, used_bytes=None).occupied_bytes is None


def test_what_the_run_s_own_processes_hold_is_not_counted_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = recordings.load("rtx4090")
    nvml_of_another_user(answers)
    mine = [{"pid": os.getpid(), "usedGpuMemory": 15 * GIB}, {"pid": 1, "usedGpuMemory": 5 * GIB}]
    answers["pynvml"]["devices"][0]["nvmlDeviceGetComputeRunningProcesses"] = mine
    device = recordings.observed(answers, tmp_path, monkeypatch)[2].weakest
    assert device.free == "18.5 of 23.5 GiB are free"


def test_the_processes_of_a_run_are_the_asker_what_it_started_and_those_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = {100: 1, 200: 100, 201: 100, 300: 200, 301: 201, 400: 1}
    for number, parent in parents.items():
        folder = tmp_path / "proc" / str(number)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{number} (python (sd3) x) S {parent} {number} 0")
    (tmp_path / "proc" / "500").mkdir()  # it has ended meanwhile
    for name in own_processes.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert own_processes.numbers(200, tmp_path) == {200, 300, os.getpid()}
    monkeypatch.setenv("RANK", "1")
    assert own_processes.numbers(200, tmp_path) == {100, 200, 201, 300, 301, os.getpid()}


def occupied(free: int, chip: str = "rtx4090") -> Facts:
    """A chip of the catalogue of which others leave `free` bytes."""
    facts = chips.facts(chips.chip(chip))
    device = facts.weakest
    total = device.total_bytes or 0
    device = replace(device, usable_bytes=free, occupied_bytes=total - free)
    return replace(facts, devices=(device,), origin="measured")


def planned(facts: Facts, **settings: Any) -> Plan:
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    model = find(plans.MEDIUM)
    return resolve(RunInputs(Config(**values), facts, model, plans.samples()))


def test_the_plan_judges_by_what_is_free_and_says_so() -> None:
    all_of_it, little = (planned(occupied(n * GIB)) for n in (24, 6))
    assert little.batch_size < all_of_it.batch_size
    assert little.memory.estimate.training <= 6 * GIB
    (total,) = (line for line in overview_lines.device_memory(little) if "total  " in line)
    assert total.endswith("6.0 of 24.0 GiB are free")  # type: ignore[union-attr]


@pytest.mark.parametrize("free", [0, GIB])
def test_a_full_card_is_refused_with_what_is_free(free: int) -> None:
    with pytest.raises(PlanError, match=rf"{free / GIB:.1f} of 24\.0 GiB are free on NVIDIA"):
        planned(occupied(free))


def test_the_card_with_the_least_free_memory_decides_for_all() -> None:
    empty, full = occupied(24 * GIB).weakest, occupied(6 * GIB).weakest
    facts = replace(occupied(GIB), devices=(empty, replace(full, index=1)))
    assert planned(facts).memory.estimate.training <= 6 * GIB


def test_what_others_held_on_a_recorded_machine_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "rented.json"
    path.write_text(json.dumps({"facts": to_json(occupied(3 * GIB))}))
    device = recorded_machine.facts(path).weakest
    assert device.room_bytes == device.total_bytes and device.free is None


def test_each_process_of_a_run_looks_at_the_memory_of_its_own_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside others' programs on the second card; all processes must make the same plan."""
    empty, full = occupied(24 * GIB).weakest, occupied(6 * GIB).weakest
    full = replace(full, index=1, torch_device="cuda:1")
    facts = replace(occupied(GIB), devices=(empty, full))
    assert [d.room_bytes for d in facts.unoccupied.devices] == [empty.total_bytes] * 2
    pair = Processes(size=2, local_size=2)
    said = "6.0 of 24.0 GiB are free on cuda:1"
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(HardwareError, match=said):  # before the processes start
        devices.refuse_full(8 * GIB, facts, pair)
    monkeypatch.setenv("WORLD_SIZE", "2")
    devices.refuse_full(8 * GIB, facts, pair)
    with pytest.raises(HardwareError, match=said):
        devices.refuse_full(8 * GIB, facts, replace(pair, rank=1, local_rank=1))
    devices.refuse_full(6 * GIB, facts, replace(pair, rank=1, local_rank=1))


def test_a_card_that_others_filled_on_that_day_is_no_warning_of_a_recorded_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = recordings.facts_of("mi300x-other-users", tmp_path, monkeypatch)
    path = tmp_path / "there.json"
    path.write_text(json.dumps({"facts": to_json(facts)}))
    assert [p.id for p in facts.problems] == ["device.fuller"]
    assert not recorded_machine.facts(path).problems
    with pytest.raises(ConfigError) as doctor_takes_chips:
        doctor.consult(str(path))
    assert "sd3tune plan --on" in doctor_takes_chips.value.hint
