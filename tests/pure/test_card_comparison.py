"""`plan --compare`: one run on many cards."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.card_comparison import CardAnswer, asked_for, cards_of, cheapest, prices_of
from sd3tune.cli import comparison_lines
from sd3tune.errors import ConfigError, PlanError
from sd3tune.plan.duration import Duration
from sd3tune.plan.run_time import RunTime
from tests.commands import exit_code
from tests.plans import LARGE, plan
from tests.projects import Project

CARDS = ["h100", "rtx4090", "rtx3060", "rtx2060", "m1"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made = Project(tmp_path)
    # Too much for an RTX 2060, as long as no block is swapped.
    precision = {"base_model_precision": "int8-quanto", "blocks_to_swap": 0}
    made.config(pretrained_model_name_or_path=LARGE, resolution=1024, **precision)
    made.image(resolution=1024)
    return made


Run = Any


@pytest.fixture
def answered(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`plan --compare` of all CARDS with these words: the exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = exit_code(["plan", "config/config.json", *words], monkeypatch)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_document_says_what_each_card_needs_takes_costs_and_gets(answered: Run) -> None:
    prices = ("--price", "h100=3", "--price", "RTX 4090=0.5")
    code, out, _ = answered("--compare", ",".join(CARDS), "--json", *prices)
    cards = {card["name"]: card for card in json.loads(out)["cards"]}
    assert code == 0 and set(cards) == set(CARDS)
    large = cards["h100"]
    assert large["fits"] and large["training_bytes"] < large["available_bytes"]
    hours = large["time"]["seconds"] / 3600
    assert large["cost"] == pytest.approx(3 * hours, rel=0.01)
    assert cards["rtx4090"]["cost"] == pytest.approx(
        0.5 * cards["rtx4090"]["time"]["seconds"] / 3600, rel=0.01
    )
    assert cards["rtx4090"]["time"]["seconds_per_step"] > large["time"]["seconds_per_step"]
    assert not cards["rtx2060"]["fits"] and "GiB" in cards["rtx2060"]["why"]
    assert cards["rtx3060"]["chosen"]["base_model_precision"] == "int8-quanto"
    chosen = {name: card["chosen"]["gradient_checkpointing"] for name, card in cards.items()
              if card["fits"]}  # fmt: skip
    assert chosen["h100"] == "none" and chosen["rtx3060"] != "none"


def test_the_answer_of_a_card_is_that_of_plan_on_it(answered: Run) -> None:
    _, out, _ = answered("--compare", "h100", "--json")
    (card,) = json.loads(out)["cards"]
    _, out, _ = answered("--on", "h100", "--price", "h100=2", "--json")
    alone = json.loads(out)
    assert alone["time"] == card["time"]
    assert alone["memory"]["training_bytes"] == card["training_bytes"]
    assert alone["cost"]["total"] == pytest.approx(2 * alone["time"]["seconds"] / 3600, rel=0.01)


def test_the_table_fits_eighty_columns_and_has_the_cheapest_first(answered: Run) -> None:
    prices = ("--price", "h100=3", "--price", "rtx4090=0.1")
    code, out, _ = answered("--compare", ",".join(CARDS), *prices)
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    first = [line.split()[0] for line in out.splitlines() if line.strip()][1]
    assert first == "rtx4090"
    assert "rtx2060: not possible" in out and "hint:" in out


def test_a_file_after_compare_is_the_configuration(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["plan", "--compare", "config/config.json", "lora_rank=0"]
    assert exit_code(wrong, monkeypatch) == 1
    assert "lora_rank=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "cards, prices, messages, hints",
    [
        ("h100,h10", (), ["unknown chip `h10`"], ["h100"]),
        ("h100,H100-SXM", (), ["`H100-SXM` is compared twice"], ["once"]),
        (",", (), ["no card is named"], ["commas"]),
        ("", ("2.49",), ["--price 2.49: which card"], ["--price CARD=PRICE"]),
        ("", ("h100=-1",), ["`-1` is negative"], ["an hour"]),
        ("", ("h100=free",), ["`free` is not an amount of money"], ["an hour"]),
        ("", ("h100=nan",), ["`nan` is not an amount of money"], ["an hour"]),
        ("", ("h100=1", "h100=2"), ["h100 has a price already"], ["one price"]),
        ("h100", ("l40s=1",), ["l40s is not compared"], ["compared: h100"]),
        ("h10", ("2", "l4Os=1"), ["`h10`", "--price 2:", "unknown chip `l4Os`"], ["h100", "l40s"]),
    ],
)
def test_what_is_wrong_with_cards_and_prices_is_said_at_once(
    cards: str, prices: tuple[str, ...], messages: list[str], hints: list[str]
) -> None:
    with pytest.raises(ConfigError) as e:
        asked_for(cards, prices)
    told = "\n".join(p.message for p in e.value.problems)
    advice = "\n".join(p.hint for p in e.value.problems)
    assert all(m in told for m in messages) and all(h in advice for h in hints)
    assert len(e.value.problems) == len(messages)


def test_a_price_of_another_card_than_that_of_the_plan_is_refused(answered: Run) -> None:
    code, _, err = answered("--on", "l40s", "--price", "h100=2")
    assert code == 1 and "this plan is for l40s, not for h100" in err
    code, _, err = answered("--on", "l40s", "--compare", "h100")
    assert code == 1 and "exclude each other" in err


def answer(key: str, hours: float | None, price: float | None = None) -> CardAnswer:
    """hours: of the run; None: it does not fit."""
    chip = chips.chip(key)
    if hours is None:
        return CardAnswer(chip, None, price=price, why="needs 30 GiB", hint="smaller")
    time = RunTime(Duration(1, 0.1), {"steps": 3600 * hours}, "data sheet")
    return CardAnswer(chip, plan(key), time, price)


def test_the_cheapest_fits_and_costs_least_whatever_an_hour_costs() -> None:
    slow, fast = answer("l40s", 10.0, price=1.0), answer("h100", 2.0, price=3.0)
    assert cheapest([slow, fast, answer("rtx2060", None, price=0.0)]).chip.key == "h100"
    assert cheapest([answer("l40s", 10.0, price=0.5), fast]).chip.key == "l40s"


def test_without_a_card_that_fits_and_has_a_price_there_is_no_cheapest() -> None:
    with pytest.raises(PlanError, match="fits none of rtx2060"):
        cheapest([answer("rtx2060", None, price=1.0)])
    with pytest.raises(PlanError, match="no cost is known for h100"):
        cheapest([answer("h100", 2.0), answer("rtx2060", None, price=1.0)])


def test_all_cards_of_the_catalogue_are_compared_where_none_is_named() -> None:
    assert cards_of("") == chips.CHIPS
    assert prices_of(["rtx 4090=0.5"]) == {"rtx4090": 0.5}


def test_a_row_with_the_longest_cells_fits_eighty_columns() -> None:
    for key in ("rtx3080ti-laptop", "mi355x"):  # the longest name, the most memory
        cells = comparison_lines.cells(answer(key, hours=99.9, price=99.9))
        assert len(comparison_lines.row(*cells)) <= 80


def test_a_row_says_that_a_batch_is_split_and_blocks_are_swapped() -> None:
    settings: dict[str, Any] = {"train_batch_size": 4, "base_model_precision": "int8-w8a8"}
    card, time = chips.chip("rtx2060"), answer("l40s", 2.0).time
    one = CardAnswer(card, plan("rtx2060", LARGE, **settings), time)
    cells = comparison_lines.cells(one)
    assert cells[-3] == "4/4" and cells[-2] == "i8-w8a8"
    assert cells[-1].startswith("+") and int(cells[-1][1:]) > 0
    (described,) = comparison_lines.document([one])["cards"]
    assert described["chosen"]["batch_split"] == 4 and described["chosen"]["blocks_to_swap"] > 0
    assert len(comparison_lines.row(*cells)) <= 80


def test_cloud_write_takes_the_cheapest_card_and_says_why(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ["--price", "h100=2", "--price", "rtx4090=9", "--price", "rtx2060=0.01"]
    words = ["cloud", "write", "sky", "config/config.json", "--cheapest", *prices]
    assert exit_code(words, monkeypatch) == 0
    told = capsys.readouterr()
    assert "H100" in told.out and "4090" not in told.out
    assert "h100: taken, the cheapest: " in told.err and "rtx4090: " in told.err
    assert "rtx2060: " in told.err and "GiB" in told.err


@pytest.mark.parametrize(
    "words, message, hint",
    [
        ([], "name a card, or ask for the cheapest", "--cheapest"),
        (["--cheapest", "--card", "h100"], "name a card, or ask for", "--card NAME"),
        (["--cheapest"], "--cheapest needs prices", "--price CARD=PRICE"),
        (["--card", "h100", "--price", "h100=1"], "--price does nothing with --card", "leave one"),
        (["--cheapest", "--price", "h10=1"], "unknown chip `h10`", "h100"),
        (["--cheapest", "--price", "rtx2060=1"], "the run fits none of rtx2060", "larger cards"),
    ],
)
def test_cloud_write_refuses_a_choice_of_cards_that_makes_no_sense(
    words: list[str],
    message: str,
    hint: str,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(["cloud", "write", "sky", "config/config.json", *words], monkeypatch) == 1
    told = capsys.readouterr().err
    assert f"error: {message}" in told.replace("--price h10=1: ", "") and hint in told
