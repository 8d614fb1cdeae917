"""What of a run the hub has, as the hub has confirmed it: `.sd3tune-published.json` in output_dir.

A file is in it after the commit that holds it, and never before. What is not in it is uploaded by
the same command again; a hub that has the bytes already takes them once.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from sd3tune.filesystem import drafts, opening
from sd3tune.publish.published_files import PublishedFile

FILE = ".sd3tune-published.json"
VERSION = 1


@dataclass(frozen=True)
class Receipt:
    """Files by their names in one repository of one hub. address: of the repository's page."""

    output: Path
    address: str

    def missing(self, files: Iterable[PublishedFile]) -> list[PublishedFile]:
        """Those that the hub does not have as they are now."""
        held = self._read().get(self.address, {})
        return [file for file in files if held.get(file.name) != fingerprint(file)]

    def keep(self, files: Iterable[tuple[PublishedFile, str]]) -> None:
        """After their commit. files: each with its fingerprint as it was uploaded. Raises
        OSError."""
        everything = self._read()
        held = everything.get(self.address, {}) | {file.name: printed for file, printed in files}
        text = json.dumps({"version": VERSION, "published": everything | {self.address: held}})
        drafts.write(self.output / FILE, text.encode())

    def _read(self) -> dict[str, dict[str, str]]:
        """By address; empty where there is no such file."""
        try:
            read = opening.json_object(self.output / FILE)
        except (OSError, ValueError):
            return {}
        found = read.get("published") if read.get("version") == VERSION else None
        if not isinstance(found, dict):
            return {}
        return {str(k): dict(v) for k, v in found.items() if isinstance(v, dict)}


def fingerprint(file: PublishedFile) -> str:
    """Size and time of a file, or a digest of its content where that is in memory; empty where the
    file is gone."""
    if file.content is not None:
        return blake2b(file.content, digest_size=16).hexdigest()
    try:
        status = file.path.stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"
