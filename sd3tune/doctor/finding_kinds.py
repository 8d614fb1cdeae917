"""What each finding of doctor means, by its id: the table behind docs/reference/findings.md.

A finding's own sentence says what was seen on this machine, and its fix what to paste. A row here
says what that means for a run. In an id `*` stands for a card, a package, a probe or a source of
cards; the first row that fits is the one of a finding.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class FindingKind:
    """id: of a finding, with `*` for what varies. meaning: a sentence or two, plain text."""

    id: str
    meaning: str

    def fits(self, finding: str) -> bool:
        """Whether a finding of that id is of this kind."""
        return fnmatchcase(finding, self.id)


# Title of a group -> (id, meaning).
_TABLE: dict[str, tuple[tuple[str, str], ...]] = {
    "The computer": (
        ("host.os", "Operating system and kind of processor."),
        ("host.cpu", "The processor, and how many cores a run may use."),
        ("host.memory", "Memory of the computer, and the limit of a container."),
        ("host.disk", "Free space in the working directory; below 40 GiB is a warning."),
        ("host.python", "The version of Python; sd3tune is tested with 3.11 to 3.13."),
        ("host.rosetta", "Python is built for Intel and runs translated on an Apple chip. No "
         "PyTorch with MPS exists for it: install an arm64 Python."),
        ("host.intel-mac", "A Mac without an Apple chip. PyTorch has no new builds for it."),
        ("host.container", "doctor runs in a container; on which platform, where that is known."),
    ),
    "Containers": (
        ("container.shm", "Shared memory (/dev/shm). Too little ends several processes and the "
         "loader's workers with a bus error."),
        ("container.nvidia-hidden", "A variable hides every NVIDIA card from the container."),
        ("container.no-nvidia", "The image for NVIDIA was started without a card."),
        ("container.nvidia-libraries", "The card was passed in without the driver's libraries."),
        ("container.no-amd", "The image for AMD was started without a card."),
        ("container.amd-permission", "The container's user may not open the card."),
        ("container.no-device", "Another container without a card: a run trains on its CPU."),
        ("device.none", "Device files were passed into sd3tune's image, and no card answers."),
    ),
    "Software": (
        ("torch.import", "Whether PyTorch can be imported, and what it is built for."),
        ("torch.version", "PyTorch is outside the range of versions that sd3tune is tested with."),
        ("software.sd3tune", "sd3tune runs from a folder: the ranges of its packages are unknown."),
        ("software.packages", "Packages whose versions are in the tested range."),
        ("software.imports", "Packages that a run needs, and that can be imported."),
        ("software.*", "A package is missing, cannot be imported or has an untested version."),
        ("hub.endpoint", "The hub that models come from; HF_ENDPOINT names another one."),
        ("wandb.login", "Whether Weights & Biases has a key; without one runs stay in files."),
        ("hub.login", "Whether the hub accepts the login. Released models need one."),
        ("hub.cache", "Whether downloaded models can be kept in their folder."),
    ),
    "Which device trains": (
        ("device.chosen", "The device of a run of one process."),
        ("device.more", "Further devices, which a run with --nproc uses."),
        ("device.unlike", "The devices differ; several processes decide for the weakest."),
        ("device.free", "Free memory. A plan counts with it, not with what the card has."),
        ("device.usable", "How much of a shared memory a run may fill."),
        ("device.fuller", "Others use the first card; the fix names the one with more room."),
        ("device.untested", "We have not run sd3tune on such a device. A report helps."),
        ("backend.no-device", "SD3TUNE_BACKEND asks for a vendor that has no device here."),
        ("choices", "No possible value is left for one of the choices, so nothing can train."),
    ),
    "PyTorch and the card": (
        ("torch.cpu-build-beside-gpu", "PyTorch is built for the CPU, beside a card. Usually a "
         "`pip install torch` has replaced the right build."),
        ("torch.wrong-vendor-build", "PyTorch is built for the other vendor's cards."),
        ("torch.driver-too-old", "The driver cannot run what PyTorch is built for: update the "
         "driver, or install the build that the fix names."),
        ("torch.driver-minor", "The driver is a little older than PyTorch's CUDA. It works."),
        ("torch.arch-not-in-build", "PyTorch's build has no programs for this card."),
        ("torch.fewer-devices", "PyTorch shows fewer cards than the driver."),
        ("torch.cuda-start", "CUDA does not start on a card that the driver shows as healthy."),
        ("torch.hip-start", "HIP does not start on a card that the driver shows as healthy."),
        ("amdsmi.hides-devices", "The separate package amdsmi makes PyTorch see no card."),
        ("amd.device-unknown", "PyTorch shows a device that AMD's drivers do not, as in WSL2."),
        ("nvidia.device-unknown", "PyTorch shows a device that NVIDIA's driver does not."),
    ),
    "Health of a card": (
        ("cuda.driver", "Version of NVIDIA's driver, and the newest CUDA that it offers."),
        ("rocm.driver", "Version of the amdgpu driver, and of ROCm where it is installed."),
        ("mps.driver", "Version of macOS."),
        ("rocm.graphics", "Graphics of the processor, which PyTorch cannot use."),
        ("*.device", "A card: name, architecture, memory, bus. A warning: it does not answer."),
        ("*.ecc", "The card's memory had errors that it could not correct. Results may be wrong."),
        ("*.hot", "90 degrees Celsius or more: the card slows down."),
        ("*.power", "Somebody has limited the card's power; it is slower than it should be."),
        ("*.throttle", "The card slows down because of heat or power at this moment."),
        ("*.pcie", "The card uses fewer PCIe lanes than it has; copies are slower."),
        ("*.shared", "Other programs or users hold memory of the card."),
        ("cuda.compute-mode", "The card's compute mode forbids computing."),
        ("cuda.exclusive-busy", "The card accepts one process, and another one has it."),
        ("cuda.exclusive", "The card accepts one process: --nproc cannot use it twice."),
        ("*.gpu-lost", "The card has fallen off the bus. Only a restart brings it back."),
        ("nvidia.reset-required", "The card says that it must be reset."),
        ("nvidia.fabric-down", "The NVLink switches are not started: CUDA fails on every card."),
        ("nvidia.links-down", "Some NVLink connections are down; several cards train slower."),
        ("nvidia.mig-empty", "The card is divided into slices (MIG), and none exists."),
        ("nvidia.mig-hides", "CUDA gives a process one slice only; the fix says which to name."),
    ),
    "Variables that choose cards": (
        ("*.visible-none", "A variable hides every card."),
        ("*.visible-unknown", "A variable names a card that is not here. What follows is ignored."),
        ("*.visible-twice", "A variable names a card twice, which hides all of them."),
        ("amd.visible-conflict", "Two variables number the cards, and contradict each other."),
        ("nvidia.order", "A variable changes how CUDA numbers the cards."),
        ("*.visible", "A variable chooses cards; which ones they are."),
    ),
    "Drivers and their files": (
        ("nvidia.driver-not-loaded", "The NVIDIA kernel module is not loaded."),
        ("nvidia.module-not-loaded", "A card is on the bus, and its kernel module is not loaded: "
         "often a new kernel, or Secure Boot."),
        ("*.no-driver", "A card is here, and no driver for it."),
        ("amd.driver-not-loaded", "The amdgpu kernel module is not loaded."),
        ("*.no-card", "The driver is here and lists no card."),
        ("nvidia.no-device-file", "The driver is loaded without device files, as in a container."),
        ("nvidia.closed-*", "This user may not open the device file."),
        ("amd.no-permission", "This user may not open the card: join the group that owns it."),
        ("amd.no-render-node", "/dev/kfd is here and /dev/dri is not, as in a container."),
        ("amd.numa-balancing", "A setting of the kernel slows training on AMD's servers."),
        ("nvidia.version-mismatch", "The driver was updated and the computer not restarted."),
        ("nvidia.library-not-found", "The driver's monitoring library is missing."),
        ("nvidia.unknown-error", "The container has lost its cards; restarting it helps."),
        ("nvidia.gpu-closed", "A card is here and not given to this user, job or container."),
    ),
    "Where doctor looks, and what failed there": (
        ("nvidia.nvml-missing", "A package for fewer blind spots is not installed."),
        ("amd.amdsmi-missing", "A package for fewer blind spots is not installed."),
        ("nvidia.nvml-age", "The package nvidia-ml-py and the driver are of different ages."),
        ("nvidia.nvml-*", "NVIDIA's monitoring library does not work; other sources are asked."),
        ("nvidia.init", "NVIDIA's monitoring library does not start."),
        ("nvidia.cuinit-not-ready", "CUDA waits for the fabric manager of the NVLink switches."),
        ("nvidia.cuinit-*", "CUDA itself does not start. PyTorch will not start either."),
        ("nvidia.libcuda-*", "The driver's CUDA library is missing or not usable."),
        ("nvidia.smi-absent", "nvidia-smi is missing, as in a container: fewer checks."),
        ("nvidia.smi-*", "nvidia-smi fails; its own words follow."),
        ("nvidia.proc-*", "The driver's files under /proc cannot be read or understood."),
        ("amd.amdsmi-*", "The package amdsmi does not work; other sources are asked."),
        ("amd.smi-absent", "amd-smi is missing: fewer checks."),
        ("amd.smi-*", "amd-smi fails; other sources are asked."),
        ("amd.kfd-*", "The kernel's list of AMD cards cannot be read or understood."),
        ("mps.sysctl-*", "macOS does not answer what the Mac is made of."),
        ("mps.no-chip", "macOS does not name the chip."),
    ),
    "Macs": (
        ("mps.rosetta", "Python is built for Intel and runs translated: install an arm64 one."),
        ("mps.macos-too-old", "This PyTorch has no MPS on this version of macOS."),
        ("mps.not-built", "PyTorch is built without MPS."),
        ("mps.unavailable", "Metal gives no device here: use Terminal.app on the Mac itself."),
        ("mps.wired-limit", "The limit of the GPU's memory was changed; too high freezes the Mac."),
        ("mps.watermark-no-number", "PyTorch reads a variable that is not a number as 0."),
        ("mps.watermark-low", "PyTorch refuses this pair of variables at the first tensor."),
        ("mps.watermark", "A variable lifts PyTorch's memory limit, or is out of its range."),
        ("mps.fallback", "What MPS lacks runs on the CPU, slowly."),
        ("mps.fast-math", "Kernels round less exactly."),
        ("mps.setting", "A variable of PyTorch's MPS is set."),
        ("mps.command-line-tools", "Xcode's compiler is missing, which int4 and int2 need."),
    ),
    "Small test programs": (
        ("probes", "Test programs were not run, and why."),
        ("probe.matmul_fp32", "Products in float32 are compared with float64. Nothing trains "
         "where they are wrong."),
        ("probe.optimizer_adamw", "One step of AdamW. Nothing trains where it is wrong."),
        ("probe.*", "A product, attention kernel, quantised layer or optimizer is compared with "
         "its definition on the device. Where one is wrong sd3tune does not use it."),
    ),
    "A chip of the catalogue (--on)": (
        ("catalog.chip", "The chip, from documents. Nothing was measured."),
        ("catalog.*", "A figure of the chip and its source; `skip` is an unverified one."),
    ),
}  # fmt: skip
GROUPS = {title: tuple(FindingKind(*row) for row in rows) for title, rows in _TABLE.items()}


def kind_of(finding: str) -> FindingKind | None:
    """The row of a finding's id; None: the table has none."""
    return next((k for rows in GROUPS.values() for k in rows if k.fits(finding)), None)
