"""What a container was not given, seen from inside; which image and which access a host needs."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.observe import container, machine
from sd3tune.containers import host_image
from sd3tune.containers.host_image import Access
from sd3tune.errors import ContainerError
from tests.nobody import as_nobody
from tests.recordings import machine_of

ENOUGH = 2**33
CLOUDS = {"RUNPOD_POD_ID": "runpod", "VAST_CONTAINERLABEL": "vast", "KUBERNETES_SERVICE_HOST": "k"}


def root(folder: Path, *names: str) -> Path:
    """A file system with these files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


# What is missing inside

LIBRARIES = "usr/lib/x86_64-linux-gnu/libcuda.so.1", "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
ARM = tuple(name.replace("x86_64", "aarch64") for name in LIBRARIES)
WINDOWS = "dev/dxg", "usr/lib/wsl/lib/libcuda.so.1", "usr/lib/wsl/lib/libnvidia-ml.so.1"
CTL, KFD, RENDER = "dev/nvidiactl", "dev/kfd", "dev/dri/renderD128"
AMD = KFD, RENDER
NO_NVIDIA = "no-nvidia: no NVIDIA card was passed into this container: it has no /dev/nvidiactl"
HIDDEN = "nvidia-hidden: NVIDIA_VISIBLE_DEVICES is `{}`, which hides every card"
NOT_PASSED = ("nvidia-libraries: the driver's {} not passed into this container "
              "(NVIDIA_DRIVER_CAPABILITIES is `{}`)")  # fmt: skip
NO_AMD = "no-amd: no AMD card was passed into this container: it has no "
SMALL = ("shm: /dev/shm has 64 MiB: several processes and the loader's workers may die with a bus "
         "error")  # fmt: skip
SHOWN = "--gpus all -e NVIDIA_VISIBLE_DEVICES=all"
CAPABLE = "--gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility"
GROUPS = "--group-add video --group-add render --ipc=host"
BOTH = f"--device=/dev/kfd --device=/dev/dri {GROUPS}"
CUDA, ROCM, OTHER = "cuda", "rocm", None
Environ = dict[str, str]
Files = tuple[str, ...]


def visible(value: str) -> Environ:
    return {"NVIDIA_VISIBLE_DEVICES": value}


def able(value: str) -> Environ:
    return {"NVIDIA_DRIVER_CAPABILITIES": value}


