"""One run on many cards of the catalogue: where it fits, how long it takes, and what it costs.

The configuration and the datasets are read once; each card has a plan of its own, as
`sd3tune plan --on CARD` makes it. Nothing is measured.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import recorded
from sd3tune.backends.decide.chips import Chip
from sd3tune.discovered import Discovered
from sd3tune.errors import ConfigError, ErrorAndHint, HardwareError, PlanError
from sd3tune.plan.plan import Plan
from sd3tune.plan.run_time import RunTime
from sd3tune.prepare import plan_run
from sd3tune.processes.environment import Processes
from sd3tune.run_overview import overview_of
from sd3tune.sd3.variants import Model

Prices = Mapping[str, float]  # key of a card -> money for an hour of one card


@dataclass(frozen=True)
class CardAnswer:
    """What a run would be on one card. plan: None where it does not fit or cannot run there, and
    then `why` and `hint` say what stands against it. price: of an hour of all cards of the run."""

    chip: Chip
    plan: Plan | None
    time: RunTime | None = None
    price: float | None = None
    why: str = ""
    hint: str = ""

    @property
    def cost(self) -> float | None:
        """None where the price or the time is unknown, or the run does not fit."""
        if self.time is None or self.price is None:
            return None
        return self.time.cost(self.price)

    @property
    def seconds(self) -> float:
        """Of the whole run; infinite where it is unknown."""
        return math.inf if self.time is None else self.time.total.seconds

    @property
    def order(self) -> tuple[bool, float, float, int]:
        """Cards that fit first, the cheapest of them, then the fastest, then the smallest."""
        cost = math.inf if self.cost is None else self.cost
        return (self.plan is None, cost, self.seconds, self.chip.usable_bytes)


@dataclass(frozen=True)
class ComparedRun:
    """What all cards have in common."""

    found: Discovered
    model: Model
    processes: Processes


def compare(
    run: ComparedRun,
    cards: Sequence[Chip],
    prices: Prices,
    done: Callable[[Chip], None] = lambda chip: None,
) -> list[CardAnswer]:
    """An answer for each card, best first. done: called after each card. Raises ConfigError for
    settings that make no sense on any card."""
    answers = []
    for card in cards:
        answers.append(answer(run, card, prices.get(card.key)))
        done(card)
    return sorted(answers, key=lambda a: a.order)


def answer(run: ComparedRun, card: Chip, price: float | None) -> CardAnswer:
    """The plan for one card. price: of an hour of one card."""
    facts = chips.facts(card)
    total = None if price is None else price * run.processes.size
    try:
        ready = plan_run(run.found, run.model, facts, run.processes, recorded({}))
    except (PlanError, HardwareError) as e:
        return CardAnswer(card, None, price=total, why=str(e), hint=e.hint)
    return CardAnswer(card, ready.plan, overview_of(ready).time, total)


def cheapest(answers: Sequence[CardAnswer]) -> CardAnswer:
    """The first in the order of `compare` that fits and has a cost. Raises PlanError."""
    costs = [a for a in answers if a.cost is not None]
    if costs:
        return min(costs, key=lambda a: a.order)
    fitting = [a.chip.key for a in answers if a.plan is not None]
    tried = ", ".join(a.chip.key for a in answers)
    if fitting:
        raise PlanError(
            f"no cost is known for {', '.join(fitting)}", hint="give the price of one with --price"
        )
    raise PlanError(
        f"the run fits none of {tried}", hint=f"give prices of larger cards; {answers[-1].hint}"
    )


def asked_for(cards: str, prices: Sequence[str]) -> tuple[tuple[Chip, ...], Prices]:
    """The cards to compare and their prices, from the words of the command line. Raises ConfigError
    with everything that is wrong with either."""
    problems: list[ErrorAndHint] = []
    for check in (lambda: cards_of(cards), lambda: prices_of(prices)):
        try:
            check()
        except ConfigError as e:
            problems += e.problems
    if problems:
        raise ConfigError.of(problems)
    named = cards_of(cards)
    return named, prices_of(prices, named)


def cards_of(words: str) -> tuple[Chip, ...]:
    """The cards that a comma-separated list names, or all of the catalogue for an empty one.
    Raises ConfigError with every name that is wrong."""
    if not words:
        return chips.CHIPS
    problems: list[ErrorAndHint] = []
    cards: dict[str, Chip] = {}
    for word in filter(None, (w.strip() for w in words.split(","))):
        card = _card(word, f"--compare {word}", problems)
        if card is not None and card.key in cards:
            both = f"`{word}` is compared twice: it is {card.name}, as {card.key} is"
            problems.append(ErrorAndHint(both, "name each card once"))
        elif card is not None:
            cards[card.key] = card
    if problems or not cards:
        no_card = ErrorAndHint(f"--compare {words}: no card is named", "write names, with commas")
        raise ConfigError.of(problems or [no_card])
    return tuple(cards.values())


def prices_of(words: Sequence[str], cards: Sequence[Chip] | None = None) -> dict[str, float]:
    """Key of a card -> its price, from words as `h100=2.49`. cards: those that may have one; None:
    any of the catalogue. Raises ConfigError with everything that is wrong."""
    problems: list[ErrorAndHint] = []
    prices: dict[str, float] = {}
    allowed = None if cards is None else {card.key for card in cards}
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not name.strip():
            problems.append(ErrorAndHint(
                f"--price {word}: which card costs that?", "write --price CARD=PRICE, as h100=2.49"
            ))  # fmt: skip
            continue
        card, price = _card(name.strip(), f"--price {word}", problems), _price(word, problems)
        if card is None or price is None:
            continue
        if card.key in prices:
            problems.append(ErrorAndHint(
                f"--price {word}: {card.key} has a price already", "give each card one price"
            ))  # fmt: skip
        elif allowed is not None and card.key not in allowed:
            listed = ", ".join(sorted(allowed))
            problems.append(ErrorAndHint(
                f"--price {word}: {card.key} is not compared", f"compared: {listed}"
            ))  # fmt: skip
        prices[card.key] = price
    if problems:
        raise ConfigError.of(problems)
    return prices


def _card(name: str, where: str, problems: list[ErrorAndHint]) -> Chip | None:
    try:
        return chips.chip(name)
    except ConfigError as e:
        problems.append(ErrorAndHint(f"{where}: {e}", e.hint))
        return None


def _price(word: str, problems: list[ErrorAndHint]) -> float | None:
    """A finite amount of zero or more."""
    amount = word.partition("=")[2]
    try:
        price = float(amount)
    except ValueError:
        price = math.nan
    if math.isfinite(price) and price >= 0:
        return price
    why = "is negative" if price < 0 else "is not an amount of money"
    problems.append(ErrorAndHint(
        f"--price {word}: `{amount}` {why}", "write an amount for an hour of one card, as h100=2.49"
    ))  # fmt: skip
    return None
