"""The graphics inside AMD's processors, which the kernel lists beside cards and for which no build
of PyTorch has kernels: a computer with nothing else has no accelerator.

Source: LLVM's table of AMDGPU processors (type APU), without the chips that ROCm builds of PyTorch
list. Standard library only, and nothing here raises.
"""

from sd3tune.backends.observe.facts import Gpu, Machine, Survey, Vendor

CHIPS = (
    "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1103",
)  # fmt: skip


def found(gpu: Gpu) -> bool:
    """The entry is the graphics of a processor, and not a card."""
    return gpu.arch.name in CHIPS


def alone(survey: Survey) -> bool:
    """A vendor's survey lists such graphics and no card."""
    return bool(survey.gpus) and all(map(found, survey.gpus))


def has_card(machine: Machine, vendor: Vendor) -> bool:
    """A vendor's survey lists a card."""
    survey = machine.survey(vendor)
    return bool(survey.gpus) and not alone(survey)
