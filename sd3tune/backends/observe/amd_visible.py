"""Which AMD cards and partitions HIP shows a process.

Source: ROCm documentation, "GPU isolation techniques": ROCR_VISIBLE_DEVICES filters first (numbers,
or GPU- and sixteen hexadecimal digits); HIP_VISIBLE_DEVICES numbers what it leaves.
CUDA_VISIBLE_DEVICES and GPU_DEVICE_ORDINAL mean the same to HIP.
"""

from collections.abc import Mapping, Sequence

from sd3tune.backends.observe.facts import Gpu, Note, Problem
from sd3tune.backends.observe.visible_devices import Selection, left, named, select

FILTER = "ROCR_VISIBLE_DEVICES"
NUMBERS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
VARIABLES = (FILTER, *NUMBERS)


def selection(cards: Sequence[Gpu], environ: Mapping[str, str]) -> Selection:
    """The cards that the variables leave, in HIP's order, with everything that is wrong in them."""
    if all(card.hip_index is not None for card in cards):
        cards = sorted(cards, key=lambda card: card.hip_index or 0)
    left = select(FILTER, environ.get(FILTER), cards, maker="amd")
    if left.faults or not left.certain:
        return left
    chosen = {
        name: select(name, environ[name], left.cards, maker="amd")
        for name in NUMBERS
        if name in environ
    }
    if not chosen:
        return left
    conflict = _conflict(chosen, environ)
    used = next(iter(chosen.values()))
    faults = (fault for selected in chosen.values() for fault in selected.faults)
    said = f" (numbers count what {FILTER}={environ[FILTER]} leaves)" if FILTER in environ else ""
    told = [Problem(f.id, f.severity, f.message + said, f.fix) for f in faults]
    return Selection(used.cards, (*conflict, *told), used.certain)


def _conflict(chosen: Mapping[str, Selection], environ: Mapping[str, str]) -> tuple[Problem, ...]:
    first, *others = (selected.cards for selected in chosen.values())
    if all(cards == first for cards in others):
        return ()
    words = f"{' and '.join(f'{n}={environ[n]}' for n in chosen)} name different cards: HIP does "
    words += "not say which of them counts"
    unset = " ".join(list(chosen)[1:])
    return (Problem("amd.visible-conflict", "fail", words, f"unset {unset}"),)


def chosen_by(cards: Sequence[Gpu], environ: Mapping[str, str]) -> str | None:
    """The variables that decide which card is `cuda:0`; None where there is one card."""
    if said := named(VARIABLES, environ):
        return said
    return f"{NUMBERS[0]} is not set" if len(cards) > 1 else None


def notes(cards: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Note, ...]:
    """What the variables leave."""
    selected = selection(cards, environ)
    return left(named(VARIABLES, environ), "amd", selected, selected.cards, len(cards))


def unseen(seen: Sequence[Gpu], missing: Sequence[Gpu], environ: Mapping[str, str]) -> Problem:
    """PyTorch shows fewer cards than the variables leave. seen, missing: cards that it shows, and
    those that it does not."""
    said = named(VARIABLES, environ) or f"{NUMBERS[0]} is not set"
    others = "; ".join(card.label for card in missing)
    words = f"PyTorch shows {len(seen)} of {len(seen) + len(missing)} GPUs that the driver shows "
    words += f"({said}); it does not show {others}"
    fix = "look at rocminfo and dmesg; restart the container with all of /dev/dri"
    if seen:
        numbers = ",".join(str(c.index if c.hip_index is None else c.hip_index) for c in seen)
        fix += f"; {NUMBERS[0]}={numbers} trains without the others"
    return Problem("torch.fewer-devices", "fail", words, fix)
