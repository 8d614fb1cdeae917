"""What a container lacks, seen from inside, with the option of `docker run` that provides it.

Standard library only, and nothing here raises. Which vendor a container is meant for is known from
SD3TUNE_IMAGE, which sd3tune's images set; elsewhere nobody can tell what is missing.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sd3tune.backends.observe.facts import Machine, Problem
from sd3tune.backends.observe.host_facts import Host, Lack

SHM_BYTES = 2**30  # the loader's and NCCL's shared memory; the default of docker is 64 MiB
NVIDIA_NODES = ("dev/nvidiactl", "dev/dxg")  # dxg: Windows' subsystem for Linux
LIBRARIES = ("usr/lib/*-linux-gnu", "usr/lib64", "usr/local/nvidia/lib64", "usr/lib/wsl/lib")
NOTHING = ("", "void", "none")
# On a rented machine the user cannot change `docker run`: what to do instead.
ELSEWHERE = {
    "runpod": "choose a pod with a GPU of the image's vendor; docs/guides/clouds.md",
    "vast": "rent an offer with a GPU of the image's vendor; docs/guides/clouds.md",
    "kubernetes": "resources.limits: `nvidia.com/gpu: 1` or `amd.com/gpu: 1`; for shared memory "
    "an emptyDir with medium: Memory at /dev/shm; examples/cluster/kubernetes",
}


def lacks(
    image: str | None, shm_bytes: int | None, environ: Mapping[str, str], root: Path
) -> tuple[Lack, ...]:
    """What a container of the image "cuda" or "rocm" lacks; in any other container only shared
    memory is checked."""
    found: list[Lack] = []
    if image == "cuda":
        found += _nvidia(environ, root)
    elif image == "rocm":
        found += _amd(root)
    if shm_bytes is not None and shm_bytes < SHM_BYTES:
        words = f"/dev/shm has {shm_bytes / 2**20:.0f} MiB"
        more = "several processes and the loader's workers may die with a bus error"
        flag = "--ipc=host" if image == "rocm" else "--shm-size=16g"
        found.append(Lack("shm", f"{words}: {more}", (flag,), blocks=False))
    return tuple(found)


def _nvidia(environ: Mapping[str, str], root: Path) -> Iterator[Lack]:
    if not any((root / node).exists() for node in NVIDIA_NODES):
        asked = environ.get("NVIDIA_VISIBLE_DEVICES")
        if asked in NOTHING:
            words = f"NVIDIA_VISIBLE_DEVICES is `{asked}`, which hides every card"
            yield Lack("nvidia-hidden", words, ("--gpus all", "-e NVIDIA_VISIBLE_DEVICES=all"))
            return
        words = "no NVIDIA card was passed into this container: it has no /dev/nvidiactl"
        yield Lack("no-nvidia", words, ("--gpus all",))
        return
    missing = [name for name in ("libcuda.so.1", "libnvidia-ml.so.1") if not _library(name, root)]
    if missing:
        said = environ.get("NVIDIA_DRIVER_CAPABILITIES", "")
        were = "was" if len(missing) == 1 else "were"
        words = f"the driver's {' and '.join(missing)} {were} not passed into this container"
        words += f" (NVIDIA_DRIVER_CAPABILITIES is `{said}`)"
        flags = ("--gpus all", "-e NVIDIA_DRIVER_CAPABILITIES=compute,utility")
        yield Lack("nvidia-libraries", words, flags)


def _library(name: str, root: Path) -> bool:
    return any(any(root.glob(f"{folder}/{name}")) for folder in LIBRARIES)


def _amd(root: Path) -> Iterator[Lack]:
    kfd, nodes = root / "dev/kfd", sorted((root / "dev/dri").glob("renderD*"))
    missing = [
        path for path, there in (("/dev/kfd", kfd.exists()), ("/dev/dri", bool(nodes))) if not there
    ]
    if missing:
        words = f"no AMD card was passed into this container: it has no {' and no '.join(missing)}"
        devices = tuple(f"--device={path}" for path in missing)
        groups = "--group-add video", "--group-add render"
        yield Lack("no-amd", words, (*devices, *groups, "--ipc=host"))
        return
    closed = [node for node in (kfd, *nodes) if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        gids = sorted({str(node.stat().st_gid) for node in closed}, key=int)
        names = ", ".join(f"/{node.relative_to(root)}" for node in closed)
        words = f"{names}: this user may not open them; they belong to group {', '.join(gids)}"
        yield Lack("amd-permission", words, tuple(f"--group-add {gid}" for gid in gids))


def flags(found: tuple[Lack, ...]) -> str:
    """All missing words of `docker run`, each once."""
    return " ".join(dict.fromkeys(flag for lack in found for flag in lack.flags))


def fix(host: Host, found: tuple[Lack, ...]) -> str:
    """One sentence: the words that are missing, or what the platform offers in their place."""
    return ELSEWHERE.get(host.cloud or "") or f"docker run {flags(found)} …"


def problems(host: Host) -> list[Problem]:
    """What keeps the container's accelerator away from training."""
    found = tuple(lack for lack in host.lacks if lack.blocks)
    return [Problem(f"container.{k.id}", "fail", k.message, fix(host, found)) for k in found]


def hidden(machine: Machine, environ: Mapping[str, str]) -> list[Problem]:
    """NVIDIA_VISIBLE_DEVICES keeps every card out of a container: its bus or its driver's files are
    here, and no card is. (Toolkits that pass cards by CDI set `void` as well; then cards are.)"""
    said = environ.get("NVIDIA_VISIBLE_DEVICES")
    seen = [s for s in machine.surveys if s.vendor == "cuda"]
    if said is None or said.strip().lower() not in NOTHING or not seen or seen[0].gpus:
        return []
    value = (
        f"NVIDIA_VISIBLE_DEVICES is `{said}`" if said.strip() else "NVIDIA_VISIBLE_DEVICES is empty"
    )
    fix = ELSEWHERE.get(machine.host.cloud or "") or (
        "docker run --gpus all -e NVIDIA_VISIBLE_DEVICES=all …; outside a container: unset it, it "
        "has no effect there"
    )
    return [Problem("nvidia.visible-none", "fail", f"{value}, which hides every card", fix)]


def no_device(host: Host) -> list[Problem]:
    """The problem of one of sd3tune's images that has device files but no usable device. Training
    on the CPU there needs SD3TUNE_BACKEND=cpu."""
    if host.image is None:
        return []
    words = f"this is sd3tune's image for {host.image}, its device files are here, and no device is"
    fix = "load the driver on the host, or set SD3TUNE_BACKEND=cpu to train on the CPU"
    return [Problem("device.none", "fail", words, fix)]
