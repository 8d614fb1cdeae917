"""Which NVIDIA cards and slices CUDA shows a process, and how it numbers them.

Sources: CUDA programming guide, environment variables; NVIDIA MIG user guide, "CUDA device
enumeration": a process sees one slice, and no whole card beside a slice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sd3tune.backends.observe.facts import Gpu, Note, Problem
from sd3tune.backends.observe.visible_devices import Selection, left, named, select

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
CONTAINER = "NVIDIA_VISIBLE_DEVICES"  # what the container was given
BY_BUS = "PCI_BUS_ID"  # what sd3tune sets where the user has not set another order


def selection(cards: Sequence[Gpu], environ: Mapping[str, str]) -> Selection:
    """The cards and slices that the variable names; all of them where it is not set. A number
    stands for a card, and for the first slice of one that is cut into slices."""
    first = {card.index: card for card in reversed(cards)}
    numbered = [first[index] for index in sorted(first)]
    selected = select(VISIBLE, environ.get(VISIBLE), cards, numbered=numbered)
    given = environ.get(CONTAINER, "all")
    if given.lower() in ("", "all", "void", "none"):
        return selected
    more = f"; of {CONTAINER}={given} this container has these cards, numbered from 0"
    told = tuple(replace(f, message=f.message + more) for f in selected.faults)
    return Selection(selected.cards, told, selected.certain)


def shown(cards: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Of the selected cards, those that a process can use: the first slice alone, if there is a
    slice."""
    slices = [card for card in cards if card.mig]
    return tuple(slices[:1] or cards)


def by_bus(environ: Mapping[str, str]) -> bool:
    """CUDA numbers cards as nvidia-smi does, and not the fastest first."""
    return environ.get(ORDER, BY_BUS) == BY_BUS


def chosen_by(cards: Sequence[Gpu], environ: Mapping[str, str]) -> str | None:
    """The variables that decide which card is `cuda:0`; None where there is one card."""
    if said := named((VISIBLE, ORDER), environ):
        return said
    return f"{VISIBLE} is not set" if len(cards) > 1 else None


def notes(cards: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Note, ...]:
    """What the variables leave, and an order under which numbers are not those of nvidia-smi."""
    selected = selection(cards, environ)
    found = left(named((VISIBLE,), environ), "nvidia", selected, shown(selected.cards), len(cards))
    if by_bus(environ) or len(cards) < 2:
        return found
    words = (
        f"{ORDER}={environ[ORDER]}: CUDA numbers the fastest card first, so its numbers (also in "
        f"{VISIBLE}) may differ from those of nvidia-smi; {BY_BUS} makes them equal"
    )
    known = () if VISIBLE in environ else found  # the numbers in it are CUDA's
    return (*known, Note("nvidia.order", words, "environment"))


def unseen(seen: Sequence[Gpu], missing: Sequence[Gpu], environ: Mapping[str, str]) -> Problem:
    """Why PyTorch shows fewer cards than the variable leaves. seen, missing: cards that it shows,
    and those that it does not."""
    slices = [card for card in (*seen, *missing) if card.mig]
    used = ", ".join(card.label for card in seen)
    others = "; ".join(card.label for card in missing)
    if seen and slices:
        whole = [card for card in missing if not card.mig]
        severity = "fail" if whole or VISIBLE in environ else "warn"
        words = f"CUDA shows a process one MIG slice and no whole card beside it: {used}"
        fix = f"set {VISIBLE} to the UUID of the one to train on. Not used: {others}"
        return Problem("nvidia.mig-hides", severity, words, fix)  # type: ignore[arg-type]
    count = f"PyTorch shows {len(seen)} of {len(seen) + len(missing)} GPUs"
    said = named((VISIBLE,), environ) or f"{VISIBLE} is not set"
    words = f"{count} that the driver shows ({said}); it does not show {others}"
    fix = "restart the container or the machine; look at dmesg for Xid messages"
    if seen:
        names = ",".join(card.uuid or str(card.index) for card in seen)
        fix += f"; {VISIBLE}={names} trains without the others"
    return Problem("torch.fewer-devices", "fail", words, fix)
