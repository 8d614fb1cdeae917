"""Machines on which nothing is wrong: doctor warns of nothing but that nobody has tried them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd3tune import devices
from sd3tune.backends.decide import torch_builds
from sd3tune.backends.observe.facts import Machine
from sd3tune.doctor import hardware
from sd3tune.processes.environment import ALONE
from tests import recordings

PLACE = ("domain", "bus", "device")
Recorded = dict[str, Any]
Change = Callable[[Recorded], None]


class Seen:
    """What doctor, plan and scripts/setup make of a machine."""

    def __init__(self, recorded: Recorded, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        self.machine: Machine
        self.machine, torch, facts = recordings.observed(recorded, tmp_path, patch)
        devices.usable(torch, facts, ALONE)  # raises where plan refuses
        found = [
            *hardware.torch(torch, facts, device=True),
            *hardware.accelerators(self.machine, facts),
        ]
        self.trains_on = [f.fact for f in found if f.name == "trains on"]
        self.wrong = [f.fact for f in found if f.status in ("warn", "FAIL")]
        self.wrong = [words for words in self.wrong if "untested on this hardware" not in words]


def test_the_graphics_of_a_processor_beside_a_card_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(recordings.load("laptop-rtx4070-ryzen"), tmp_path, monkeypatch)
    assert not seen.wrong
    assert seen.trains_on == ["cuda:0 NVIDIA GeForce RTX 4070 Laptop GPU"]


@pytest.mark.parametrize("closed", [False, True])
def test_a_computer_with_nothing_but_the_graphics_of_its_processor_trains_on_the_cpu(
    closed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("ryzen-graphics-only")
    if closed:  # the user is not in the group of the device: nothing is lost by it
        recorded["files"].pop("dev/dri/renderD128")
        recorded["files"].pop("dev/dri/renderD129")
    seen = Seen(recorded, tmp_path, monkeypatch)
    assert not seen.wrong
    (trains,) = seen.trains_on
    assert trains.startswith("cpu ")
    build = torch_builds.torch_build(seen.machine)
    assert (build.extra, build.requirement) == ("cpu", torch_builds.CPU)


def test_a_build_for_rocm_may_bring_such_graphics_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = copy.deepcopy(recordings.load("ryzen-graphics-only"))
    device = {"index": 0, "name": "AMD Radeon 780M", "total_bytes": 2**34, "capability": None,
              "gfx": "gfx1100", "uuid": None, "bus_id": "0000:65:00.0"}  # fmt: skip
    recorded["torch"] |= {"hip": "7.2.0", "devices": [device], "arch_list": ["gfx1100"]}
    seen = Seen(recorded, tmp_path, monkeypatch)
    assert seen.trains_on == ["cuda:0 AMD Radeon 780M"]


def links_of_a_virtual_machine(recorded: Recorded) -> None:
    """Its links lead to cards that other machines have."""
    recorded["pynvml"]["devices"][0] |= {
        "nvmlDeviceGetName": "NVIDIA A100-SXM4-80GB",
        "nvmlDeviceGetNvLinkState": [0] * 12,
    }


def fabric_of_one_card(recorded: Recorded) -> None:
    recorded["pynvml"]["devices"][0]["nvmlDeviceGetGpuFabricInfoV"] = {"state": 1, "status": 0}


def eight_cards(recorded: Recorded) -> None:
    (card,), (device,) = recorded["pynvml"]["devices"], recorded["torch"]["devices"]
    uuids = [f"{i}f1c2b9e-0d4a-4b7e-9a53-3c8f0b2d7e11" for i in range(8)]
    fabric = {"state": 3, "status": 0}
    recorded["pynvml"]["devices"] = [
        card
        | {"nvmlDeviceGetUUID": f"GPU-{uuid}", "nvmlDeviceGetGpuFabricInfoV": fabric}
        | {"nvmlDeviceGetPciInfo": {"busId": f"00000000:{i}8:00.0"}}
        for i, uuid in enumerate(uuids)
    ]
    recorded["torch"]["devices"] = [
        device | {"index": i, "uuid": uuid, "bus_id": f"0000:{i}8:00.0"}
        for i, uuid in enumerate(uuids)
    ]


@pytest.mark.parametrize("change", [links_of_a_virtual_machine, fabric_of_one_card, eight_cards])
def test_links_that_a_run_does_not_miss_are_no_finding(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("h100")
    change(recorded)
    assert not Seen(recorded, tmp_path, monkeypatch).wrong


def test_memory_that_card_and_host_share_is_not_called_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML knows no total of such a chip (GB10), and lists processes all the same."""
    recorded = recordings.load("h100")
    recorded["pynvml"]["devices"][0]["nvmlDeviceGetMemoryInfo"] = {"raises": 3}
    facts = recordings.observed(recorded, tmp_path, monkeypatch)[2]
    assert facts.devices[0].free is None and facts.devices[0].room_bytes


def test_an_older_driver_under_which_cuda_has_started_is_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's compatibility package brings a newer libcuda to data centres' drivers."""
    recorded = recordings.load("h100")
    recorded["pynvml"] |= {"driver": "550.54.15", "cuda": 13000}
    assert not Seen(recorded, tmp_path, monkeypatch).wrong


def test_a_jetson_is_found_although_its_gpu_is_on_no_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load("h100")
    del recorded["pynvml"]
    recorded["files"] = {"dev/nvhost-gpu": ""}
    orin = {"name": "Orin", "bytes": 61 * 2**30, "major": 8, "minor": 7}
    recorded["libcuda"] = {"version": 12060, "devices": [orin | dict.fromkeys(PLACE, 0)]}
    recorded["torch"] |= {"cuda": "12.6", "arch_list": ["sm_87"]}
    recorded["torch"]["devices"][0] |= {"name": "Orin", "capability": [8, 7], "uuid": None,
                                        "bus_id": "0000:00:00.0"}  # fmt: skip
    seen = Seen(recorded, tmp_path, monkeypatch)
    assert seen.trains_on == ["cuda:0 Orin"] and torch_builds.extra(seen.machine) == "cuda"


def graphics_beside_a_card(recorded: Recorded) -> None:
    """A desktop: PyTorch shows the card alone."""
    card = copy.deepcopy(recorded["amdsmi"]["devices"][0])
    card["amdsmi_get_gpu_asic_info"]["target_graphics_version"] = "gfx1036"
    card["amdsmi_get_gpu_device_bdf"] = "0000:12:00.0"
    recorded["amdsmi"]["devices"].insert(0, card)
    recorded["torch"]["arch_list"] = ["gfx1030", "gfx1100"]


def torch_not_started(recorded: Recorded) -> None:
    """`doctor --quick` cannot know whether CUDA starts without the fabric."""
    fabric_of_one_card(recorded)
    recorded["torch"] |= {"imported": False, "devices": [], "arch_list": []}


@pytest.mark.parametrize(
    "name, change", [("rx7900xtx", graphics_beside_a_card), ("h100", torch_not_started)]
)
def test_nothing_is_said_of_what_no_run_uses_or_nobody_knows(
    name: str, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings.load(name)
    change(recorded)
    assert not Seen(recorded, tmp_path, monkeypatch).wrong
