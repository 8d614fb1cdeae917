"""Which card each of PyTorch's devices is, and the device that the two make together.

Numbers of the driver and of PyTorch are never compared: variables, orders and slices change them.
"""

import re
from collections.abc import Callable, Sequence

from sd3tune.backends.observe.facts import Arch, Device, Gpu, TorchDevice

# Drivers keep up to a tenth of small cards to themselves; the smallest slice of MIG with all other
# slices unused is half a card.
SAME_DEVICE = 0.8


def matched(
    devices: Sequence[TorchDevice], cards: Sequence[Gpu], *, ordered: bool
) -> dict[int, Gpu]:
    """PyTorch's number -> the card: by UUID, then by PCI address, then by order. A device that no
    source knows is left out.

    ordered: PyTorch has the order of `cards`, so that as many of both may be paired by it.
    Partitions of a card have one address: each gets a card of its own in their order, where the
    driver lists them, and the same card where it lists the whole.
    """
    left, found = list(cards), {}
    for fits in (_same_uuid, _inside, _same_address):
        for device in devices:
            fitting = [] if device.index in found else [c for c in left if fits(device, c)]
            if fits is _same_uuid and len(fitting) > 1:
                continue  # a UUID that partitions share
            if fitting:
                found[device.index] = card = min(fitting, key=_difference(device))
                left.remove(card)
    alone = [d for d in devices if d.index not in found]
    if ordered and len(alone) == len(left):
        return found | {d.index: card for d, card in zip(alone, left, strict=True)}
    for device in alone:
        parts = [card for card in found.values() if _same_address(device, card)]
        if parts:
            found[device.index] = parts[0]
    return found


def torch_cuda(
    index: int, card: Gpu, total: int | None, arch: Arch | None = None, name: str | None = None
) -> Device:
    """torch's device number `index`, of NVIDIA or AMD, with what its vendor says of the card.

    total, arch, name: as torch says them, when it was asked; they win.
    """
    whole = card.total_bytes
    total = total or whole
    # A part of a card (MIG, CPX) whose source counts for the whole: nobody knows for the part.
    part = total is not None and whole is not None and total < SAME_DEVICE * whole
    # A driver that knows no total (chips that share the host's memory) cannot tell what is in use.
    occupied = None if part or whole is None else card.occupied_bytes
    return Device(
        index=index,
        torch_device=f"cuda:{index}",
        name=name or card.name,
        arch=arch or card.arch,
        total_bytes=total,
        usable_bytes=total and max(0, total - (occupied or 0)),
        physical_index=card.index,
        uuid=card.uuid,
        occupied_bytes=occupied,
    )


def own_uuid(
    card: Gpu, cards: Sequence[Gpu], seen: TorchDevice, devices: Sequence[TorchDevice]
) -> str | None:
    """A UUID that no other card has, of the driver's or else of PyTorch's; None where partitions
    share all of them."""
    for uuid, others in ((card.hip_uuid, [c.hip_uuid for c in cards]),
                         (card.uuid, [c.uuid for c in cards]),
                         (seen.uuid, [d.uuid for d in devices])):  # fmt: skip
        if uuid is not None and others.count(uuid) == 1:
            return uuid
    return None


def _difference(device: TorchDevice) -> Callable[[Gpu], int]:
    """Slices of a card differ in memory; equal ones keep their order."""
    return lambda card: abs((card.total_bytes or 0) - (device.total_bytes or 0)) // 2**30


def _same_uuid(device: TorchDevice, card: Gpu) -> bool:
    of_card = {_plain(uuid) for uuid in (card.uuid, card.hip_uuid) if uuid}
    return device.uuid is not None and not of_card.isdisjoint(_readings(device.uuid))


def _inside(device: TorchDevice, card: Gpu) -> bool:
    """Older drivers give a slice the UUID of its card."""
    known = device.uuid is not None and card.card_uuid is not None
    return known and _plain(card.card_uuid or "") in _readings(device.uuid or "")


def _plain(uuid: str) -> str:
    return re.sub(r"^(gpu|mig)-", "", uuid.lower())


def _readings(uuid: str) -> set[str]:
    """HIP's UUID is text in sixteen bytes, which PyTorch prints as if they were numbers."""
    plain = _plain(uuid)
    try:
        text = bytes.fromhex(plain.replace("-", "")).decode("ascii")
    except ValueError:
        return {plain}
    return {plain, text.lower()}


def _same_address(device: TorchDevice, card: Gpu) -> bool:
    """Without the function, in which partitions differ and which PyTorch does not know."""
    if device.bus_id is None or card.bus_id is None:
        return False
    return device.bus_id.rsplit(".", 1)[0] == card.bus_id.rsplit(".", 1)[0]
