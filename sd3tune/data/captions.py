"""Where an image's captions come from: its name, a text file beside it, or the settings."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd3tune.config.datasets import ImageDataset


class NoCaption(Exception):
    """This image has none; the text says why. Discovery sets the image aside."""


def captions(path: Path, dataset: "ImageDataset") -> tuple[str, ...]:
    """One or more captions; with several, training draws one each time. Raises NoCaption."""
    prompt = dataset.instance_prompt
    if dataset.only_instance_prompt or dataset.caption_strategy == "instanceprompt":
        return (prompt or "",)
    if dataset.caption_strategy == "filename":
        found: tuple[str, ...] = (" ".join(path.stem.replace("_", " ").split()),)
    else:
        found = from_file(path.with_suffix(".txt"), split=not dataset.disable_multiline_split)
    if dataset.prepend_instance_prompt and prompt:
        return tuple(f"{prompt} {caption}" for caption in found)
    return found


def from_file(path: Path, *, split: bool) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NoCaption(f"no caption file {path.name} beside it") from None
    except UnicodeDecodeError as e:
        raise NoCaption(f"caption file {path.name} is not UTF-8 at byte {e.start}") from None
    except OSError as e:
        raise NoCaption(f"caption file {path.name} cannot be read: {e.strerror}") from None
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise NoCaption(f"caption file {path.name} is empty")
    return tuple(lines) if split else (" ".join(lines),)
