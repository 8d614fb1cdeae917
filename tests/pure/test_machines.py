"""Recorded machines through the whole observing code, from the vendor's answer to Facts."""

import json
from pathlib import Path

import pytest

from sd3tune import devices
from sd3tune.backends.observe.facts import Facts, from_json, to_json
from sd3tune.doctor import hardware
from sd3tune.errors import HardwareError
from sd3tune.processes.environment import ALONE
from tests.fakes import amd
from tests.recordings import facts_of, load, machine_of, names, observed

GIB = 2**30


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    return lambda name: facts_of(name, tmp_path, monkeypatch)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    return lambda name: machine_of(name, tmp_path, monkeypatch)


def problems(facts: Facts) -> dict[str, str]:
    return {p.id: p.severity for p in facts.problems}


def test_a_driver_too_old_on_a_rented_machine_names_the_platforms_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixes = {}
    for variable in ("RUNPOD_POD_ID", "VAST_CONTAINERLABEL", "OTHER"):
        with monkeypatch.context() as here:
            here.setenv(variable, "1")
            found = facts_of("driver-too-old", tmp_path / variable, here)
        (fixes[variable],) = [p.fix for p in found.problems if p.id == "torch.driver-too-old"]
    assert fixes["RUNPOD_POD_ID"].startswith("rent another machine: `minCudaVersion` 13.")
    assert fixes["VAST_CONTAINERLABEL"].startswith("rent another machine: `cuda_max_good>=13.")
    assert fixes["OTHER"].startswith("update the driver, or: SD3TUNE_TORCH=")


@pytest.mark.parametrize("name", names())
def test_every_recording_says_where_it_comes_from_and_becomes_facts(name, facts) -> None:  # type: ignore[no-untyped-def]
    assert load(name)["provenance"]
    found = facts(name)
    assert found.devices, "training always has a device, or the CPU with the problem attached"
    assert from_json(Facts, to_json(found)) == found
    assert all(p.fix and p.message for p in found.problems)


@pytest.mark.parametrize("name", [n for n in names() if load(n)["torch"]["version"]])
def test_plan_and_train_refuse_what_doctor_fails_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, torch, facts = observed(load(name), tmp_path, monkeypatch)
    findings = [*hardware.torch(torch, facts, device=True), *hardware.accelerators(machine, facts)]
    failed = {f.fact for f in findings if f.status == "FAIL"}
    try:
        devices.usable(torch, facts, ALONE)
        refused = set[str]()
    except HardwareError as e:
        refused = {problem.message for problem in e.problems}
    assert refused == failed


@pytest.mark.parametrize(
    "name, vendor, arch, gib",
    [
        ("h100", "cuda", "sm_90", 79.1),
        ("rtx4090", "cuda", "sm_89", 23.5),
        ("t4", "cuda", "sm_75", 14.6),
        ("h100-mig", "cuda", "sm_90", 39.2),
        ("mi300x-spx", "rocm", "gfx942", 191.7),
        ("mi300x-cpx", "rocm", "gfx942", 24.0),
        ("rx7900xtx", "rocm", "gfx1100", 24.0),
        ("amd-smi-only", "rocm", "gfx942", 191.7),
        ("nvml-library-missing", "cuda", "sm_86", 11.6),
        ("proc-only", "cuda", "sm_89", 22.0),
        ("missing-amdsmi", "rocm", "gfx942", 191.7),
        ("m1", "mps", "m1", 16.0),
        ("m3-max", "mps", "m3-max", 128.0),
        ("cpu-only", "cpu", "x86_64", 23.5),
    ],
)
def test_vendor_arch_and_memory(name, vendor, arch, gib, facts) -> None:  # type: ignore[no-untyped-def]
    found = facts(name)
    device = found.weakest
    assert (found.vendor, device.arch.name) == (vendor, arch)
    assert device.total_bytes / GIB == pytest.approx(gib, abs=0.06)


def test_nvml_tells_health_power_links_and_ecc(machine) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = machine("h100").survey("cuda").gpus
    assert gpu.source == "nvml" and gpu.links == 18 and gpu.ecc_uncorrected == 0
    assert gpu.power_limit_watts == gpu.power_default_watts == 700
    assert gpu.temperature_celsius == 41 and gpu.bus_id == "0000:18:00.0" and gpu.throttle == ()


def test_other_processes_shrink_what_a_run_may_use(facts) -> None:  # type: ignore[no-untyped-def]
    device = facts("rtx4090").weakest
    assert device.total_bytes - device.usable_bytes == 3 * GIB


def test_a_slice_is_found_by_its_uuid_and_has_its_own_memory(facts) -> None:  # type: ignore[no-untyped-def]
    device = facts("h100-mig").weakest
    assert device.uuid.startswith("MIG-2c3d") and device.name.endswith("3g.40gb")


