"""Observations of a machine, without conclusions: frozen dataclasses that are written to JSON and
read again.

Three views are kept apart until they are joined on identity (UUID, then PCI bus id):

Machine      what the operating system and the vendor's library say       (machine.py)
TorchReport  what PyTorch sees, asked in a child process                   (torch_report.py)
Facts        the two joined for the one vendor that training will use      (cuda, rocm, mps, cpu)

`None` always means "unknown". Bytes, watts, degrees Celsius: the unit is in every name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from sd3tune.backends.observe.host_facts import Host
from sd3tune.tables import needs

Vendor = needs.Vendor
Family = Literal["sm", "gfx", "apple", "cpu"]
Severity = Literal["skip", "warn", "fail"]  # skip: nothing is lost by it
Origin = Literal["measured", "catalog", "recorded"]

MAKERS: Mapping[Vendor, str] = {"cuda": "NVIDIA", "rocm": "AMD", "mps": "Apple", "cpu": "CPU"}
UNTESTED: tuple[Vendor, ...] = ("cuda", "rocm", "mps")
TRAINED_ON = ("sm_90",)  # H100 and H200: LOG.md, 2026-11-26 and 2026-11-27

# Fields that doctor shows beside a card's name, as it calls them.
SHOWN = {"name": "name", "arch": "architecture", "total_bytes": "memory", "used_bytes": "used"}
GIB = 2**30
UNNAMED = ("NVIDIA GPU", "AMD GPU", "unnamed GPU")

T = TypeVar("T")


@dataclass(frozen=True)
class Arch:
    """A chip generation with its vendor's tag: sm_90 and gfx90a both read (9, 0) in PyTorch, so
    numbers of two families are never compared."""

    family: Family
    name: str  # "sm_89", "gfx942", "m3-max", "x86_64"

    @property
    def sm(self) -> int | None:
        """NVIDIA compute capability as one number, 89 for 8.9; None for other vendors."""
        digits = self.name.removeprefix("sm_")
        return int(digits) if self.family == "sm" and digits.isdigit() else None

    @property
    def gfx(self) -> str | None:
        """AMD target without feature suffixes, "gfx942"; None for other vendors."""
        return self.name if self.family == "gfx" else None

    @property
    def apple(self) -> int | None:
        """Apple generation, 3 for M3 Max; None for other vendors."""
        match = re.match(r"m(\d+)", self.name) if self.family == "apple" else None
        return int(match.group(1)) if match else None


@dataclass(frozen=True)
class Problem:
    """Something found wrong while observing: data for doctor, never an exception."""

    id: str  # stable, "nvidia.driver-not-loaded"
    severity: Severity
    message: str
    fix: str  # can be pasted, or one sentence on what to do
    source: str | None = None  # of the sources of cards, the one that failed or met it


@dataclass(frozen=True)
class Note:
    """Something found while observing that is not wrong, and worth a line in doctor."""

    id: str  # stable, "mps.fallback"
    message: str
    source: str  # "environment", "sysctl", …


@dataclass(frozen=True)
class Gpu:
    """One accelerator as its vendor's library or the operating system describes it."""

    vendor: Vendor
    index: int  # physical: the vendor library's own order, untouched by *_VISIBLE_DEVICES
    name: str
    arch: Arch
    source: str  # "nvml", "nvidia-smi", "/proc", "amdsmi", "amd-smi", "sysfs", "sysctl"
    total_bytes: int | None = None
    used_bytes: int | None = None  # by all processes and users, as the driver counts it
    other_processes_bytes: int | None = None  # of the listed processes, without our own
    own_bytes: int | None = None  # of the listed processes: what this run's own hold
    uuid: str | None = None  # as the vendor prints it: "GPU-…", "MIG-…"
    bus_id: str | None = None  # "0000:65:00.0", lower case, domain of four digits
    temperature_celsius: float | None = None
    power_limit_watts: float | None = None
    power_default_watts: float | None = None
    ecc_enabled: bool | None = None
    ecc_uncorrected: int | None = None
    throttle: tuple[str, ...] | None = None  # names of active reasons; () = none active
    mig: bool = False  # this entry is a MIG slice, or its card has MIG switched on
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    links: int | None = None  # active NVLink or xGMI links
    links_max: int | None = None  # NVLink links, active or not
    compute_mode: str | None = None  # NVIDIA: "default", "exclusive", "prohibited"
    compute_partition: str | None = None  # AMD: "SPX", "CPX", …
    memory_partition: str | None = None  # AMD: "NPS1", "NPS4", …
    hip_index: int | None = None  # AMD: HIP's number before *_VISIBLE_DEVICES, when told
    gpu_cores: int | None = None  # Apple
    wired_limit_bytes: int | None = None  # Apple: of the GPU, when set by hand; None: macOS decides
    card_uuid: str | None = None  # of a MIG slice: its card's
    hip_uuid: str | None = None  # AMD: as ROCR_VISIBLE_DEVICES takes it, GPU- and 16 digits
    fabric: str | None = None  # NVSwitch systems: "completed", "in progress", "not started", …
    error: str | None = None  # the card no longer answers: what its driver says instead
    # Field -> who said it, where not `source`.
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def named(self) -> bool:
        """Whether a source gave the card its name; "NVIDIA GPU" and "AMD GPU 29857"
        stand for unknown ones."""
        return self.name not in UNNAMED and not self.name.startswith("AMD GPU ")

    @property
    def told_by(self) -> str:
        """The source, and what others added to what is shown: "/proc/driver/nvidia; architecture:
        libcuda"."""
        added = [f"{SHOWN[key]}: {who}" for key, who in self.sources.items() if key in SHOWN]
        return "; ".join([self.source, *added])

    @property
    def label(self) -> str:
        """Tells equal cards apart; the number is the driver's, not PyTorch's: "card 1 (NVIDIA
        A100, PCI 0000:0a:00.0, GPU-…)"."""
        parts = (self.name, self.bus_id and f"PCI {self.bus_id}", self.hip_uuid or self.uuid)
        kind = "MIG slice of card" if self.mig else "card"
        return f"{kind} {self.index} ({', '.join(p for p in parts if p)})"

    @property
    def occupied_bytes(self) -> int | None:
        """Memory in use by anybody but this run's own processes. A driver may count more than the
        processes that it lists (other users, a desktop, other containers), and so the larger of the
        two figures holds; None: neither is known."""
        counted = None if self.used_bytes is None else self.used_bytes - (self.own_bytes or 0)
        known = [n for n in (counted, self.other_processes_bytes) if n is not None]
        return max(0, *known) if known else None


