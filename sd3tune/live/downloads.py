"""Checkpoints and results of a run for download: single files, or a folder as a zip."""

import re
import zipfile
from collections.abc import Iterator
from io import RawIOBase

from sd3tune.live.run_folder import RunFolder
from sd3tune.live.tail import JsonObject

CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})(?:-[\w-]{1,40})?|checkpoint-[\w-]{1,40}")
RESULT = re.compile(r"[^.].*\.(safetensors|json|yaml|md)", re.DOTALL)
PIECE_BYTES = 2**20


def checkpoints(folder: RunFolder) -> list[JsonObject]:
    """Complete checkpoint folders with their files, by step. One is complete when it has a
    manifest: the file is written last."""
    found = []
    for entry in folder.entries():
        match = CHECKPOINT.fullmatch(entry.name)
        if not entry.is_folder or match is None:
            continue
        files = [e for e in folder.entries(entry.name) if not e.is_folder]
        if not any(e.name == "manifest.json" for e in files):
            continue
        found.append({
            "name": entry.name,
            "step": int(match.group(1)) if match.group(1) else None,
            "size_bytes": sum(e.size_bytes for e in files),
            "changed": entry.changed,
            "files": [{"name": e.name, "size_bytes": e.size_bytes} for e in files[:100]],
        })  # fmt: skip
    return sorted(found, key=lambda c: (c["step"] or 0, c["name"]))[-500:]


def results(folder: RunFolder) -> list[JsonObject]:
    """Files that the end of a run wrote into its folder."""
    files = [e for e in folder.entries() if not e.is_folder and RESULT.fullmatch(e.name)]
    return [{"name": e.name, "size_bytes": e.size_bytes} for e in files[:200]]


def may_download(folder: RunFolder, path: str) -> bool:
    """Whether `path` is a file of a complete checkpoint or a result: nothing else leaves."""
    top, slash, name = path.partition("/")
    if not slash:
        return any(each["name"] == path for each in results(folder))
    return any(
        each["name"] == top and any(f["name"] == name for f in each["files"])
        for each in checkpoints(folder)
    )


def pieces(folder: RunFolder, path: str) -> Iterator[bytes]:
    """The content of a file, in pieces. Raises OSError."""
    with folder.opened(path) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def zipped(folder: RunFolder, checkpoint: JsonObject) -> Iterator[bytes]:
    """A zip of a checkpoint as it is written: nothing is kept on disk or whole in memory. Weights
    do not shrink, so nothing is compressed. Raises OSError."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for each in checkpoint["files"]:
            name = f"{checkpoint['name']}/{each['name']}"
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
                for piece in pieces(folder, name):
                    target.write(piece)
                    yield sink.taken()
            yield sink.taken()
    yield sink.taken()


class _Sink(RawIOBase):
    """A file that cannot seek; what is written waits until it is taken."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._waiting.append(piece)
        return len(piece)

    def taken(self) -> bytes:
        data, self._waiting = b"".join(self._waiting), []
        return data
