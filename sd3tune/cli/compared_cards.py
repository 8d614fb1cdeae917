"""A run on several cards, for `plan --compare` and `cloud write --cheapest`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd3tune.cli.arguments import announced

if TYPE_CHECKING:
    from sd3tune.backends.decide.chips import Chip
    from sd3tune.card_comparison import CardAnswer, Prices


def compared_cards(
    arguments: tuple[str, ...], cards: "Sequence[Chip]", prices: "Prices"
) -> "list[CardAnswer]":
    """Best first. Shows how far it is. Raises Sd3tuneError."""
    from sd3tune import prepare
    from sd3tune.card_comparison import ComparedRun, compare
    from sd3tune.checked_run import load_checked
    from sd3tune.report.progress import stage

    path, overrides = announced(arguments)
    config, datasets = load_checked(path, overrides, here=False)
    found, model = prepare.read_data(config, datasets, here=False)
    run = ComparedRun(found, model, prepare.asked_for(config))
    with stage("planning for each card", len(cards)) as progress:
        return compare(run, cards, prices, lambda card: progress.advance(words=card.key))
