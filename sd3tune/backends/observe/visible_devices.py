"""Which cards a *_VISIBLE_DEVICES variable leaves, as the vendors' runtimes read it.

Rules of CUDA (and of PyTorch's own parser): numbers or unique UUID prefixes; the first word that
fits nothing ends the list; a card named twice empties it; an empty text hides everything.
"""

from sd3tune.backends.observe.facts import Gpu


def pick(cards: tuple[Gpu, ...], value: str | None) -> tuple[Gpu, ...]:
    if value is None:
        return cards
    found: list[Gpu] = []
    for word in value.split(","):
        card = _one(cards, word.strip())
        if card is None:
            break
        if card in found:
            return ()
        found.append(card)
    return tuple(found)


def _one(cards: tuple[Gpu, ...], word: str) -> Gpu | None:
    if word.isdigit():
        return cards[int(word)] if int(word) < len(cards) else None
    if not word or word.startswith("-"):
        return None
    fits = [c for c in cards if c.uuid and c.uuid.lower().startswith(word.lower())]
    return fits[0] if len(fits) == 1 else None
