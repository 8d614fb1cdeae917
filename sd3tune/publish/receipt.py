"""What of a run the hub has, as the hub has confirmed it: `.sd3tune-published.json` in output_dir.

A file is in it after the commit that holds it, and never before. What is not in it is uploaded by
the same command again; a hub that has the bytes already takes them once.
"""

import json
import threading
from collections.abc import Iterable
from pathlib import Path

from sd3tune.filesystem import drafts, opening
from sd3tune.publish.run_folder import PublishedFile

FILE = ".sd3tune-published.json"
VERSION = 1


class Receipt:
    """Files by their names in one repository of one hub."""

    def __init__(self, output: Path, address: str) -> None:
        """address: of the repository's page."""
        self._path, self._address, self._lock = output / FILE, address, threading.Lock()
        self._files = _read(self._path).get(address, {})

    def missing(self, files: Iterable[PublishedFile]) -> list[PublishedFile]:
        """Those that the hub does not have as they are now."""
        return [file for file in files if self._files.get(file.name) != fingerprint(file)]

    def keep(self, files: Iterable[tuple[PublishedFile, str]]) -> None:
        """After their commit. files: each with its fingerprint as it was uploaded. Raises
        OSError."""
        with self._lock:
            self._files |= {file.name: printed for file, printed in files}
            everything = _read(self._path) | {self._address: self._files}
            text = json.dumps({"version": VERSION, "published": everything}, indent=1)
            drafts.write(self._path, text.encode())


def fingerprint(file: PublishedFile) -> str:
    """Size and time of a file, or its content where that is small; empty where it is gone."""
    if file.content is not None:
        from hashlib import blake2b

        return blake2b(file.content, digest_size=16).hexdigest()
    try:
        status = file.path.stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        read = opening.json_object(path)
    except (OSError, ValueError):
        return {}
    found = read.get("published") if read.get("version") == VERSION else None
    if not isinstance(found, dict):
        return {}
    return {str(k): dict(v) for k, v in found.items() if isinstance(v, dict)}