def gpu_from(data: Mapping[str, Any]) -> Gpu:
    """A Gpu that travelled as JSON; standard library only, unlike `from_json`."""
    throttle = data.get("throttle")
    arch = Arch(**data["arch"])
    return Gpu(**(dict(data) | {"arch": arch, "throttle": throttle and tuple(throttle)}))


@dataclass(frozen=True)
class Survey:
    """One vendor's cards: what the best source that listed them said, completed by the others."""

    vendor: Vendor
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None  # "580.159.04"; amdgpu version
    runtime: str | None = None  # newest CUDA the driver offers "13.0"; ROCm; macOS version
    source: str | None = None  # the first that listed cards; None: none did
    problems: tuple[Problem, ...] = ()
    # Field -> who said it, where not `source`.
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    def source_of(self, name: str) -> str | None:
        """Who said what a field holds; None: nobody."""
        return self.sources.get(name, self.source)

    @property
    def driver_told_by(self) -> str:
        """The source of the driver's version, and that of what it offers where it is another."""
        driver, runtime = self.source_of("driver"), self.source_of("runtime")
        told = driver or "survey"
        return told if self.runtime is None or runtime == driver else f"{told}; offers: {runtime}"

    @property
    def offers(self) -> str | None:
        """The runtime with its name: "CUDA 13.0", "ROCm 7.2"; macOS is its version alone."""
        name = {"cuda": "CUDA ", "rocm": "ROCm "}.get(self.vendor, "")
        return self.runtime and f"{name}{self.runtime}"


@dataclass(frozen=True)
class Machine:
    host: Host
    surveys: tuple[Survey, ...] = ()

    def survey(self, vendor: Vendor) -> Survey:
        return next((s for s in self.surveys if s.vendor == vendor), Survey(vendor))


@dataclass(frozen=True)
class TorchDevice:
    """A device as `torch` numbers it, after *_VISIBLE_DEVICES."""

    index: int
    name: str
    total_bytes: int | None = None
    capability: tuple[int, int] | None = None  # CUDA only
    gfx: str | None = None  # ROCm only, suffixes stripped
    uuid: str | None = None  # without prefix
    bus_id: str | None = None


@dataclass(frozen=True)
class TorchReport:
    """What a child process saw when it imported torch. `error` set: the import itself failed."""

    version: str | None = None
    cuda: str | None = None  # version torch was built for; None: not a CUDA build
    hip: str | None = None
    mps_built: bool = False
    mps_available: bool = False
    devices: tuple[TorchDevice, ...] = ()
    arch_list: tuple[str, ...] = ()
    native_bf16_cpu: bool | None = None
    mps_recommended_bytes: int | None = None
    imported: bool = False  # False: read from the installed files, torch was not started
    error: str | None = None
    devices_error: str | None = None  # what CUDA or HIP said when it was asked for its devices


