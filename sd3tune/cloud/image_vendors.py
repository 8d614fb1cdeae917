"""The vendors that there are images for, with what the engines need to know of each."""

from collections.abc import Callable
from dataclasses import dataclass

from sd3tune.backends.decide.chips import Chip
from sd3tune.backends.observe.facts import Vendor
from sd3tune.cloud.card_names import names_of


@dataclass(frozen=True)
class ImageVendor:
    """One vendor.

    label: the label of Kubernetes' nodes with a chip, key and value; {} where there is none.
    groups: of a node, which own the device files. assumes: of the hosts. sky_kubernetes: SkyPilot
    starts these cards on Kubernetes only.
    """

    tag: str  # of the image
    resource: str  # Kubernetes' name of one card
    dstack: str
    label: Callable[[Chip], dict[str, str]]
    assumes: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    pods_assume: tuple[str, ...] = ()
    sky_kubernetes: bool = False


def _product(chip: Chip) -> dict[str, str]:
    """Of NVIDIA's GPU feature discovery: the driver's name of the card, with dashes."""
    return {"nvidia.com/gpu.product": chip.name.replace(" ", "-")}


def _device(chip: Chip) -> dict[str, str]:
    """Of AMD's node labeller: the PCI device id."""
    device = names_of(chip.key).device_id
    return {"amd.com/gpu.device-id": device} if device else {}


IMAGE_VENDORS: dict[Vendor, ImageVendor] = {
    "cuda": ImageVendor(
        "cuda", "nvidia.com/gpu", "nvidia", _product, ("Hosts have NVIDIA driver 580 or newer.",)
    ),
    "rocm": ImageVendor(
        "rocm", "amd.com/gpu", "amd", _device,
        groups=(44, 109),  # video and render
        pods_assume=(
            "The numbers in supplementalGroups are the node's groups video and render, which own "
            "/dev/kfd and /dev/dri, and differ between distributions: `getent group video render` "
            "on a node.",
        ),
        sky_kubernetes=True,
    ),
}  # fmt: skip
