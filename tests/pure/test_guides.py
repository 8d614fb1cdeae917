"""Guides say what is true: their commands exist, their settings are accepted, their tables are what
the plan gives."""

import re
from contextlib import suppress
from pathlib import Path

import click
import pytest

from sd3tune.cli import cli
from sd3tune.errors import PlanError
from sd3tune.plan.memory import GIB
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES
from tests.document_pages import PAGES, ROOT, commands, named
from tests.plans import LARGE, MEDIUM, plan


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_of_a_page_have_the_options_that_sd3tune_has(page: Path) -> None:
    for words in commands(page):
        group: click.Command = cli
        left = ["." if word in ("DIR", "my/output/cache") else word for word in words]
        while isinstance(group, click.Group) and left:
            while left and left[0] in ("-v", "-q"):
                left.pop(0)
            group = group.commands[left.pop(0)]
        if not left:  # it is only named
            continue
        with suppress(click.MissingParameter):
            context = click.Context(group, help_option_names=["-h", "--help"])  # they are kept
            group.parse_args(context, left)  # UsageError for what it does not know


def rows(page: str, cells: int) -> list[list[str]]:
    """Table rows with so many cells."""
    lines = (ROOT / "docs" / "guides" / page).read_text().splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for line, row in zip(lines, split, strict=True)
            if line.startswith("| ") and len(row) == cells]  # fmt: skip


def test_the_table_of_amd_cards_is_what_the_plan_gives() -> None:
    shown = [row for row in rows("rocm.md", 5) if row[0].startswith("`")]
    assert len(shown) == 7
    for card, model, weights, batch, memory in shown:
        made = plan(card.strip("`"), {"medium": MEDIUM, "large": LARGE}[model])
        scheme = made.precision.transformer.value
        assert weights == (made.precision.base.value if scheme == "no_change" else scheme)
        assert int(batch) == made.batch_size
        assert memory == f"{made.memory.estimate.training / GIB:.1f}"


def test_the_table_of_small_cards_is_what_the_plan_gives() -> None:
    shown = [row for row in rows("small-cards.md", 6) if row[0].startswith("`")]
    assert len(shown) == 9
    for card, model, side, weights, batch, memory in shown:
        made = plan(card.strip("`"), {"medium": MEDIUM, "large": LARGE}[model], side=int(side))
        scheme = made.precision.transformer.value
        assert weights == (made.precision.base.value if scheme == "no_change" else scheme)
        assert int(batch) == made.batch_size
        assert memory == f"{made.memory.estimate.training / GIB:.1f}"


def test_the_tables_of_macs_are_what_the_plan_gives() -> None:
    """One table for each model; a row is a chip, with its memory where several are sold."""
    shown = [row for row in rows("mac.md", 6) if re.match(r"\d+ GB", row[0])]
    assert len(shown) == 48
    for place, (mac, side, weights, attention, batch, memory) in enumerate(shown):
        gigabytes, named = mac.split(" GB")[0], re.search(r"`(.*)`", mac)
        chip = f"{named[1] if named else 'm2'}-{gigabytes}gb"
        model = MEDIUM if place < 24 else LARGE
        if weights == "does not fit":
            with pytest.raises(PlanError):
                plan(chip, model, side=int(side))
            continue
        made = plan(chip, model, side=int(side))
        scheme = made.precision.transformer.value
        given = (
            made.precision.base.value if scheme == "no_change" else scheme,
            made.attention.training.value,
            str(made.batch_size),
            f"{made.memory.estimate.training / GIB:.1f}",
        )
        assert given == (weights, attention, batch, memory), f"{mac}, {side} px"


def test_the_readme_counts_optimizers_and_quantisations_as_the_tables_do() -> None:
    text = (ROOT / "README.md").read_text()
    assert f"{len(OPTIMIZERS.rows)} optimizers" in text
    schemes = [row for row in SCHEMES.rows if row.quantises and not row.multiplies]
    assert "five quantisations" in text and len(schemes) == 5


def test_an_adapter_s_size_on_sd35_large_is_the_plan_s() -> None:
    page = " ".join((ROOT / "docs" / "concepts" / "optimisation.md").read_text().split())
    (millions,) = re.findall(r"of rank 16 on SD3.5 large has ([\d.]+) million values", page)
    assert plan("h200", LARGE, lora_rank=16).trained.count == pytest.approx(float(millions) * 1e6,
                                                                           rel=1e-3)  # fmt: skip
