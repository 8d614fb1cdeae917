"""One event of each kind, as a run emits them."""

import math
from io import BytesIO
from pathlib import Path

from PIL import Image

from sd3tune.report.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    MessageSaid,
    PictureDrawn,
    PreviewDrawn,
    RunEnded,
    RunStarted,
    Scored,
    SheetDrawn,
    StepTaken,
)


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    whole = BytesIO()
    Image.new("RGB", size, "red").save(whole, "PNG")
    return whole.getvalue()


PNG = png()


def preview(number: int = 5, *, step: int = 100, data: bytes = PNG) -> PreviewDrawn:
    return PreviewDrawn(step, "cat", "a cat", (1024, 768), number, 20, 812.0, data)


def picture(path: Path, index: int = 0, *, step: int = 100, prompt: str = "a cat") -> PictureDrawn:
    return PictureDrawn(step, path, "cat", prompt, (64, 64), 7 + index, index, "", "during")


def every_event(folder: Path) -> dict[str, Event]:
    """By a short name. folder: gets the files of pictures."""
    path = folder / "cat.png"
    path.write_bytes(PNG)
    checkpoint = folder / "checkpoint-100"
    return {
        "begun": RunStarted(0, 200, "cats", folder, {"seed": 1}, {"schema": 2}, "run-1"),
        "continued": RunStarted(100, 200, "cats", folder, {}, {}, "run-1"),
        "step": StepTaken(7, {"loss": 0.25, "learning_rate": 1e-4, "spike": None}, ((0.5, 0.25),)),
        "not a number": StepTaken(8, {"loss": math.nan}),
        "evaluated": Evaluated(100, "held-out", 0.125, {0.5: 0.125}),
        "scored": Scored(100, {"clip/mean": 27.5}),
        "preview": preview(),
        "picture": picture(path),
        "sheet": SheetDrawn(100, path, "before_after"),
        "gone": picture(folder / "gone.png"),
        "checkpoint": CheckpointSaved(100, checkpoint, "regular"),
        "warning": MessageSaid(100, "warning", "look at this"),
        "error": MessageSaid(100, "error", "this failed"),
        "finished": RunEnded(200, "finished"),
        "stopped": RunEnded(150, "stopped", "signal 15"),
        "failed": RunEnded(150, "failed", "out of memory"),
    }
