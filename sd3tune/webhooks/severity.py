"""How severe an event is, and its numbers as a sentence."""

from collections.abc import Mapping
from typing import Any

from sd3tune.config.settings.webhooks import LogLevel
from sd3tune.report.events import Event, MessageSaid, RunEnded, StepTaken

LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error", "critical")
ENDINGS = {"finished": "is finished", "stopped": "was stopped", "failed": "failed"}
SHOWN = ("loss", "learning_rate", "grad_norm")  # of the numbers of a step, in a sentence


def of(event: Event) -> LogLevel:
    """A run that failed is critical, messages have a level of their own, the rest is info."""
    if isinstance(event, RunEnded) and event.outcome == "failed":
        return "critical"
    return event.level if isinstance(event, MessageSaid) else "info"


def on_discord(event: Event) -> LogLevel:
    """The same for people: they read the progress only when they ask for it."""
    return "debug" if isinstance(event, StepTaken) else of(event)


def wanted(level: LogLevel, least: LogLevel) -> bool:
    """Whether an event of this level is sent where `least` is the least severe."""
    return LEVELS.index(level) >= LEVELS.index(least)


def ending(event: RunEnded) -> str:
    """How a run ended, as a sentence."""
    why = f": {event.reason}" if event.reason else ""
    return f"the run {ENDINGS[event.outcome]} after step {event.step}{why}"


def counted(numbers: Mapping[str, Any]) -> str:
    """`loss 0.123, learning_rate 0.0001`; of other numbers all."""
    named = [n for n in SHOWN if n in numbers] or list(numbers)
    return ", ".join(f"{name} {_short(numbers[name])}" for name in named)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
