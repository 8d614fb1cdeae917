"""Which image a host needs, and which flags give a container of it the host's cards.

The flags are the vendors' documented ones; we have not passed a card into a container yet.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sd3tune.backends.observe.facts import Machine
from sd3tune.errors import ContainerError

Kind = Literal["cuda", "rocm"]
KINDS: tuple[Kind, ...] = ("cuda", "rocm")
NAMES = {"cuda": "NVIDIA", "rocm": "AMD"}
# NVIDIA's also by their identity, and the parts of a card: 0, GPU-8f2a…, 0:1, MIG-…
CARD = {"cuda": r"\d+(:\d+)?|(GPU|MIG)-[\w/-]+", "rocm": r"\d+"}


@dataclass(frozen=True)
class Choice:
    """The image of a host. reason: one sentence."""

    kind: Kind
    reason: str


def choose(machine: Machine, asked: str | None) -> Choice:
    """The image for the cards of this host. Raises ContainerError where there are none and none is
    asked for, and on Macs, whose GPU no container reaches."""
    if asked is not None:
        return Choice("rocm" if asked == "rocm" else "cuda", "asked for")
    for kind in KINDS:
        if gpus := machine.survey(kind).gpus:
            return Choice(kind, f"{NAMES[kind]}: {gpus[0].name}")
    if machine.host.os == "Darwin":
        raise ContainerError(
            "containers on a Mac have no access to its GPU",
            hint="install natively: pip install 'sd3tune[apple]'; docs/guides/mac.md",
        )
    raise ContainerError(
        "no NVIDIA or AMD card was found on this host: which image?",
        hint="--vendor cuda or --vendor rocm chooses it, with --cpu it trains on the CPU; "
        "`sd3tune doctor` says why no card is seen",
    )


@dataclass(frozen=True)
class Access:
    """What a container is given of the host's cards, in docker's terms."""

    gpus: tuple[str, ...] | None = None  # NVIDIA: () for all; None: not asked for
    cdi: bool = False  # by the names of the Container Device Interface
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # numeric: the image's names may have other numbers
    host_ipc: bool = False
    seccomp: str | None = None


def needs_toolkit(kind: Kind) -> bool:
    """Whether the engine reaches the cards through the NVIDIA Container Toolkit."""
    return kind == "cuda"


def cards(kind: Kind, word: str) -> tuple[str, ...]:
    """The cards of `--gpus`: () for `all`, else each of N,N once. Raises ContainerError."""
    if word == "all":
        return ()
    named = tuple(word.split(","))
    hint = "give all, or numbers from 0, as in --gpus 0,1; without a card: --cpu"
    if wrong := [card for card in named if not re.fullmatch(CARD[kind], card, re.ASCII)]:
        what = f"--gpus {word}: `{wrong[0]}` does not name an {NAMES[kind]} card"
        raise ContainerError(what, hint=hint)
    if twice := [card for card in named if named.count(card) > 1]:
        raise ContainerError(f"--gpus {word}: `{twice[0]}` is named twice", hint=hint)
    return named


def access(
    kind: Kind, gpus: tuple[str, ...], info: Mapping[str, Any], root: Path = Path("/")
) -> Access:
    """gpus: as `cards` gives them. info: what the engine says of itself.

    Raises ContainerError when AMD's device files are missing on the host: the engine would say so
    too, in its own words.
    """
    if kind == "cuda":
        return Access(gpus=gpus, cdi=has_cdi(info))
    kfd, nodes = root / "dev/kfd", sorted((root / "dev/dri").glob("renderD*"))
    missing = [
        n for n, there in (("/dev/kfd", kfd.exists()), ("/dev/dri", bool(nodes))) if not there
    ]
    if missing:
        raise ContainerError(
            f"this host has no {' and no '.join(missing)}: the amdgpu driver is not loaded",
            hint="sudo modprobe amdgpu, or install amdgpu-dkms; --cpu trains on the CPU instead",
        )
    chosen = nodes
    if gpus:
        chosen = [nodes[i] for i in _numbers(gpus, len(nodes))]
    groups = dict.fromkeys(str(n.stat().st_gid) for n in (kfd, *chosen))
    devices = (
        ("/dev/kfd", *(f"/dev/dri/{n.name}" for n in chosen)) if gpus else ("/dev/kfd", "/dev/dri")
    )
    return Access(devices=devices, groups=tuple(groups), host_ipc=True, seccomp="unconfined")


def _numbers(gpus: tuple[str, ...], count: int) -> list[int]:
    wrong = [g for g in gpus if int(g) >= count]
    if wrong:
        raise ContainerError(
            f"--gpus {','.join(gpus)}: this host has no AMD card number {wrong[0]}",
            hint=f"there are {count}, numbered from 0",
        )
    return [int(g) for g in gpus]


def has_cdi(info: Mapping[str, Any]) -> bool:
    """Docker 28.2 lists what it discovered; older engines do not say."""
    found = info.get("DiscoveredDevices") or ()
    return any(str(d.get("ID", "")).startswith("nvidia.com/gpu") for d in found)


def has_runtime(info: Mapping[str, Any]) -> bool:
    """NVIDIA's container runtime is registered with the engine."""
    return "nvidia" in (info.get("Runtimes") or {})
