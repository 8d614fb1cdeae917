"""The sheets of a run: its prompts over the steps, and the base model beside the result."""

from collections.abc import Collection, Sequence
from pathlib import Path

from sd3tune.data.run_folders import BASE_PICTURES, PICTURES, of_step
from sd3tune.plan.plan import Plan
from sd3tune.report.events import SheetDrawn
from sd3tune.sample.pictures import name_of
from sd3tune.sample.pipeline import Picture
from sd3tune.sample.sheets import GRID_CELL, LARGE_CELL, SheetRow, spread, write_sheet

NO_PROMPT = "(the empty prompt)"
GRID, BEFORE_AFTER = "grid.png", "before_after.png"


def grid(plan: Plan, folder: Path, wanted: Sequence[Picture], steps: Collection[int]) -> SheetDrawn:
    """Writes the prompts over these steps. folder: of the pictures of one version of the
    weights."""
    base, shown = plan.output_dir / BASE_PICTURES, spread(sorted(steps))
    rows = []
    for picture in wanted:
        name = name_of(picture, plan)
        files = [base / name, *(folder / of_step(step, name) for step in shown)]
        rows.append(
            SheetRow(
                title(picture),
                picture.prompt or NO_PROMPT,
                [f if f.is_file() else None for f in files],
            )
        )
    columns = ["base model", *(f"step {step}" for step in shown)]
    if not any(row.cells[0] for row in rows):
        rows = [SheetRow(row.title, row.prompt, row.cells[1:]) for row in rows]
        columns = columns[1:]
    write_sheet(folder / GRID, columns, rows, GRID_CELL)
    return SheetDrawn(max(steps), folder / GRID, "grid")


def before_after(
    plan: Plan, folder: Path, wanted: Sequence[Picture], step: int
) -> SheetDrawn | None:
    """Writes the base model and the result beside each other; None without pictures of the base
    model. folder: of the pictures of the result."""
    rows = []
    for picture in wanted:
        name = name_of(picture, plan)
        pair = plan.output_dir / BASE_PICTURES / name, folder / of_step(step, name)
        if all(file.is_file() for file in pair):
            rows.append(SheetRow(title(picture), picture.prompt or NO_PROMPT, pair))
    if not rows:
        return None
    path = plan.output_dir / PICTURES / BEFORE_AFTER
    write_sheet(path, ["base model", f"after step {step}"], rows, LARGE_CELL)
    return SheetDrawn(step, path, "before_after")


def title(picture: Picture) -> str:
    """The name of a picture's row on a sheet."""
    width, height = picture.size
    return f"{picture.shortname} {picture.index}, {width}x{height}"
