"""Variables that hide, number and order cards: which card a run uses, and when nobody may train."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sd3tune import devices
from sd3tune.backends.observe.facts import Facts
from sd3tune.doctor.hardware import accelerators
from sd3tune.errors import HardwareError
from sd3tune.processes.environment import ALONE, Processes
from tests import recordings

Seen = Callable[..., Facts]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Facts of a recorded machine under other variables; shows: the cards (by their place in the
    recording of torch) that torch shows there."""

    def look(name: str, shows: tuple[int, ...] | None = (), **environ: str) -> Facts:
        recorded = recordings.load(name)
        recorded["environ"] = environ
        if shows is not None:
            devices = recorded["torch"]["devices"]
            recorded["torch"]["devices"] = [
                devices[place] | {"index": i} for i, place in enumerate(shows)
            ]
        return recordings.observed(recorded, tmp_path, monkeypatch)[2]

    return look


def failures(facts: Facts) -> dict[str, str]:
    return {p.id: p.message for p in facts.problems if p.severity == "fail"}


@pytest.mark.parametrize(
    ("value", "problem", "why"),
    [
        ("", "visible-none", "is set and empty, which hides every card"),
        ("-1", "visible-none", "a negative number (-1) ends the list"),
        ("none", "visible-none", "`none` is not a number or a UUID"),
        ("void", "visible-none", "`void` is not a number or a UUID"),
        ("all", "visible-none", "`all` is not a number or a UUID"),
        ("NoDevFiles", "visible-none", "`NoDevFiles` is not a number or a UUID"),
        ("2", "visible-none", "there is no card 2 (they are numbered 0 to 1)"),
        ("0,2", "visible-unknown", "leaves 1 of the cards that it names: there is no card 2"),
        ("0,-1,1", "visible-unknown", "a negative number (-1) ends the list"),
        ("0,,1", "visible-unknown", "an empty entry ends the list"),
        ("1,1", "visible-twice", "names card 1 (NVIDIA A100"),
        ("1,GPU-bbbb", "visible-twice", "names card 1 (NVIDIA A100"),
        ("GPU-", "visible-none", "`GPU-` fits 2 cards"),
        ("GPU-cccc", "visible-none", "no card here has the UUID GPU-cccc"),
        ("MIG-2c3d", "visible-none", "no card here has the UUID MIG-2c3d"),
        ("bbbbbbbb-0000", "visible-none", "lacks its beginning, GPU-"),
        ('"0"', "visible-none", "quotes"),
        ("0:1", "visible-none", "`0:1` is not a number"),
    ],
)
def test_a_variable_that_cannot_be_honoured_is_a_failure_with_its_name_and_cure(
    value: str, problem: str, why: str, seen: Seen
) -> None:
    facts = seen("two-gpus-one-visible", CUDA_VISIBLE_DEVICES=value)
    (message,) = (failures(facts)[f"nvidia.{problem}"],)
    assert message.startswith("CUDA_VISIBLE_DEVICES") and why in message
    (fix,) = (p.fix for p in facts.problems if p.id == f"nvidia.{problem}")
    assert fix.startswith("unset CUDA_VISIBLE_DEVICES, or set it to 0,1")
    assert "PCI 0000:07:00.0" in fix and "PCI 0000:0a:00.0" in fix, "equal cards are told apart"
    with pytest.raises(HardwareError) as e:
        devices.refuse_broken(facts)
    assert message in [p.message for p in e.value.problems]


@pytest.mark.parametrize(
    ("value", "left"),
    [("0", [0]), ("1,0", [1, 0]), ("1,-1", [1]), ("0,", [0]), (" 1 ", [1]), ("GPU-BBBB", [1])],
)
def test_a_variable_that_can_be_honoured_has_no_fault(value: str, left: list[int]) -> None:
    from sd3tune.backends.observe.facts import Arch, Gpu
    from sd3tune.backends.observe.visible_devices import select

    uuids = ("GPU-aaaa1", "GPU-bbbb2")
    cards = [
        Gpu("cuda", i, "card", Arch("sm", "sm_90"), "nvml", uuid=u) for i, u in enumerate(uuids)
    ]
    selected = select("CUDA_VISIBLE_DEVICES", value, cards)
    assert [g.index for g in selected.cards] == left and not selected.faults


