"""The judge's contact sheet: each picture enlarged, its prompt, and a tick or a cross."""

import textwrap
from collections.abc import Sequence

from PIL import Image

from sd3tune.data import lettering
from sd3tune.demo.judge import Judgement, said

CELL, GAP, COLUMNS = 256, 12, 6  # pixels
PROMPT_LINES, WRAP = 3, 44  # characters: what fits into a cell
BACK, INK, RIGHT, WRONG = "#f4f2ee", "#222222", "#1a7f37", "#c62828"
LABEL = (PROMPT_LINES + 1) * lettering.LINE + 4


def sheet(
    pictures: Sequence[Image.Image],
    verdicts: Sequence[Judgement],
    columns: int = COLUMNS,
    headings: Sequence[str] = (),
) -> Image.Image:
    """All pictures in rows of `columns`, in order, each as wide as a cell. headings: a line above
    each row; they repeat where there are fewer than rows."""
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    above = lettering.LINE if headings else 0
    height = above + CELL + LABEL + GAP
    whole = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * height + GAP), BACK)
    for row in range(rows if headings else 0):
        text = lettering.line(headings[row % len(headings)], whole.width - 2 * GAP, INK, BACK)
        whole.paste(text, (GAP, GAP + row * height))
    for i, (picture, verdict) in enumerate(zip(pictures, verdicts, strict=True)):
        left = GAP + i % columns * (CELL + GAP)
        top = GAP + i // columns * height + above
        whole.paste(cell(picture, verdict), (left, top))
    return whole


def cell(picture: Image.Image, verdict: Judgement) -> Image.Image:
    """One picture with its prompt below; the last line has the verdict and what is seen."""
    tile = Image.new("RGB", (CELL, CELL + LABEL), BACK)
    tile.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST))
    wrapped = textwrap.wrap(verdict.prompt, WRAP, max_lines=PROMPT_LINES, placeholder=" ...")
    mark, ink = ("✓", RIGHT) if verdict.is_right else ("✗", WRONG)
    lines = [(text, INK) for text in wrapped]
    # The mark has a line's piece of its own: with it, the line would be drawn in the large font.
    for i, (text, colour) in enumerate(lines):
        tile.paste(lettering.line(text, CELL, colour, BACK), (0, CELL + 4 + i * lettering.LINE))
    top = CELL + 4 + len(lines) * lettering.LINE
    tile.paste(lettering.line(mark, 20, ink, BACK), (0, top))
    tile.paste(lettering.line(f"seen: {said(verdict.seen)}", CELL - 20, ink, BACK), (20, top))
    return tile