@dataclass(frozen=True)
class Device:
    """One device training could use: torch's number, with what the vendor knows about it."""

    index: int  # torch's
    torch_device: str  # "cuda:0" (also on ROCm), "mps", "cpu"
    name: str
    arch: Arch
    total_bytes: int | None = None
    # What a run may fill: what nobody else uses; less than that on Macs and in cgroups.
    usable_bytes: int | None = None
    usable_source: str | None = None  # who says so, where it is not the driver
    physical_index: int | None = None
    uuid: str | None = None
    occupied_bytes: int | None = None  # in use by others when this machine was observed
    bus_id: str | None = None
    chosen_by: str | None = None  # variables that decide which card this is; None: there is one
    exclusive: bool = False  # its driver lets one process use it at a time
    problems: tuple[Problem, ...] = ()  # of this device alone; the first one's are the machine's

    @property
    def card(self) -> str | None:
        """Which card it is, and what decided that; None where there is no choice."""
        if self.chosen_by is None:
            return None
        number = (
            None if self.physical_index is None else f"card {self.physical_index} of the driver"
        )
        parts = (number, self.bus_id and f"PCI {self.bus_id}", self.uuid)
        return f"{', '.join(p for p in parts if p)}; {self.chosen_by}"

    @property
    def room_bytes(self) -> int | None:
        """What a run may fill; None: the device does not say. A full device has room for 0 bytes,
        which is known."""
        return self.total_bytes if self.usable_bytes is None else self.usable_bytes

    @property
    def free(self) -> str | None:
        """`3.1 of 24.0 GiB are free`; None where it is not known what others use."""
        if self.occupied_bytes is None or self.usable_bytes is None or self.total_bytes is None:
            return None
        return f"{self.usable_bytes / GIB:.1f} of {self.total_bytes / GIB:.1f} GiB are free"

    @property
    def emptied(self) -> "Device":
        """The device as it is when nobody else uses it: what others held at another time says
        nothing about the day of a run."""
        if self.occupied_bytes is None or self.total_bytes is None:
            return self
        return replace(self, usable_bytes=self.total_bytes, occupied_bytes=None)


@dataclass(frozen=True)
class Facts:
    """Everything the rules in options.py may look at."""

    vendor: Vendor
    devices: tuple[Device, ...]
    torch: str | None = None  # "2.13.0"
    torch_build: str | None = None  # "cu132", "rocm7.2", "cpu", "mps"
    runtime: str | None = None  # CUDA of the driver, ROCm version, macOS version
    driver: str | None = None
    arch_list: tuple[str, ...] = ()
    native_bf16_cpu: bool | None = None
    ram_bytes: int | None = None  # of the host, cgroup limit applied
    packages: Mapping[str, str] = field(default_factory=dict)  # distribution -> version
    tools: Mapping[str, bool] = field(default_factory=dict)  # "c++", "ninja", "nvcc", "hipcc", …
    smoke: Mapping[str, str] = field(default_factory=dict)  # probe id -> "ok" or what went wrong
    # Figure of decide/speeds.py -> operations or bytes a second, or seconds; empty: not measured.
    rates: Mapping[str, float] = field(default_factory=dict)
    # Attention kernel -> seconds of both passes at the run's shape; empty: not measured.
    attention_seconds: Mapping[str, float] = field(default_factory=dict)
    measured_at: str = "this run's shape"  # in words: where these kernels were measured
    # Quantisation scheme -> seconds of a block's linear layers, forward and backward, at the run's
    # width; empty: not measured.
    product_seconds: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()
    origin: Origin = "measured"

    @property
    def untested_on_hardware(self) -> bool:
        """True where nobody has run sd3tune yet: shown wherever the device is chosen."""
        return self.vendor in UNTESTED and self.weakest.arch.name not in TRAINED_ON

    def rest_on(self, survey: Survey) -> bool:
        """The survey is of the vendor that trains."""
        return survey.vendor == self.vendor

    @property
    def accelerated(self) -> bool:
        """There is an accelerator: the device that trains is not the CPU."""
        return self.vendor != "cpu"

    @property
    def takes_any_number_of_processes(self) -> bool:
        """Processes may share the one device; accelerators take one process each."""
        return not self.accelerated

    def of_processes(self, count: int) -> "Facts":
        """The same machine with the devices that `count` processes use, one each."""
        return self if len(self.devices) <= count else replace(self, devices=self.devices[:count])

    @property
    def unoccupied(self) -> "Facts":
        """The same machine when nobody else uses its devices."""
        return replace(self, devices=tuple(device.emptied for device in self.devices))

    @property
    def weakest(self) -> Device:
        """The device that decides for all: a run must work on each of them."""
        return min(self.devices, key=lambda d: (d.arch.sm or 0, d.total_bytes or 0))

    @property
    def tightest(self) -> Device:
        """The device with the least room, into which a run must fit; the weakest where the devices
        do not say."""
        known = [d for d in self.devices if d.room_bytes is not None]
        return min(known, key=lambda d: d.room_bytes or 0, default=self.weakest)


def to_json(value: object) -> dict[str, Any]:
    """A dataclass of this module as plain JSON data."""
    return json.loads(json.dumps(asdict(value)))  # type: ignore[call-overload,no-any-return]


def from_json(kind: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of `to_json`. Raises ValueError when a name or a type does not fit."""
    from pydantic import TypeAdapter  # 0.2 s: only who reads recordings pays

    return TypeAdapter(kind).validate_python(data)