def test_the_cpu_may_be_asked_for_where_a_variable_hides_the_cards(seen: Seen) -> None:
    facts = seen("two-gpus-one-visible", CUDA_VISIBLE_DEVICES="", SD3TUNE_BACKEND="cpu")
    assert facts.vendor == "cpu" and not facts.problems


def test_the_variable_and_the_card_that_it_leaves_are_named(seen: Seen) -> None:
    (device,) = seen("two-gpus-one-visible", None, CUDA_VISIBLE_DEVICES="GPU-bbbb").devices
    assert device.torch_device == "cuda:0" and device.card == (
        "card 1 of the driver, PCI 0000:0a:00.0, GPU-bbbbbbbb-0000-4000-8000-000000000002; "
        "CUDA_VISIBLE_DEVICES=GPU-bbbb"
    )


def test_what_a_variable_leaves_is_told_with_both_numbers(seen: Seen) -> None:
    (note,) = seen("two-gpus-one-visible", None, CUDA_VISIBLE_DEVICES="1").notes
    assert note.message == (
        "CUDA_VISIBLE_DEVICES=1 leaves 1 of 2: cuda:0 is card 1 (NVIDIA A100-SXM4-80GB, PCI "
        "0000:0a:00.0, GPU-bbbbbbbb-0000-4000-8000-000000000002)"
    )
    (note,) = seen("rocr-visible-uuid", None, ROCR_VISIBLE_DEVICES="GPU-1b2c").notes
    assert note.message.startswith("ROCR_VISIBLE_DEVICES=GPU-1b2c leaves 1 of 2: cuda:0 is card 1")


def test_a_container_that_was_given_some_cards_numbers_them_from_0(seen: Seen) -> None:
    facts = seen("h100", CUDA_VISIBLE_DEVICES="3", NVIDIA_VISIBLE_DEVICES="3")
    assert failures(facts)["nvidia.visible-none"] == (
        "CUDA_VISIBLE_DEVICES=3 hides every card: there is no card 3 (the only one is 0); of "
        "NVIDIA_VISIBLE_DEVICES=3 this container has these cards, numbered from 0"
    )


@pytest.mark.parametrize("value", ["", "void", "none", "NONE"])
def test_a_container_that_was_given_no_card_says_so(value: str, seen: Seen) -> None:
    facts = seen("nvidia-module-not-loaded", NVIDIA_VISIBLE_DEVICES=value)
    (message,) = failures(facts).values()
    assert message.startswith("NVIDIA_VISIBLE_DEVICES is") and "hides every card" in message


def test_void_says_nothing_where_cards_were_passed_in(seen: Seen) -> None:
    assert not seen("h100", None, NVIDIA_VISIBLE_DEVICES="void").problems