LACKS: dict[str, tuple[str | None, Environ, Files, int, list[str], str]] = {
    # name: (image, environment, files, /dev/shm, what is said, docker run …)
    "nvidia, nothing": (CUDA, {}, (), ENOUGH, [NO_NVIDIA], "--gpus all"),
    "nvidia, hidden": (CUDA, visible("void"), (), ENOUGH, [HIDDEN.format("void")], SHOWN),
    "nvidia, hidden by nothing": (CUDA, visible(""), (), ENOUGH, [HIDDEN.format("")], SHOWN),
    "nvidia, all asked for": (CUDA, visible("all"), (), ENOUGH, [NO_NVIDIA], "--gpus all"),
    "nvidia, no libraries": (CUDA, able("graphics"), (CTL,), ENOUGH,
        [NOT_PASSED.format("libcuda.so.1 and libnvidia-ml.so.1 were", "graphics")], CAPABLE),
    "nvidia, one library": (CUDA, able("compute"), (CTL, LIBRARIES[0]), ENOUGH,
        [NOT_PASSED.format("libnvidia-ml.so.1 was", "compute")], CAPABLE),
    "nvidia, all there": (CUDA, visible("void"), (CTL, *LIBRARIES), ENOUGH, [], ""),
    "nvidia, on Arm": (CUDA, {}, (CTL, *ARM), ENOUGH, [], ""),
    "nvidia, in Windows": (CUDA, {}, WINDOWS, ENOUGH, [], ""),
    "nvidia, small memory": (CUDA, {}, (CTL, *LIBRARIES), 2**26, [SMALL], "--shm-size=16g"),
    "nvidia, nothing at all": (CUDA, {}, (), 2**26, [NO_NVIDIA, SMALL],
        "--gpus all --shm-size=16g"),
    "amd, nothing": (ROCM, {}, (), ENOUGH, [f"{NO_AMD}/dev/kfd and no /dev/dri"], BOTH),
    "amd, no kfd": (ROCM, {}, (RENDER,), ENOUGH, [f"{NO_AMD}/dev/kfd"],
        f"--device=/dev/kfd {GROUPS}"),
    "amd, a screen alone": (ROCM, {}, (KFD, "dev/dri/card0"), ENOUGH, [f"{NO_AMD}/dev/dri"],
        f"--device=/dev/dri {GROUPS}"),
    "amd, all there": (ROCM, {}, AMD, ENOUGH, [], ""),
    "amd, small memory": (ROCM, {}, AMD, 2**26, [SMALL], "--ipc=host"),
    "amd, nothing at all": (ROCM, {}, (), 2**26, [f"{NO_AMD}/dev/kfd and no /dev/dri", SMALL],
        BOTH),
    "another image": (OTHER, {}, (), 2**26, [SMALL], "--shm-size=16g"),
    "just enough memory": (OTHER, {}, (), 2**30, [], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", LACKS)
def test_what_is_missing_is_said_with_the_words_that_give_it(case: str, tmp_path: Path) -> None:
    image, environ, files, shm, said, flags = LACKS[case]
    found = container.lacks(image, shm, environ, root(tmp_path, *files))
    assert [f"{k.id}: {k.message}" for k in found] == said
    assert container.flags(found) == flags
    assert [k.id for k in found if not k.blocks] == [k.id for k in found if k.id == "shm"]


def test_a_user_without_permission_is_given_the_groups_of_the_files(public: Path) -> None:
    here = root(public, *AMD)
    for name, group in zip(AMD, (109, 44), strict=True):
        if os.getuid() == 0:
            os.chown(here / name, 0, group)
        (here / name).chmod(0o060 if os.getuid() == 0 else 0)
    groups = sorted({(here / name).stat().st_gid for name in AMD})

    def look() -> list[list[Any]]:
        return [[k.id, k.message, k.flags] for k in container.lacks("rocm", ENOUGH, {}, here)]

    names = "/dev/kfd, /dev/dri/renderD128"
    words = f"{names}: this user may not open them; they belong to group "
    flags = tuple(f"--group-add {g}" for g in groups)
    ((kind, message, found),) = as_nobody(look)
    assert (kind, message) == ("amd-permission", words + ", ".join(map(str, groups)))
    assert tuple(found) == flags
    for name in AMD:
        (here / name).chmod(0o666)
    assert as_nobody(look) == []


@pytest.mark.parametrize("variable", [*CLOUDS, None])
@pytest.mark.parametrize("image", ["cuda", "rocm"])
def test_who_rents_a_container_is_told_what_the_platform_offers(
    image: str, variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CLOUDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SD3TUNE_IMAGE", image)
    if variable:
        monkeypatch.setenv(variable, "1")
    host = machine.host(tmp_path)
    (problem,) = container.problems(host)
    assert problem.id in ("container.no-nvidia", "container.no-amd") and problem.severity == "fail"
    if variable is None:
        assert problem.fix == f"docker run {container.flags(host.lacks)} …"
    else:
        words = {"RUNPOD_POD_ID": "a pod", "VAST_CONTAINERLABEL": "an offer"}
        assert words.get(variable, "resources.limits") in problem.fix
        assert "docker run" not in problem.fix
    assert container.no_device(host) and not container.no_device(replace(host, image=None))


# Which image, which access


@pytest.mark.parametrize(
    "name, kind, card",
    [
        ("rtx4090", "cuda", "NVIDIA: NVIDIA GeForce RTX 4090"),
        ("h100-mig", "cuda", "NVIDIA: NVIDIA H100"),
        ("mi300x-spx", "rocm", "AMD: AMD Instinct MI300X"),
        ("rx7900xtx", "rocm", "AMD: "),
    ],
)
def test_the_image_is_that_of_the_card(
    name: str, kind: str, card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = machine_of(name, tmp_path, monkeypatch)
    choice = host_image.choose(seen, None)
    assert choice.kind == kind and choice.reason.startswith(card)
    for asked in host_image.KINDS:
        assert host_image.choose(seen, asked) == host_image.Choice(asked, "asked for")


@pytest.mark.parametrize(
    "name, words, hint",
    [
        ("cpu-only", "no NVIDIA or AMD card", "--vendor cuda or --vendor rocm"),
        ("driver-not-loaded", "no NVIDIA or AMD card", "`sd3tune doctor` says why"),
        ("m3-max", "containers on a Mac have no access to its GPU", "docs/guides/mac.md"),
    ],
)
def test_without_a_card_nothing_is_guessed(
    name: str, words: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ContainerError, match=words) as e:
        host_image.choose(machine_of(name, tmp_path, monkeypatch), None)
    assert hint in e.value.hint


CDI = {"DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}, {"ID": "nvidia.com/gpu=all"}]}


def test_what_the_engine_offers_is_read_from_what_it_says() -> None:
    assert host_image.has_cdi(CDI) and not host_image.has_runtime(CDI)
    assert host_image.has_runtime({"Runtimes": {"runc": {}, "nvidia": {}}})
    nothing: dict[str, Any]
    for nothing in ({}, {"DiscoveredDevices": None, "Runtimes": None}, {"Runtimes": {"runc": {}}},
                    {"DiscoveredDevices": [{"ID": "amd.com/gpu=0"}, {}]}):  # fmt: skip
        assert not host_image.has_cdi(nothing) and not host_image.has_runtime(nothing)


def test_nvidia_is_given_by_device_interface_where_the_engine_has_it() -> None:
    assert host_image.access("cuda", (), {}) == Access(gpus=())
    assert host_image.access("cuda", ("0", "1"), CDI) == Access(gpus=("0", "1"), cdi=True)


def test_amd_is_given_its_files_with_the_numbers_of_their_groups(tmp_path: Path) -> None:
    here = root(tmp_path, *AMD, "dev/dri/renderD129", "dev/dri/card0")
    if os.getuid() == 0:
        os.chown(here / "dev/kfd", 0, 109)
        os.chown(here / "dev/dri/renderD129", 0, 44)

    def groups(*names: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str((here / n).stat().st_gid) for n in names))

    every = groups("dev/kfd", "dev/dri/renderD128", "dev/dri/renderD129")
    same = {"host_ipc": True, "seccomp": "unconfined"}
    both = Access(devices=("/dev/kfd", "/dev/dri"), groups=every, **same)  # type: ignore[arg-type]
    assert host_image.access("rocm", (), {}, here) == both
    second = Access(
        devices=("/dev/kfd", "/dev/dri/renderD129"),
        groups=groups("dev/kfd", "dev/dri/renderD129"),
        **same,  # type: ignore[arg-type]
    )
    assert host_image.access("rocm", ("1",), {}, here) == second
    with pytest.raises(ContainerError, match="--gpus 1,2: this host has no AMD card number 2"):
        host_image.access("rocm", ("1", "2"), {}, here)


@pytest.mark.parametrize(
    "files, missing",
    [((), "/dev/kfd and no /dev/dri"), (AMD[:1], "/dev/dri"), (AMD[1:], "/dev/kfd")],
)
def test_a_host_without_the_amdgpu_driver_is_told_before_the_engine_is_asked(
    files: tuple[str, ...], missing: str, tmp_path: Path
) -> None:
    with pytest.raises(ContainerError, match=f"this host has no {missing}: ") as e:
        host_image.access("rocm", (), {}, root(tmp_path, *files))
    assert "modprobe amdgpu" in e.value.hint


def test_cards_are_all_or_a_list_of_what_the_vendor_calls_them() -> None:
    assert host_image.cards("cuda", "all") == host_image.cards("rocm", "all") == ()
    assert host_image.cards("cuda", "0,11") == host_image.cards("rocm", "0,11") == ("0", "11")
    parts = "0:1,GPU-5f1c2b9e-0d4a,MIG-GPU-5f1c/1/0"
    assert host_image.cards("cuda", parts) == tuple(parts.split(","))
    both = ("", ",", "0,,1", "0,", "abc", "-1", "0,0", "0 1", "²", "none", "all,0", "0x1")
    for kind, more in (("cuda", ("GPU-", "0:")), ("rocm", ("0:1", "GPU-5f1c"))):
        for word in (*both, *more):
            with pytest.raises(ContainerError) as e:
                host_image.cards(kind, word)  # type: ignore[arg-type]
            assert str(e.value).startswith(f"--gpus {word}: ") and "--gpus 0,1" in e.value.hint
