"""Every setting of config/config.json, and who set each.

To add a topic: write its file here, and add its class where its settings shall stand in the
reference.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from sd3tune.config import values
from sd3tune.config.settings.adapter import AdapterSettings
from sd3tune.config.settings.checkpoints import CheckpointSettings
from sd3tune.config.settings.data import DataSettings
from sd3tune.config.settings.ema import EmaSettings
from sd3tune.config.settings.evaluation import EvaluationSettings
from sd3tune.config.settings.flow import FlowSettings
from sd3tune.config.settings.folders import FolderSettings
from sd3tune.config.settings.guard import GuardSettings
from sd3tune.config.settings.hardware import HardwareSettings
from sd3tune.config.settings.length import LengthSettings
from sd3tune.config.settings.model import ModelSettings
from sd3tune.config.settings.optimisation import OptimisationSettings
from sd3tune.config.settings.previews import PreviewSettings
from sd3tune.config.settings.processes import ProcessSettings
from sd3tune.config.settings.publishing import PublishingSettings
from sd3tune.config.settings.rollout import RolloutSettings
from sd3tune.config.settings.text import TextSettings
from sd3tune.config.settings.trackers import TrackerSettings
from sd3tune.config.settings.validation import ValidationSettings
from sd3tune.config.settings.webhooks import WebhookSettings
from sd3tune.decision import AUTO, DEFAULT, Provenance


class AllSettings(
    ModelSettings,
    FolderSettings,
    DataSettings,
    LengthSettings,
    OptimisationSettings,
    HardwareSettings,
    AdapterSettings,
    FlowSettings,
    RolloutSettings,
    GuardSettings,
    TextSettings,
    EmaSettings,
    CheckpointSettings,
    ProcessSettings,
    ValidationSettings,
    PublishingSettings,
    PreviewSettings,
    WebhookSettings,
    EvaluationSettings,
    TrackerSettings,
):
    """The table alone: each setting is right by itself, whether they go together is not asked."""

    _sources: Mapping[str, Provenance] | None = None
    _notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each key of the file that was let through and changes nothing."""
        return self._notes

    def source(self, name: str) -> Provenance:
        """Who chose the value of a setting. `user` only when the user wrote it (then with file and
        key), `auto` when nobody has yet or when it follows from another setting."""
        if self._sources is None and name in self.model_fields_set:  # made by a program, from words
            return Provenance("user", None, name) if getattr(self, name) is not None else AUTO
        if (source := (self._sources or {}).get(name)) is not None:
            return source
        return DEFAULT if getattr(self, name) is not None else AUTO

    def to_json(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Values by their names, as JSON holds them. names: only these; None: all. They are those
        of this class, also for a Config, whose own type would be built for it."""
        chosen = None if names is None else set(names)
        values: dict[str, Any] = TypeAdapter(AllSettings).dump_python(
            self, mode="json", include=chosen
        )
        return values

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """optimizer_config, the betas and prodigy_steps as the user set them."""
        own = {"beta1": self.optimizer_beta1, "beta2": self.optimizer_beta2}
        own["prodigy_steps"] = self.prodigy_steps
        written = {name: value for name, value in own.items() if value is not None}
        return values.optimizer_options(self.optimizer_config) | written
