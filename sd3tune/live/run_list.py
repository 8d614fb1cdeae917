"""The runs of a page, in the order in which they are shown. Those that are received from other
machines come as they begin."""

import threading
from pathlib import Path

from sd3tune.live.run_reader import RunReader

MAX_RUNS = 50


class RunList:
    """Runs by key: "0", "1", …"""

    def __init__(self, folders: list[Path]) -> None:
        self._runs: dict[str, RunReader] = {}
        self._lock = threading.Lock()
        for folder in folders:
            self.add(folder)

    def add(self, folder: Path, name: str = "") -> bool:
        """Shows one more run; returns False where there are too many already."""
        with self._lock:
            if len(self._runs) >= MAX_RUNS:
                return False
            self._runs[str(len(self._runs))] = RunReader(folder, name)
            return True

    def get(self, key: str) -> RunReader | None:
        """The run of that key; None where there is none."""
        return self._runs.get(key)

    def items(self) -> list[tuple[str, RunReader]]:
        """Key and run, in order."""
        return list(self._runs.items())