@pytest.mark.parametrize(
    ("environ", "problem", "words"),
    [
        ({"HIP_VISIBLE_DEVICES": ""}, "visible-none", "HIP_VISIBLE_DEVICES is set and empty"),
        ({"HIP_VISIBLE_DEVICES": "2"}, "visible-none", "HIP_VISIBLE_DEVICES=2 hides every card"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "visible-none", "CUDA_VISIBLE_DEVICES=-1 hides"),
        ({"GPU_DEVICE_ORDINAL": "5"}, "visible-none", "GPU_DEVICE_ORDINAL=5 hides every card"),
        ({"ROCR_VISIBLE_DEVICES": "GPU-00ff"}, "visible-none", "ROCR_VISIBLE_DEVICES=GPU-00ff"),
        ({"ROCR_VISIBLE_DEVICES": "1,1"}, "visible-twice", "ROCR_VISIBLE_DEVICES=1,1 hides"),
        (
            {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"},
            "visible-none",
            "there is no card 1 (the only one is 0) (numbers count what ROCR_VISIBLE_DEVICES=1",
        ),
        (
            {"HIP_VISIBLE_DEVICES": "0", "GPU_DEVICE_ORDINAL": "1"},
            "visible-conflict",
            "HIP_VISIBLE_DEVICES=0 and GPU_DEVICE_ORDINAL=1 name different cards",
        ),
    ],
)
def test_variables_of_amd_that_hide_or_contradict_each_other_are_failures(
    environ: dict[str, str], problem: str, words: str, seen: Seen
) -> None:
    assert words in failures(seen("rocr-visible-uuid", **environ))[f"amd.{problem}"]


def test_variables_of_amd_that_say_the_same_in_other_words_agree(seen: Seen) -> None:
    same = {"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "GPU-1b2c3d4e5f607182"}
    facts = seen("rocr-visible-uuid", (0,), **same)
    assert not facts.problems and facts.devices[0].physical_index == 1


def test_numbers_of_hip_count_what_the_filter_leaves(seen: Seen) -> None:
    facts = seen("rocr-visible-uuid", (0,), ROCR_VISIBLE_DEVICES="1", HIP_VISIBLE_DEVICES="0")
    (device,) = facts.devices
    assert not facts.problems
    assert (device.physical_index, device.uuid) == (1, "GPU-1b2c3d4e5f607182")


def test_each_partition_is_a_device_of_its_own(seen: Seen) -> None:
    parts = seen("mi300x-cpx-all", None).devices
    assert [d.physical_index for d in parts] == list(range(8))
    assert len({d.uuid for d in parts}) == len({d.bus_id for d in parts}) == 8


def test_partitions_that_the_driver_lists_as_one_card_share_no_uuid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("mi300x-cpx-all")
    recorded["amdsmi"]["devices"] = recorded["amdsmi"]["devices"][:1]
    facts = recordings.observed(recorded, tmp_path, monkeypatch)[2]
    assert len({d.uuid for d in facts.devices}) == 8 and not facts.problems
    assert {d.physical_index for d in facts.devices} == {0}


def test_partitions_that_share_every_uuid_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("mi300x-cpx-all")
    for card, device in zip(
        recorded["amdsmi"]["devices"], recorded["torch"]["devices"], strict=True
    ):
        del card["amdsmi_get_gpu_enumeration_info"]
        device["uuid"] = None
    facts = recordings.observed(recorded, tmp_path, monkeypatch)[2]
    assert {d.uuid for d in facts.devices} == {None}
    assert [d.bus_id for d in facts.devices] == [f"0000:05:00.{i}" for i in range(8)]


@pytest.mark.parametrize("address", ["0000:18:00.0", None])
def test_a_slice_that_torch_gives_the_uuid_of_its_card_is_known_by_its_memory(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("h100-mig")
    recorded["environ"] = {}
    (device,) = recorded["torch"]["devices"]
    device |= {"uuid": "5f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11", "total_bytes": 10468982784}
    device["bus_id"] = address
    (found,) = recordings.observed(recorded, tmp_path, monkeypatch)[2].devices
    assert found.uuid is not None and found.uuid.startswith("MIG-9e8d7c6b")


def test_a_number_stands_for_the_first_slice_of_a_card(seen: Seen) -> None:
    (device,) = seen("h100-mig", None, CUDA_VISIBLE_DEVICES="0").devices
    assert device.uuid is not None and device.uuid.startswith("MIG-2c3d")
    gone = failures(seen("h100-mig", CUDA_VISIBLE_DEVICES="1"))["nvidia.visible-none"]
    assert "there is no card 1 (the only one is 0)" in gone
    (fix,) = (p.fix for p in seen("h100-mig", CUDA_VISIBLE_DEVICES="1").problems)
    assert fix.startswith("unset CUDA_VISIBLE_DEVICES, or set it to the UUID of one of these: MIG")


def test_the_uuid_of_a_card_that_is_cut_stands_for_its_first_slice(seen: Seen) -> None:
    (device,) = seen("h100-mig", None, CUDA_VISIBLE_DEVICES="GPU-5f1c").devices
    assert device.uuid is not None and device.uuid.startswith("MIG-2c3d")


def test_two_slices_cannot_be_had_and_one_is_used_without_a_failure(seen: Seen) -> None:
    both = "MIG-2c3d4e5f,MIG-9e8d7c6b"
    named = failures(seen("h100-mig", None, CUDA_VISIBLE_DEVICES=both))
    assert "CUDA shows a process one MIG slice" in named["nvidia.mig-hides"]
    unset = seen("h100-mig", None)
    assert [(p.id, p.severity) for p in unset.problems] == [("nvidia.mig-hides", "warn")]


def test_a_whole_card_beside_slices_is_not_left_unused_in_silence(seen: Seen) -> None:
    facts = seen("mig-beside-whole", None)
    assert "no whole card beside it" in failures(facts)["nvidia.mig-hides"]
    (fix,) = (p.fix for p in facts.problems)
    assert fix.startswith("set CUDA_VISIBLE_DEVICES to the UUID") and "GPU-6a2d3caf-1e5b" in fix
    assert not seen("mig-beside-whole", None, CUDA_VISIBLE_DEVICES="MIG-2c3d").problems


def test_under_the_order_of_the_user_cards_are_known_by_identity(seen: Seen) -> None:
    facts = seen("unlike-cards-fastest-first", (1,), CUDA_DEVICE_ORDER="FASTEST_FIRST",
                 CUDA_VISIBLE_DEVICES="1")  # fmt: skip
    (device,) = facts.devices
    assert (device.name, device.physical_index) == ("NVIDIA GeForce RTX 2080 Ti", 0)
    assert device.chosen_by == "CUDA_VISIBLE_DEVICES=1, CUDA_DEVICE_ORDER=FASTEST_FIRST"
    assert not facts.problems
    (note,) = facts.notes
    assert "may differ from those of nvidia-smi" in note.message


def test_without_torch_nobody_knows_which_card_is_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("unlike-cards-fastest-first")
    recorded["torch"] |= {"imported": False, "devices": []}
    facts = recordings.observed(recorded, tmp_path, monkeypatch)[2]
    assert [d.physical_index for d in facts.devices] == [None, None]


def test_of_two_unlike_cards_one_process_uses_the_first_and_several_the_weakest(
    seen: Seen,
) -> None:
    facts = seen("unlike-cards-fastest-first", None, CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert facts.of_processes(ALONE.local_size).weakest.name == "NVIDIA GeForce RTX 4090"
    assert facts.of_processes(2).weakest.name == "NVIDIA GeForce RTX 2080 Ti"


def test_a_device_that_no_source_knows_is_used_only_when_it_is_asked_for(seen: Seen) -> None:
    message = failures(seen("rocm-wsl2", None))["amd.device-unknown"]
    assert message.startswith("PyTorch shows cuda:0, Radeon RX 7900 XTX, and no driver source")
    asked = seen("rocm-wsl2", None, SD3TUNE_BACKEND="rocm")
    assert asked.vendor == "rocm" and not failures(asked)


@pytest.mark.parametrize(("name", "asked"), [("mi300x-spx", "cuda"), ("h100", "rocm")])
def test_devices_of_another_vendor_are_not_those_that_were_asked_for(
    name: str, asked: str, seen: Seen
) -> None:
    facts = seen(name, None, SD3TUNE_BACKEND=asked)
    assert failures(facts) == {
        "backend.no-device": f"SD3TUNE_BACKEND={asked}, and no such device is here"
    }


def test_a_uuid_that_no_source_can_check_is_not_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvidia-smi lists no slices, and the files of the kernel no UUIDs of AMD's cards."""
    recorded = recordings.load("h100-mig")
    card = "NVIDIA H100 80GB HBM3, GPU-5f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11, 00000000:18:00.0"
    rest = "580.95.05, 81559, 600, 9.0, 41, 700.00, 700.00, 0, 5, 5, 16, 16, Default, Enabled"
    recorded["commands"]["nvidia-smi"] = f"0, {card}, {rest}\n"
    recorded["pynvml"] = {"import": ["ModuleNotFoundError", "No module named 'pynvml'"]}
    facts = recordings.observed(recorded, tmp_path / "nvidia", monkeypatch)[2]
    assert not failures(facts) and facts.vendor == "cuda"
    recorded = recordings.load("missing-amdsmi")
    recorded["environ"] = {"ROCR_VISIBLE_DEVICES": "GPU-9fa599fd0d5e1f20"}
    facts = recordings.observed(recorded, tmp_path / "amd", monkeypatch)[2]
    assert not failures(facts) and facts.vendor == "rocm"


def test_processes_without_a_device_are_refused_with_the_variable_that_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("two-gpus-one-visible")
    _, torch, facts = recordings.observed(recorded, tmp_path, monkeypatch)
    with pytest.raises(HardwareError, match=r"1 devices .* \(CUDA_VISIBLE_DEVICES=GPU-bbbbbbbb\)"):
        devices.usable(torch, facts, Processes(size=2, local_size=2))


def test_more_processes_than_a_card_in_exclusive_mode_takes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("unlike-cards-fastest-first")
    recorded["pynvml"]["devices"][1]["nvmlDeviceGetComputeMode"] = 3
    _, torch, facts = recordings.observed(recorded, tmp_path, monkeypatch)
    assert devices.usable(torch, facts, ALONE).weakest.name == "NVIDIA GeForce RTX 4090"
    with pytest.raises(HardwareError, match=r"compute mode of cuda:0 .* is EXCLUSIVE_PROCESS") as e:
        devices.usable(torch, facts, Processes(size=2, local_size=2))
    assert e.value.hint == "sudo nvidia-smi -i 1 -c 0, or train with one process"


def test_a_driver_that_lists_no_card_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("h100")
    recorded["pynvml"]["devices"], recorded["torch"]["devices"] = [], []
    facts = recordings.observed(recorded, tmp_path / "nvidia", monkeypatch)[2]
    assert facts.vendor == "cpu" and "nvidia.no-card" in failures(facts)
    recorded = recordings.load("missing-amdsmi")
    recorded["files"] = {"dev/kfd": "", "dev/dri/renderD128": ""}
    recorded["torch"]["devices"] = []
    facts = recordings.observed(recorded, tmp_path / "amd", monkeypatch)[2]
    assert facts.vendor == "cpu" and "amd.no-card" in failures(facts)


def test_another_vendor_s_broken_card_does_not_refuse_the_one_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("h100")
    bus = "sys/bus/pci/devices/0000:c1:00.0"
    recorded["files"] |= {f"{bus}/vendor": "0x1002\n", f"{bus}/class": "0x038000\n"}
    machine, _, facts = recordings.observed(recorded, tmp_path, monkeypatch)
    assert not failures(facts)
    said = {f.id: f.status for f in accelerators(machine, facts)}
    assert said["amd.no-driver"] == "warn" and "FAIL" not in said.values()


def test_the_older_name_of_a_slice_is_left_to_cuda(seen: Seen) -> None:
    card = recordings.load("h100-mig")["pynvml"]["devices"][0]["nvmlDeviceGetUUID"]
    facts = seen("h100-mig", (0,), CUDA_VISIBLE_DEVICES=f"MIG-{card}/1/0")
    assert not failures(facts)
    other = "MIG-GPU-00000000-0000-4000-8000-000000000000/1/0"
    assert failures(seen("h100-mig", (), CUDA_VISIBLE_DEVICES=other))


@pytest.mark.parametrize("value", ["0gpu", "-2", "0,0"])
def test_what_torch_shows_is_not_called_hidden(value: str, seen: Seen) -> None:
    facts = seen("rtx4090", (0,), CUDA_VISIBLE_DEVICES=value)
    assert not failures(facts)
    (doubt,) = [p for p in facts.problems if p.id.startswith("nvidia.visible")]
    assert doubt.message.endswith("; PyTorch shows 1 all the same")


@pytest.mark.parametrize("variable", ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"])
def test_the_emptier_card_is_named_by_the_variable_that_is_set(variable: str, seen: Seen) -> None:
    facts = seen("mi300x-other-users", (0, 1), **{variable: "0,1"})
    (problem,) = facts.problems
    assert problem.id == "device.fuller" and problem.fix == f"{variable}=1 trains there"
