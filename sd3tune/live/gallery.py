"""The pictures of a run, as they lie in its folder. Events add what a file name does not say."""

import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from PIL import Image

from sd3tune.data.run_folders import BASE_PICTURES, PICTURES, PREVIEWS
from sd3tune.live.bounded import bounded, step, text
from sd3tune.live.run_folder import FolderEntry, RunFolder
from sd3tune.live.tail import JsonObject, json_object

NAME = re.compile(
    r"(?:step_(\d{1,9})_)?(.{1,200})_(\d{1,6})_(\d{1,5})x(\d{1,5})\.(?:png|jpe?g|webp)"
)
IMAGE = re.compile(r".+\.(png|jpe?g|webp)", re.IGNORECASE | re.DOTALL)
MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}
MAX_PICTURES = 5_000  # the newest ones are kept
HEAD_BYTES = 2**18  # of a PNG: its texts come before its pixels
OURS = "sd3tune"  # key of the PNG text that is JSON


class Gallery:
    """Pictures and sheets of one run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._facts: dict[tuple[str, int, float], JsonObject] = {}  # of files that were read

    def pictures(self, events: Mapping[str, JsonObject]) -> list[JsonObject]:
        """One object a picture, by step. events: picture events by the name of the file."""
        found = []
        for path, entry in self._files():
            if match := NAME.fullmatch(entry.name):
                drawn, shortname, index, width, height = match.groups()
                is_base = path.startswith(f"{BASE_PICTURES}/")
                found.append({
                    "path": path,
                    "step": 0 if is_base else int(drawn or 0),
                    "kind": "base" if is_base else "during",
                    "shortname": shortname,
                    "index": int(index),
                    "size": [int(width), int(height)],
                    "weights": _weights(path),
                    "changed": entry.changed,
                    **self._about(path, entry, events.get(path)),
                })  # fmt: skip
        found.sort(key=lambda p: (p["step"], p["shortname"], p["size"], p["index"], p["weights"]))
        return found[-MAX_PICTURES:]

    def sheets(self) -> list[JsonObject]:
        """Images that hold several pictures: grids, before and after."""
        files = [*self._files(), *((e.name, e) for e in self._images(""))]
        sheets = [(p, e) for p, e in files if not NAME.fullmatch(e.name)]
        return [{"path": path, "changed": entry.changed} for path, entry in sheets][-200:]

    def _files(self) -> Iterator[tuple[str, FolderEntry]]:
        for top in (BASE_PICTURES, PICTURES):
            for entry in self._folder.entries(top):
                path = f"{top}/{entry.name}"
                if entry.is_folder and path != PREVIEWS:
                    yield from ((f"{path}/{e.name}", e) for e in self._images(path))
                elif not entry.is_folder and IMAGE.fullmatch(entry.name):
                    yield path, entry

    def _images(self, folder: str) -> list[FolderEntry]:
        files = [e for e in self._folder.entries(folder) if not e.is_folder]
        return [e for e in files if IMAGE.fullmatch(e.name) and not e.name.startswith(".")]

    def _about(self, path: str, entry: FolderEntry, event: JsonObject | None) -> JsonObject:
        """Prompt, seed and the like."""
        key = (path, entry.size_bytes, entry.changed)
        if key not in self._facts:
            self._facts[key] = png_facts(self._folder, path)
        facts = self._facts[key] | (event or {})
        return {
            "prompt": text(facts.get("prompt")),
            "seed": step(facts.get("seed")),
            "guidance": bounded(facts.get("guidance_scale")),
            "sampling_steps": step(facts.get("steps")),
        }


def png_facts(folder: RunFolder, path: str) -> JsonObject:
    """What this project wrote into a PNG; empty for other files."""
    try:
        with folder.opened(path) as file:
            head = file.read(HEAD_BYTES)
        with Image.open(BytesIO(head), formats=["PNG"]) as image:
            held: Any = image.info.get(OURS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return {}
    return (json_object(held.encode("utf-8", "replace")) or {}) if isinstance(held, str) else {}


def _weights(path: str) -> str:
    """The folder of these weights below the folder of pictures."""
    inside = path.removeprefix(f"{PICTURES}/").removeprefix(f"{BASE_PICTURES}/")
    return inside.rpartition("/")[0]


def media_type(path: str) -> str | None:
    """Of an image that may be shown in the page; None for every other file."""
    match = IMAGE.fullmatch(path)
    return MEDIA_TYPES[match.group(1).lower()] if match else None
