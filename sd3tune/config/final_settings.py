"""What every setting of a run ends up as, and who chose it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sd3tune.config.problems import CREDENTIALS
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.decision import Provenance

HIDDEN = "…"


@dataclass(frozen=True)
class FinalSetting:
    """value: as JSON holds it; `…` for what is never shown. source: who chose it."""

    name: str
    value: Any
    source: Provenance

    @property
    def written(self) -> bool:
        """Whether the user wrote it, or it follows from what the user wrote."""
        return self.source.file is not None


def final_settings(
    settings: AllSettings, names: Iterable[str] | None = None
) -> Iterator[FinalSetting]:
    """Each setting in the order of the reference. names: only these, in this order; None: all."""
    values = settings.to_json()
    for name in AllSettings.model_fields if names is None else dict.fromkeys(names):
        value = values[name]
        shown = HIDDEN if name in CREDENTIALS and value not in (None, [], "") else value
        yield FinalSetting(name, shown, settings.source(name))
