"""What the user wrote in one file or on the command line: values, and the keys as written."""

from dataclasses import dataclass, field
from typing import Any

from sd3tune.config.problems import shown_file
from sd3tune.decision import Provenance


@dataclass(frozen=True)
class WrittenSettings:
    """file: its path as the user gave it, or "the command line"."""

    file: str
    values: dict[str, Any] = field(default_factory=dict)  # by the setting's name
    keys: dict[str, str] = field(default_factory=dict)  # the key of each as written
    lines: dict[str, int] = field(default_factory=dict)  # of the file, where known
    variables: frozenset[str] = frozenset()  # that a shell file assigns
    notes: list[str] = field(default_factory=list)  # what the user may want to know of the file

    @property
    def where(self) -> str:
        """As problems name it."""
        return shown_file(self.file)

    def set(self, name: str, value: Any, key: str, line: int | None = None) -> None:
        """key: as the user wrote it. line: of the file, from 1."""
        self.values[name], self.keys[name] = value, key
        if line is not None:
            self.lines[name] = line

    def sources(self) -> dict[str, Provenance]:
        """The provenance of each setting: all of them are the user's."""
        return {
            name: Provenance("user", self.file, self.keys[name], self.lines.get(name))
            for name in self.values
        }
