"""Pictures of a run on one sheet: the prompts over the steps, and before beside after."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from sd3tune.data import lettering
from sd3tune.filesystem import drafts

GAP, MARGIN = 8, 12  # pixels
GRID_CELL, LARGE_CELL = 192, 384  # pixels: the longest side of a picture
SMALL = 96  # a picture with a shorter side than this is enlarged, so that it is seen
MOST_COLUMNS = 12
BACK, INK, PALE = "#f4f2ee", "#222222", "#777777"


@dataclass(frozen=True)
class SheetRow:
    """The pictures of one prompt, size and index."""

    title: str  # the name of the prompt, and what distinguishes the row
    prompt: str
    cells: Sequence[Path | None]  # beside each other; None: there is no picture


def write_sheet(path: Path, columns: Sequence[str], rows: Sequence[SheetRow], cell: int) -> None:
    """Writes a PNG. columns: their titles. cell: the longest side of a picture, in pixels. A file
    that is not a picture leaves its cell empty. Raises OSError."""
    tiles = [[_tile(p, cell) for p in row.cells] for row in rows]
    widths = [
        max((t.width for t in column if t), default=cell) for column in zip(*tiles, strict=True)
    ]
    heights = [max((t.height for t in row if t), default=lettering.LINE) for row in tiles]
    label = 2 * lettering.LINE + 2
    width = 2 * MARGIN + sum(widths) + GAP * (len(widths) - 1)
    height = 2 * MARGIN + lettering.LINE + sum(heights) + (GAP + label) * len(rows)
    sheet = Image.new("RGB", (width, height), BACK)
    left = MARGIN
    for title, column in zip(columns, widths, strict=True):
        sheet.paste(lettering.line(title, column, INK, BACK), (left, MARGIN))
        left += column + GAP
    top = MARGIN + lettering.LINE
    for row, row_tiles, tallest in zip(rows, tiles, heights, strict=True):
        room = width - 2 * MARGIN
        sheet.paste(lettering.line(row.title, room, PALE, BACK), (MARGIN, top))
        sheet.paste(lettering.line(row.prompt, room, INK, BACK), (MARGIN, top + lettering.LINE))
        left = MARGIN
        for tile, column in zip(row_tiles, widths, strict=True):
            if tile:
                sheet.paste(tile, (left, top + label))
            left += column + GAP
        top += label + tallest + GAP
    whole = BytesIO()
    sheet.save(whole, "PNG")
    drafts.write(path, whole.getbuffer())


def _tile(path: Path | None, cell: int) -> Image.Image | None:
    """The picture, reduced to `cell` pixels; a tiny one enlarged by a whole number."""
    if path is None:
        return None
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError:  # it was removed, or somebody else's file has its name
        return None
    if max(image.size) > cell:
        image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    elif (times := min(-(-SMALL // min(image.size)), cell // max(image.size))) > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return image


def spread(steps: Sequence[int], most: int = MOST_COLUMNS) -> list[int]:
    """At most so many of the steps, evenly chosen, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def steps_in(folder: Path, names: Collection[str]) -> set[int]:
    """The steps of which a folder has a picture with one of these names."""
    found = set()
    for path in folder.glob("step_*"):
        number, _, name = path.name.removeprefix("step_").partition("_")
        if number.isdecimal() and name in names:
            found.add(int(number))
    return found
