"""Which cards a *_VISIBLE_DEVICES variable leaves, as the vendors' runtimes read it.

Rules of CUDA (and of PyTorch's own parser): numbers or unique UUID prefixes; the first entry that
fits nothing ends the list; a card named twice empties it; an empty text hides everything. Where a
variable leaves less than it names, its fault says so: nobody then trains on another device in
silence. Standard library only, and nothing here raises.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sd3tune.backends.observe.facts import Gpu, Note, Problem

ENDS = ("", "-1")  # at the end of a list they hide nothing that was named
# Words of container tools and schedulers, which CUDA and HIP do not know.
WORDS = ("none", "void", "all", "null", "nodevfiles")
HIDES_ALL = ("visible-none", "visible-twice")  # ends of ids
SHOWN = 4  # cards that a fix lists


@dataclass(frozen=True)
class Selection:
    """The cards that variables leave, in the order in which PyTorch numbers them."""

    cards: tuple[Gpu, ...]
    faults: tuple[Problem, ...] = ()
    # False: a UUID is named, and the driver's source does not list UUIDs: all cards are possible.
    certain: bool = True


def select(
    variable: str,
    value: str | None,
    cards: Sequence[Gpu],
    *,
    maker: str = "nvidia",
    numbered: Sequence[Gpu] | None = None,
) -> Selection:
    """What one variable leaves of the cards.

    value: None: the variable is not set, and every card is left.
    maker: the beginning of a fault's id.
    numbered: what the numbers stand for; None: the cards themselves.
    """
    if value is None:
        return Selection(tuple(cards))
    numbers = cards if numbered is None else numbered
    asked = _Variable(variable, value, maker)
    found: list[Gpu] = []
    entries = [entry.strip() for entry in value.split(",")]
    for place, entry in enumerate(entries):
        fits = _named(entry, cards, numbers)
        if not fits and _unlisted(entry, cards):
            return Selection(tuple(cards), certain=False)
        if len(fits) != 1:
            if found and entry in ENDS and place == len(entries) - 1:
                break
            why = _misfit(entry, fits, cards, numbers)
            return Selection(tuple(found), (asked.fault(found, why, cards),))
        if fits[0] in found:
            return Selection((), (asked.twice(fits[0], cards),))
        found.append(fits[0])
    return Selection(tuple(found))


def named(variables: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The variables that are set, with their values: `CUDA_VISIBLE_DEVICES=1`; None: none is."""
    found = [f"{name}={environ[name]}" for name in variables if name in environ]
    return ", ".join(found) or None


def left(
    variables: str | None, maker: str, selected: Selection, cards: Sequence[Gpu], count: int
) -> tuple[Note, ...]:
    """What variables leave of `count` cards, where they can be honoured: PyTorch's number and the
    driver's of each."""
    if variables is None or selected.faults or not selected.certain:
        return ()
    which = "; ".join(f"cuda:{i} is {card.label}" for i, card in enumerate(cards[:SHOWN]))
    more = f"; and {len(cards) - SHOWN} more" if len(cards) > SHOWN else ""
    words = f"{variables} leaves {len(cards)} of {count}: {which}{more}"
    return (Note(f"{maker}.visible", words, "environment"),)


def against(faults: Sequence[Problem], shown: int) -> list[Problem]:
    """The faults, where PyTorch shows so many devices: one that says that every card is hidden is
    then a doubt about our own reading of the variable."""
    told = []
    for fault in faults:
        if shown and fault.id.endswith(HIDES_ALL):
            words = f"{fault.message}; PyTorch shows {shown} all the same"
            fault = replace(fault, severity="warn", message=words)
        told.append(fault)
    return told


def cure(variable: str, cards: Sequence[Gpu]) -> str:
    """What the variable may be, told apart by bus and UUID."""
    if not cards:
        return f"unset {variable}"
    more = [f"and {len(cards) - SHOWN} more"] if len(cards) > SHOWN else []
    if any(card.mig for card in cards):  # no number stands for the second slice of a card
        labels = "; ".join([*(card.label for card in cards[:SHOWN]), *more])
        return f"unset {variable}, or set it to the UUID of one of these: {labels}"
    choices = [f"{i} is {card.label}" for i, card in enumerate(cards[:SHOWN])]
    numbers = ",".join(str(i) for i in range(len(cards)))
    numbers += " or fewer of them" if len(cards) > 1 else ""
    return f"unset {variable}, or set it to {numbers}: {'; '.join(choices + more)}"


