"""The contact sheet: the images of a dataset with their crop, and masks in red."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import islice, zip_longest
from pathlib import Path

from PIL import Image, ImageDraw

from sd3tune.data import lettering
from sd3tune.data.discover import Sample
from sd3tune.data.headers import Unusable
from sd3tune.data.pixels import decoded, rgb
from sd3tune.data.sources import Source
from sd3tune.filesystem import drafts
from sd3tune.urls import redacted, shown_url

CELL, LABEL, GAP = 240, 4 + 3 * lettering.LINE, 10  # pixels
BACK, INK, FRAME, MASK = "#f4f2ee", "#222222", "#e0341b", (224, 52, 27)
SHADE = 0.45  # visibility of the part that is cropped off


def chosen(groups: Sequence[Sequence[Sample]], most: int) -> list[Sample]:
    """At most `most` samples, one of each group (dataset and bucket) in turn, so that rare buckets
    are shown too."""
    turns = (s for turn in zip_longest(*groups) for s in turn if s is not None)
    picked = list(islice(turns, most))
    return sorted(picked, key=lambda s: (s.dataset, s.geometry.bucket, s.name))


def draw(
    path: Path,
    samples: Sequence[Sample],
    sources: Mapping[str, Source],
    masks: Mapping[str, Source],
    remarks: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Writes the contact sheet. sources, masks: dataset id -> where its images and masks are.
    remarks: (dataset id, name) -> what the label says in place of the sizes."""
    columns = min(len(samples), max(4, math.isqrt(len(samples))))  # about as wide as high
    rows = math.ceil(len(samples) / columns)
    size = columns * (CELL + GAP) + GAP, rows * (CELL + LABEL + GAP) + GAP
    sheet = Image.new("RGB", size, BACK)
    for i, s in enumerate(samples):
        left = GAP + i % columns * (CELL + GAP)
        top = GAP + i // columns * (CELL + LABEL + GAP)
        tile = _tile(s, sources[s.dataset], masks.get(s.dataset))
        sheet.paste(tile, (left + (CELL - tile.width) // 2, top + (CELL - tile.height) // 2))
        _label(sheet, s, (left, top + CELL + 4), (remarks or {}).get((s.dataset, s.name)))
    drafts.write(path, _encoded(sheet, path.suffix))


def _encoded(sheet: Image.Image, suffix: str) -> memoryview:
    """Raises ValueError for a suffix that Pillow cannot write."""
    kind = Image.registered_extensions().get(suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"`{suffix}` is not a suffix of images that can be written")
    whole = BytesIO()
    sheet.save(whole, kind)
    return whole.getbuffer()


def _tile(s: Sample, source: Source, masks: Source | None) -> Image.Image:
    """The whole image, reduced; the part outside the crop is dimmed."""
    try:
        image = rgb(decoded(source.read(s.name)))
    except (Unusable, OSError) as e:
        return _words(redacted(str(e)))
    scale = CELL / max(s.geometry.resized)
    width, height = (max(1, round(n * scale)) for n in s.geometry.resized)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    if s.mask is not None and masks is not None:
        image = _masked(image, s.mask, masks)
    (x, y), (width, height) = s.geometry.crop, s.geometry.bucket
    edges = (x, y, x + width, y + height)
    left, top, right, bottom = (round(n * scale) for n in edges)
    dark = Image.blend(image, Image.new("RGB", image.size, BACK), 1 - SHADE)
    dark.paste(image.crop((left, top, right, bottom)), (left, top))
    frame = (left, top, right - 1, bottom - 1)
    ImageDraw.Draw(dark).rectangle(frame, outline=FRAME, width=2)
    return dark


def _masked(image: Image.Image, name: str, masks: Source) -> Image.Image:
    """The image with red where the mask is black: the loss ignores that part."""
    try:
        mask = rgb(decoded(masks.read(name))).getchannel(0).resize(image.size)
    except (Unusable, OSError):
        return image
    red = Image.blend(image, Image.new("RGB", image.size, MASK), 0.6)
    return Image.composite(image, red, mask)


def _label(sheet: Image.Image, s: Sample, at: tuple[int, int], remark: str | None) -> None:
    g = s.geometry
    more = f" (+{len(s.captions) - 1})" if len(s.captions) > 1 else ""
    lines = [
        f"{s.dataset}: {shown_url(s.name)}",
        remark
        or f"{s.size[0]}x{s.size[1]} > {g.resized[0]}x{g.resized[1]} > {g.bucket[0]}x{g.bucket[1]}"
        f" at {g.crop[0]},{g.crop[1]}",
        s.captions[0][: lettering.MOST_CHARACTERS + 1] + more,
    ]
    for i, line in enumerate(lines):
        drawn = lettering.line(line, CELL, INK, BACK)
        sheet.paste(drawn, (at[0], at[1] + lettering.LINE * i))


def _words(text: str) -> Image.Image:
    tile = Image.new("RGB", (CELL, CELL), "white")
    tile.paste(lettering.line(text, CELL - 16, FRAME, "white"), (8, CELL // 2))
    return tile
