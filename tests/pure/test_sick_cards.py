"""Cards that are there and cannot train: lost, owned by others, not connected, without kernels."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd3tune import devices
from sd3tune.backends.observe.card_faults import of_card
from sd3tune.backends.observe.card_health import smi_lost
from sd3tune.backends.observe.facts import Arch, Facts, Gpu, Machine, TorchReport
from sd3tune.doctor import hardware
from sd3tune.errors import HardwareError
from sd3tune.escaping import sentence
from sd3tune.processes.environment import ALONE, Processes
from tests import recordings

Change = Callable[[dict[str, Any]], None]
Watch = Callable[..., tuple[Machine, TorchReport, Facts]]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    def look(name: str, change: Change = lambda recorded: None) -> Any:
        recorded = recordings.load(name)
        change(recorded)
        return recordings.observed(recorded, tmp_path, monkeypatch)

    return look


def refused(facts: Facts) -> list[str]:
    with pytest.raises(HardwareError) as e:
        devices.refuse_broken(facts)
    return [problem.message for problem in e.value.problems]


def statuses(machine: Machine, torch: TorchReport, facts: Facts) -> set[str]:
    findings = [*hardware.torch(torch, facts, device=True), *hardware.accelerators(machine, facts)]
    return {f.status for f in findings}


@pytest.mark.parametrize("code, words", [(15, "GPU is lost"), (16, "GPU requires restart")])
@pytest.mark.parametrize("where", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_a_card_that_is_lost_is_a_failure_for_doctor_plan_and_train(
    code: int, words: str, where: str, watch: Watch
) -> None:
    def lose(recorded: dict[str, Any]) -> None:
        recorded["pynvml"]["devices"][0][where] = {"raises": code}

    seen = watch("more-gpus-than-torch", lose)
    (message,) = refused(seen[2])
    assert message.startswith("card 0 (NVIDIA") and message.endswith(f"does not answer: {words}")
    assert "FAIL" in statuses(*seen)


def test_an_unknown_error_of_everything_is_a_lost_card_and_of_one_question_is_not(
    watch: Watch,
) -> None:
    def ask(name: str) -> Change:
        return lambda r: r["pynvml"]["devices"][0].update({name: {"raises": 999}})

    assert "Unknown Error" in refused(watch("h100", ask("nvmlDeviceGetMemoryInfo"))[2])[0]
    assert not watch("h100", ask("nvmlDeviceGetComputeMode"))[2].problems


def test_a_lost_card_that_a_variable_leaves_out_refuses_nobody(watch: Watch) -> None:
    """The cure that the failure names."""
    *_, lost = watch("one-of-two-lost")
    uuid = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
    assert lost.problems[0].fix.endswith(f"; CUDA_VISIBLE_DEVICES={uuid} trains without it")
    found = watch("one-of-two-lost", lambda r: r["environ"].update(CUDA_VISIBLE_DEVICES="GPU-bbbb"))
    _, torch, facts = found
    assert devices.usable(torch, facts, ALONE).weakest.physical_index == 1
    assert statuses(*found) >= {"warn"} and "FAIL" not in statuses(*found)


def test_a_card_that_belongs_to_another_job_is_not_lost(watch: Watch) -> None:
    def close(recorded: dict[str, Any]) -> None:
        recorded["pynvml"]["devices"][0]["nvmlDeviceGetHandleByIndex"] = {"raises": 4}

    *_, facts = watch("more-gpus-than-torch", close)
    assert not facts.problems and facts.weakest.physical_index == 1


def test_one_amd_card_of_several_that_answers_nothing_is_a_failure(watch: Watch) -> None:
    def lose(recorded: dict[str, Any]) -> None:
        card = recorded["amdsmi"]["devices"][0]
        recorded["environ"] = {}
        for name in ("amdsmi_get_gpu_asic_info", "amdsmi_get_gpu_memory_total"):
            card[name] = {"raises": 12}

    (message,) = refused(watch("rocr-visible-uuid", lose)[2])
    assert message.startswith("card 0 (AMD GPU") and "does not answer: Error code: 12" in message


def test_nvidia_smi_writes_what_is_lost_into_its_cells() -> None:
    assert smi_lost({"index": "0", "name": "NVIDIA A100", "memory.total": "[GPU is lost]"})
    assert smi_lost({"index": "0", "name": "NVIDIA A100", "power.limit": "[GPU requires reset]"})
    assert smi_lost({"index": "0", "name": "[Unknown Error]", "power.limit": "300"})
    # The power of some laptops is unknown, and they train.
    assert smi_lost({"index": "0", "name": "NVIDIA RTX", "power.limit": "[Unknown Error]"}) is None


def test_a_card_whose_compute_mode_is_prohibited_is_refused(watch: Watch) -> None:
    *_, facts = watch("t4-prohibited")
    assert "is PROHIBITED: no program may use it" in refused(facts)[0]
    assert facts.problems[0].fix == "sudo nvidia-smi -i 0 -c 0"


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"nvmlDeviceGetMemoryInfo": {"raises": 15}}, "nvidia.gpu-lost"),
        ({"nvmlDeviceGetComputeMode": 2}, "cuda.compute-mode"),
        ({"nvmlDeviceGetGpuFabricInfoV": {"state": 1, "status": 0}}, "nvidia.fabric-down"),
    ],
)
def test_a_sick_card_is_told_beside_a_build_for_the_cpu(
    change: dict[str, Any], problem: str, watch: Watch
) -> None:
    *_, facts = watch("torch-cpu-beside-card", lambda r: r["pynvml"]["devices"][0].update(change))
    failed = [p.id for p in facts.problems if p.severity == "fail"]
    assert failed == ["torch.cpu-build-beside-gpu", problem]


def test_an_exclusive_card_is_refused_only_when_somebody_uses_it(watch: Watch) -> None:
    def exclusive(recorded: dict[str, Any]) -> None:
        recorded["pynvml"]["devices"][0]["nvmlDeviceGetComputeMode"] = 3

    def idle(recorded: dict[str, Any]) -> None:
        exclusive(recorded)
        recorded["pynvml"]["devices"][0]["nvmlDeviceGetComputeRunningProcesses"] = []

    assert "and another process uses it" in refused(watch("rtx4090", exclusive)[2])[0]
    seen = watch("rtx4090", idle)
    devices.refuse_broken(seen[2])
    assert "FAIL" not in statuses(*seen)


@pytest.mark.parametrize("state, words", [(1, "not started"), (2, "in progress")])
def test_a_fabric_that_is_not_up_is_one_failure_for_all_cards(
    state: int, words: str, watch: Watch
) -> None:
    def set_state(recorded: dict[str, Any]) -> None:
        for card in recorded["pynvml"]["devices"]:
            card["nvmlDeviceGetGpuFabricInfoV"] = {"state": state, "status": 0}

    (message,) = refused(watch("h100-fabric-down", set_state)[2])
    assert message.startswith(f"the NVSwitch fabric is {words} for 2 of 2 cards")


def test_a_fabric_that_ended_with_an_error_is_not_up(watch: Watch) -> None:
    def fail(recorded: dict[str, Any]) -> None:
        for card in recorded["pynvml"]["devices"]:
            card["nvmlDeviceGetGpuFabricInfoV"] = {"state": 3, "status": 999}

    (message,) = refused(watch("h100-fabric-down", fail)[2])
    assert message.startswith("the NVSwitch fabric is failed: Unknown Error for 2 of 2 cards")


def test_error_802_alone_names_the_fabric_manager(watch: Watch) -> None:
    """A100 systems, whose NVML does not tell the state."""

    def silent(recorded: dict[str, Any]) -> None:
        del recorded["libcuda"]
        for card in recorded["pynvml"]["devices"]:
            del card["nvmlDeviceGetGpuFabricInfoV"]

    *_, facts = watch("h100-fabric-down", silent)
    assert "Error 802: system not yet initialized" in refused(facts)[0]
    assert facts.problems[0].fix.startswith("start the fabric manager")


def test_one_cause_that_several_sources_tell_is_one_failure(watch: Watch) -> None:
    *_, facts = watch("driver-updated-not-rebooted")
    assert refused(facts) == ["NVML and the kernel driver are of different versions"]
    words = [p.message for p in facts.problems if p.severity == "warn"]
    assert "libcuda.so.1 and the kernel driver are of different versions" in words


def test_kernels_of_another_vendor_say_nothing_about_a_card(watch: Watch) -> None:
    (problem,) = watch("cuda-torch-on-amd")[2].problems
    assert problem.id == "torch.wrong-vendor-build"


def test_links_that_are_down_are_a_warning_of_doctor_and_plan(watch: Watch) -> None:
    def cut(recorded: dict[str, Any]) -> None:
        card = recorded["pynvml"]["devices"][0]
        card["nvmlDeviceGetGpuFabricInfoV"] = {"state": 3, "status": 0}
        card["nvmlDeviceGetNvLinkState"] = [1] * 16 + [0, 0]

    *_, facts = watch("h100", cut)
    (problem,) = facts.problems
    assert (problem.id, problem.severity) == ("nvidia.links-down", "warn")
    assert problem.message.startswith("16 of 18 NVLink links are up on card 0 (NVIDIA H100")


@pytest.mark.parametrize(
    "arch, built, runs",
    [
        ("sm_89", ["sm_75", "sm_80", "sm_86", "sm_90"], True),  # a later minor of sm_86
        ("sm_86", ["sm_89"], False),
        ("sm_70", ["sm_75", "sm_80"], False),
        ("sm_120", ["sm_80", "sm_90"], False),
        ("sm_121", ["sm_90", "sm_120"], True),
        ("sm_120", ["sm_90", "compute_90"], True),  # PTX is compiled for later chips
        ("sm_80", ["sm_90", "compute_90"], False),
        ("sm_103", ["sm_100f"], True),  # of one family
        ("sm_103", ["sm_100a"], False),  # of one chip
        ("gfx1031", ["gfx1030", "gfx1100"], False),
        ("gfx90a", ["gfx90a:xnack-"], True),
        ("gfx1151", ["gfx11-generic"], True),
        ("gfx1036", ["gfx10-3-generic"], True),
        ("gfx1201", ["gfx11-generic"], False),
        ("unknown", ["sm_80"], True),  # nobody knows: nothing is claimed
        ("sm_70", [], True),
    ],
)
def test_which_chips_run_what_a_build_was_compiled_for(
    arch: str, built: list[str], runs: bool
) -> None:
    chip = Arch("gfx" if arch.startswith("gfx") else "sm", arch)
    card = Gpu("rocm" if chip.family == "gfx" else "cuda", 0, "card", chip, "nvml")
    found = of_card(card, chip, TorchReport(version="2.13.0", arch_list=tuple(built)))
    assert [p.id for p in found] == ([] if runs else ["torch.arch-not-in-build"])


@pytest.mark.parametrize(
    "arch, built, fix",
    [
        ("gfx1031", ["gfx1030", "gfx1100"], "export HSA_OVERRIDE_GFX_VERSION=10.3.0"),
        ("gfx1103", ["gfx1030", "gfx1100"], "export HSA_OVERRIDE_GFX_VERSION=11.0.0"),
        ("gfx803", ["gfx906"], "--index-url https://download.pytorch.org/whl/rocm7.2"),
    ],
)
def test_the_cure_for_missing_kernels_fits_the_amd_chip(
    arch: str, built: list[str], fix: str
) -> None:
    chip = Arch("gfx", arch)
    card = Gpu("rocm", 0, "card", chip, "amdsmi")
    (problem,) = of_card(card, chip, TorchReport(version="2.13.0", arch_list=tuple(built)))
    assert fix in problem.fix
    newest = TorchReport(version="2.13.0", hip="7.2.53211", arch_list=tuple(built))
    (again,) = of_card(card, chip, newest)  # the same build again would have no more kernels
    assert "SD3TUNE_TORCH" not in again.fix


def test_the_cure_for_missing_kernels_is_a_build_that_the_driver_runs(watch: Watch) -> None:
    (problem,) = watch("v100-new-wheel")[2].problems
    assert "--index-url https://download.pytorch.org/whl/cu126" in problem.fix


def test_a_first_card_that_cannot_train_names_the_variable_that_leaves_it_out(
    watch: Watch,
) -> None:
    """The processor's graphics are HIP's first device on some desktops."""

    def put_first(recorded: dict[str, Any]) -> None:
        card = recorded["amdsmi"]["devices"][0]
        small = copy.deepcopy(card)
        small["amdsmi_get_gpu_asic_info"]["target_graphics_version"] = "gfx1036"
        small["amdsmi_get_gpu_device_bdf"] = "0000:12:00.0"
        recorded["amdsmi"]["devices"] = [small, card]
        (device,) = recorded["torch"]["devices"]
        graphics = device | {"gfx": "gfx1036", "bus_id": "0000:12:00.0", "name": "AMD Graphics"}
        recorded["torch"]["devices"] = [graphics, device | {"index": 1}]

    *_, facts = watch("rx7900xtx", put_first)
    (problem,) = facts.problems
    assert problem.id == "torch.arch-not-in-build" and problem.severity == "fail"
    assert problem.fix.endswith("; or train on cuda:1, Radeon RX 7900 XTX: HIP_VISIBLE_DEVICES=1")


def test_a_chip_without_kernels_that_torch_does_not_show_is_a_warning(watch: Watch) -> None:
    def age(recorded: dict[str, Any]) -> None:
        recorded["torch"]["devices"] = recorded["torch"]["devices"][:1]
        recorded["pynvml"]["devices"][0]["nvmlDeviceGetCudaComputeCapability"] = [3, 5]

    *_, facts = watch("unlike-cards-fastest-first", age)
    assert [(p.id, p.severity) for p in facts.problems] == [("torch.arch-not-in-build", "warn")]


def test_a_second_card_without_kernels_refuses_only_a_run_that_uses_it(watch: Watch) -> None:
    def age(recorded: dict[str, Any]) -> None:
        recorded["torch"]["devices"][1]["capability"] = [6, 1]

    machine, torch, facts = watch("unlike-cards-fastest-first", age)
    assert devices.usable(torch, facts, ALONE).weakest.name == "NVIDIA GeForce RTX 4090"
    assert "FAIL" not in statuses(machine, torch, facts)
    with pytest.raises(HardwareError, match="no kernels for sm_61"):
        devices.usable(torch, facts, Processes(size=2, local_size=2))


def test_a_uuid_that_hip_gives_to_all_is_not_offered_for_a_variable(watch: Watch) -> None:
    def two(recorded: dict[str, Any]) -> None:
        first, device = recorded["amdsmi"]["devices"][0], recorded["torch"]["devices"][0]
        first["amdsmi_get_gpu_asic_info"]["asic_serial"] = "0x0"
        first["amdsmi_get_gpu_enumeration_info"] = {"hip_id": 0, "hip_uuid": "GPU-XX"}
        lost = {name: {"raises": 1} for name in first}
        recorded["amdsmi"]["devices"] = [first, lost]
        recorded["torch"]["devices"] = [device]

    *_, facts = watch("rx7900xtx", two)
    (failed,) = [p for p in facts.problems if p.severity == "fail"]
    assert failed.id == "amd.gpu-lost" and "ROCR_VISIBLE_DEVICES" not in failed.fix
    assert "GPU-XX" not in repr(facts)


def test_a_card_of_another_container_is_not_a_lost_one(watch: Watch) -> None:
    def close(recorded: dict[str, Any]) -> None:
        card = recorded["amdsmi"]["devices"][0]
        recorded["amdsmi"]["devices"].insert(0, {name: {"raises": 10} for name in card})

    *_, facts = watch("mi300x-spx", close)
    assert not [p for p in facts.problems if p.severity == "fail"]
    assert [d.bus_id for d in facts.devices] == ["0000:05:00.0"]


def test_the_uuids_of_seven_healthy_cards_can_be_copied_from_the_hint(watch: Watch) -> None:
    def lose_one_of_eight(recorded: dict[str, Any]) -> None:
        card = recorded["pynvml"]["devices"][0]
        uuids = [f"GPU-{i}f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11" for i in range(8)]
        recorded["pynvml"]["devices"] = [card | {"nvmlDeviceGetUUID": uuid} for uuid in uuids]
        recorded["pynvml"]["devices"][5] = {"nvmlDeviceGetHandleByIndex": {"raises": 15}}

    *_, facts = watch("h100", lose_one_of_eight)
    (lost,) = [p for p in facts.problems if p.id == "nvidia.gpu-lost"]
    (list_of_uuids,) = re.findall(r"CUDA_VISIBLE_DEVICES=(\S+)", sentence(lost.fix))
    assert len(list_of_uuids.split(",")) == 7 and "…" not in list_of_uuids
