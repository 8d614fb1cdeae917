"""The pictures of a command on one sheet: a row for each prompt, a column for each seed and
size."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sd3tune.drawing.picture_paths import Name
from sd3tune.filesystem import disk
from sd3tune.formats.picture_files import keep
from sd3tune.sample.draw_stages import Wanted

GAP, LONGEST = 8, 384  # pixels: between pictures, and the longest side of one
MOST_PICTURES = 400


def write_grid(wanted: Sequence[Wanted], paths: Name) -> Path | None:
    """Writes `grid.png`, or a free name; None for a single picture."""
    if not 1 < len(wanted) <= MOST_PICTURES:
        return None
    rows: dict[str, list[Image.Image]] = {}
    for one in wanted:
        if one.path is not None:
            with Image.open(one.path) as image:
                tile = image.convert("RGB")
            tile.thumbnail((LONGEST, LONGEST))
            rows.setdefault(one.prompt, []).append(tile)
    heights = [max(t.height for t in row) for row in rows.values()]
    width = max(sum(t.width + GAP for t in row) for row in rows.values()) - GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows.values(), heights, strict=True):
        left = 0
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width + GAP
        top += height + GAP
    path = paths("grid", None, None)
    with disk.explained("write", path):
        keep(sheet, path, {})
    return path
