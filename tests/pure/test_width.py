"""Lines as wide as the terminal: words stay whole, and wide characters count as two columns."""

import pytest
from rich.cells import cell_len

from sd3tune.report.width import wrapped

SENTENCE = "  not bf16: adamw trains float32 weights: in bf16 an update below 1/256 is lost"


def test_a_line_is_broken_between_words_and_goes_on_indented() -> None:
    assert wrapped(SENTENCE, 50) == [
        "  not bf16: adamw trains float32 weights: in bf16",
        "      an update below 1/256 is lost",
    ]
    assert wrapped(SENTENCE, None) == [SENTENCE]


def test_a_path_stays_whole_on_a_line_of_its_own() -> None:
    path = "/data/" + "x" * 90 + "/config.json"
    assert wrapped(f"error: `{path}` is gone", 60)[1].strip() == f"`{path}`"


@pytest.mark.parametrize("caption", ["日本語の長い文章" * 20, "ein Satz mit 漢字 und 🎉 " * 9])
def test_wide_characters_take_two_columns(caption: str) -> None:
    lines = wrapped(f"    cat.png: {caption}", 80)
    assert all(cell_len(line) <= 80 for line in lines) and len(lines) > 2
    shown = "".join("".join(lines).split())
    assert shown == "".join(f"cat.png: {caption}".split()), "nothing is lost"