def test_unset_visibility_shows_every_slice(machine) -> None:  # type: ignore[no-untyped-def]
    gpus = machine("h100-mig").survey("cuda").gpus
    assert [g.mig for g in gpus] == [True, True] and gpus[0].total_bytes != gpus[1].total_bytes


def test_a_uuid_prefix_maps_torch_s_first_device_to_the_second_card(facts) -> None:  # type: ignore[no-untyped-def]
    (device,) = facts("two-gpus-one-visible").devices
    assert (device.index, device.physical_index) == (0, 1)
    assert not facts("two-gpus-one-visible").problems


def test_memory_of_other_users_is_taken_off_each_card(facts) -> None:  # type: ignore[no-untyped-def]
    free = [d.free for d in facts("mi300x-other-users").devices]
    assert free == ["3.7 of 191.7 GiB are free", "191.4 of 191.7 GiB are free"]


def test_a_card_that_others_fill_beside_an_empty_one_is_a_warning(facts) -> None:  # type: ignore[no-untyped-def]
    (problem,) = facts("mi300x-other-users").problems
    assert problem.severity == "warn" and "3.7 of 191.7 GiB are free; of cuda:1" in problem.message
    assert problem.fix.endswith("trains there") and "VISIBLE_DEVICES=" in problem.fix


@pytest.mark.parametrize(
    "name, cards",
    [
        ("two-gpus-one-visible", ["1 0000:0a:00.0 GPU-bbbbbbbb-0000-4000-8000-000000000002"]),
        ("rocr-visible-uuid", ["1 0000:26:00.0 GPU-1b2c3d4e5f607182"]),
        (
            "unlike-cards-fastest-first",
            [
                "1 0000:41:00.0 GPU-0a9d7c55-1e2f-4a3b-8c4d-5e6f70819203",
                "0 0000:01:00.0 GPU-2080c0de-1e2f-4a3b-8c4d-5e6f70819204",
            ],
        ),
        (
            "mi300x-cpx-all",
            [f"{i} 0000:05:00.{i} GPU-9fa599fd0d5e1f2{i}" for i in range(8)],
        ),
    ],
)
def test_each_device_of_torch_is_the_card_it_is(name: str, cards: list[str], facts) -> None:  # type: ignore[no-untyped-def]
    found = facts(name)
    assert [f"{d.physical_index} {d.bus_id} {d.uuid}" for d in found.devices] == cards
    assert not found.problems


def test_hip_numbers_what_is_left_and_na_is_not_a_number(machine, facts) -> None:  # type: ignore[no-untyped-def]
    gpus = machine("mi300x-cpx").survey("rocm").gpus
    assert len(gpus) == 8 and gpus[0].compute_partition == "CPX"
    assert gpus[0].power_limit_watts is None
    assert [d.physical_index for d in facts("mi300x-cpx").devices] == [2, 3]


def test_amdsmi_tells_partitions_links_and_throttling(machine) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = machine("mi300x-spx").survey("rocm").gpus
    assert (gpu.source, gpu.compute_partition, gpu.memory_partition) == ("amdsmi", "SPX", "NPS1")
    assert gpu.links == 7 and gpu.power_limit_watts == 750 and gpu.pcie_generation == 5
    assert gpu.throttle == () and gpu.used_bytes == 283 * 2**20


@pytest.mark.parametrize(
    "name, source, problem",
    [
        ("nvml-library-missing", "nvidia-smi", "nvidia.library-not-found"),
        ("proc-only", "/proc/driver/nvidia", "nvidia.nvml-missing"),
        ("missing-amdsmi", "/sys/class/kfd", "amd.amdsmi-missing"),
        ("amdsmi-raises-keyerror", "/sys/class/kfd", "amd.amdsmi-broken"),
        ("amdsmi-raises-undefined-symbol", "/sys/class/kfd", "amd.amdsmi-broken"),
        ("amd-smi-only", "amd-smi", "amd.amdsmi-missing"),
    ],
)
def test_the_next_source_answers_and_the_finding_says_why(name, source, problem, machine) -> None:  # type: ignore[no-untyped-def]
    (survey,) = (s for s in machine(name).surveys if s.gpus)
    assert survey.source == source and survey.gpus[0].source == source
    assert [p.id for p in survey.problems if p.id == problem]