def _named(entry: str, cards: Sequence[Gpu], numbered: Sequence[Gpu]) -> list[Gpu]:
    if re.fullmatch(r"\+?\d+", entry):
        number = int(entry)
        return [numbered[number]] if number < len(numbered) else []
    if not entry.upper().startswith(("GPU-", "MIG-")):
        return []
    fits = [c for c in cards if any(u.lower().startswith(entry.lower()) for u in _uuids(c))]
    if fits:
        return fits
    # The UUID of a card that is cut into slices stands for the first of them.
    inside = [c for c in cards if c.card_uuid and c.card_uuid.lower().startswith(entry.lower())]
    return inside[:1]


def _unlisted(entry: str, cards: Sequence[Gpu]) -> bool:
    """The UUID may be that of a card whose UUID, or of a card whose slices, no source lists."""
    if entry.upper().startswith("MIG-GPU-"):  # the older way to name a slice: by its card's UUID
        of_card = entry[len("MIG-") :].partition("/")[0].lower()
        return any((card.card_uuid or "").lower() == of_card for card in cards)
    if entry.upper().startswith("MIG-"):
        return any(card.mig and not (card.uuid or "").startswith("MIG-") for card in cards)
    return entry.upper().startswith("GPU-") and any(not _uuids(card) for card in cards)


def _uuids(card: Gpu) -> list[str]:
    """Older drivers name a slice by its card: MIG-GPU-…/1/0."""
    return [uuid for uuid in (card.uuid, card.hip_uuid) if uuid]


def _misfit(entry: str, fits: list[Gpu], cards: Sequence[Gpu], numbered: Sequence[Gpu]) -> str:
    """Why an entry is not one card."""
    bare = entry.strip("\"'")
    if entry == "":
        return "an empty entry ends the list"
    if fits:
        return f"`{entry}` fits {len(fits)} cards: write more of the UUID"
    if bare != entry:
        return f"the quotes of {entry} are part of the value"
    if re.fullmatch(r"-\d+", entry):
        return f"a negative number ({entry}) ends the list"
    if re.fullmatch(r"\+?\d+", entry):
        have = f"they are numbered 0 to {len(numbered) - 1}" if numbered else "none is left"
        return f"there is no card {entry} ({'the only one is 0' if len(numbered) == 1 else have})"
    if entry.lower() in WORDS:
        return f"`{entry}` is not a number or a UUID of a card"
    if entry.upper().startswith(("GPU-", "MIG-")):
        return f"no card here has the UUID {entry}"
    if any(u.split("-", 1)[-1].lower().startswith(entry.lower()) for c in cards for u in _uuids(c)):
        return f"the UUID {entry} lacks its beginning, GPU- or MIG-"
    return f"`{entry}` is not a number or a UUID of a card"


@dataclass(frozen=True)
class _Variable:
    """One variable as it is set, to say what is wrong with it."""

    name: str
    value: str
    maker: str

    def fault(self, found: Sequence[Gpu], why: str, cards: Sequence[Gpu]) -> Problem:
        """found: the cards that it leaves. why: what ends its list. cards: those to choose from."""
        if not self.value.strip():
            words = f"{self.name} is set and empty, which hides every card"
        elif not found:
            words = f"{self.name}={self.value} hides every card: {why}"
        else:
            words = f"{self.name}={self.value} leaves {len(found)} of the cards that it names: "
            words += why
        kind = "unknown" if found else "none"
        return Problem(f"{self.maker}.visible-{kind}", "fail", words, cure(self.name, cards))

    def twice(self, card: Gpu, cards: Sequence[Gpu]) -> Problem:
        """card: named twice, for which the runtimes show none at all."""
        words = f"{self.name}={self.value} hides every card: it names {card.label} twice"
        return Problem(f"{self.maker}.visible-twice", "fail", words, cure(self.name, cards))
