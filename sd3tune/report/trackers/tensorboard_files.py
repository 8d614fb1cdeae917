"""TensorBoard: event files in logging_dir/tensorboard/<name>-<id>."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sd3tune.report.events import PictureDrawn
from sd3tune.report.tracker_sink import TrackedRun, by_prompt, caption


class TensorBoard:
    """Writes a run's events. What an earlier process wrote after the step of a resumed run is
    marked as void, and TensorBoard does not show it."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard" / run.unique_name
        known = run.step > 0 and any(folder.glob("events.out.tfevents.*"))
        self.last = run.step if known else -1
        purged = run.step + 1 if known else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purged)
        self._table = run.layout == "table"
        if not known:
            self.text(run.step, "settings", f"```json\n{json.dumps(run.settings, indent=1)}\n```")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, drawn: Sequence[PictureDrawn]) -> None:
        """A tag per prompt, size, weights and index, so that its slider goes over the steps. In the
        layout `table` there is also a list of what is drawn."""
        for name, group in by_prompt(drawn).items():
            for picture in group:
                parts = [name, *filter(None, [picture.weights])]
                tag = "/".join([*parts, str(picture.index)] if picture.index else parts)
                self._writer.add_image(tag, pixels(picture.path), step, dataformats="HWC")
        if self._table:
            self.text(step, "validation", table(drawn))

    def sheet(self, step: int, name: str, path: Path) -> None:
        self._writer.add_image(f"sheets/{name}", pixels(path), step, dataformats="HWC")

    def text(self, step: int, name: str, markdown: str) -> None:
        self._writer.add_text(name, markdown, step)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, *, failed: bool) -> None:
        self._writer.close()


def pixels(path: Path) -> Any:
    """(height, width, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def table(drawn: Sequence[PictureDrawn]) -> str:
    """Markdown."""
    lines = ["| prompt | picture | file |", "|-|-|-|"]
    for picture in drawn:
        words = caption(picture).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {picture.shortname} | {words} | {picture.path.name} |")
    return "\n".join(lines)