@pytest.mark.parametrize(
    "name, problem",
    [
        ("broken-nvml", "nvidia.version-mismatch"),
        ("driver-not-loaded", "nvidia.driver-not-loaded"),
        ("nvml-unknown-error", "nvidia.unknown-error"),
        ("amdsmi-driver-not-loaded", "amd.driver-not-loaded"),
        ("torch-cpu-beside-card", "torch.cpu-build-beside-gpu"),
        ("cuda-torch-on-amd", "torch.wrong-vendor-build"),
        ("amdsmi-hides-devices", "amdsmi.hides-devices"),
        ("driver-too-old", "torch.driver-too-old"),
        ("v100-new-wheel", "torch.arch-not-in-build"),
        ("rosetta", "mps.rosetta"),
        ("m1-old-macos", "mps.macos-too-old"),
        ("m1-macos-13", "mps.macos-too-old"),
        ("m4-no-metal", "mps.unavailable"),
        ("m3-max-watermark", "mps.watermark-low"),
        ("cuda-visible-empty", "nvidia.visible-none"),
        ("cuda-visible-not-there", "nvidia.visible-none"),
        ("nvidia-module-not-loaded", "nvidia.module-not-loaded"),
        ("rocm-wsl2", "amd.device-unknown"),
        ("one-of-two-lost", "nvidia.gpu-lost"),
        ("h100-fabric-down", "nvidia.fabric-down"),
        ("t4-prohibited", "cuda.compute-mode"),
        ("rx6700xt-no-kernels", "torch.arch-not-in-build"),
        ("mig-beside-whole", "nvidia.mig-hides"),
        ("more-gpus-than-torch", "torch.fewer-devices"),
    ],
)
def test_a_card_that_cannot_train_is_a_failure_never_a_silent_cpu(name, problem, facts) -> None:  # type: ignore[no-untyped-def]
    found = facts(name)
    assert problems(found).get(problem) == "fail"


def test_the_cpu_may_be_asked_for_beside_a_broken_card(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from sd3tune.backends.observe import this_machine
    from sd3tune.backends.observe.torch_report import from_answer

    recorded = load("torch-cpu-beside-card")
    seen = machine_of("torch-cpu-beside-card", tmp_path, monkeypatch)
    asked = {"SD3TUNE_BACKEND": "cpu"}
    found = this_machine.join(seen, from_answer(recorded["torch"]), {}, {}, asked)
    assert found.vendor == "cpu" and not found.problems


def test_the_cgroup_s_limit_is_the_memory_and_its_quota_the_cores(machine, facts) -> None:  # type: ignore[no-untyped-def]
    assert facts("cpu-in-small-container").weakest.usable_bytes == 4 * GIB
    host = machine("cpu-in-small-container").host
    assert host.container == "docker" and host.cpu_count == 1


def test_a_mac_is_named_with_cores_memory_and_version(machine, facts) -> None:  # type: ignore[no-untyped-def]
    survey = machine("m3-max").survey("mps")
    assert survey.gpus[0].gpu_cores == 40 and survey.runtime == "15.3"
    assert facts("m1").weakest.usable_bytes == 11453251584


def test_hip_and_cuda_visibility_that_differ_are_refused(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from sd3tune.backends import rocm
    from sd3tune.backends.observe.torch_report import from_answer

    seen = machine_of("mi300x-spx", tmp_path, monkeypatch)
    torch = from_answer(load("mi300x-spx")["torch"])
    environ = {"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}
    assert "amd.visible-conflict" in problems(rocm.facts(seen, torch, {}, {}, environ))


def test_recorded_amd_dictionaries_have_the_binding_s_keys() -> None:
    for name in names():
        for device in load(name).get("amdsmi", {}).get("devices", []):
            for function, answer in device.items():
                assert function in amd.CONTRACT["functions"], function
                if isinstance(answer, dict) and "raises" not in answer:
                    assert set(answer) <= set(amd.CONTRACT["functions"][function]), function


def test_recorded_torch_reports_have_the_report_s_fields() -> None:
    for name in names():
        text = json.dumps(load(name)["torch"])
        assert "version" in text and "devices" in text


@pytest.mark.parametrize(
    "value, left",
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0,7,1", [0]),  # the first word that fits nothing ends the list
        ("1,1", []),  # twice: nothing, as the runtime does
        ("GPU-b", [1]),
        ("GPU-", []),  # fits several
        ("GPU-c,0", [2, 0]),
    ],
)
def test_visibility_is_read_as_the_runtimes_read_it(value: str | None, left: list[int]) -> None:
    from sd3tune.backends.observe.facts import Arch, Gpu
    from sd3tune.backends.observe.visible_devices import select

    uuids = ("GPU-a1", "GPU-b2", "GPU-c3")
    cards = tuple(
        Gpu("cuda", i, "card", Arch("sm", "sm_90"), "nvml", uuid=u) for i, u in enumerate(uuids)
    )
    selected = select("CUDA_VISIBLE_DEVICES", value, cards)
    assert [g.index for g in selected.cards] == left
