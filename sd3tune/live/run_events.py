"""What the events of a run amount to: events.jsonl as the state that a page shows.

The file is only appended to. `run.started` of a run that continues from a checkpoint makes the
events of later steps void, and one of another run all of them.
"""

from collections.abc import Mapping
from typing import Any

from sd3tune.data.run_folders import BASE_PICTURES, PICTURES
from sd3tune.live.bounded import bounded, number, step, text
from sd3tune.live.tail import JsonObject

FILE = "events.jsonl"  # in output_dir
MAX_OF_A_KIND = 5_000
LOG_KINDS = ("run.started", "message", "evaluation", "scores", "checkpoint", "run.ended")
MAX_LOG = 2_000


class RunEvents:
    """The standing events, by kind, in the order in which they came."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[JsonObject]] = {}
        self._run: Any = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes one line of the file; what is not an event is skipped."""
        kind, at = event.get("event"), step(event.get("step"))
        if not isinstance(kind, str) or at is None or len(kind) > 40:
            return
        if kind == "run.started":
            self._void(event.get("run"), at)
        kept = self._by_kind.setdefault(kind, [])
        kept.append({**bounded(dict(event)), "step": at})
        del kept[:-MAX_OF_A_KIND]

    def _void(self, run: Any, at: int) -> None:
        same, self._run = run == self._run, run
        for kind, events in self._by_kind.items():
            self._by_kind[kind] = [e for e in events if e["step"] <= at] if same else []

    def of(self, kind: str) -> list[JsonObject]:
        """The events of a kind, oldest first."""
        return self._by_kind.get(kind, [])

    def last(self, kind: str) -> JsonObject:
        """The newest event of a kind; empty when there is none."""
        events = self.of(kind)
        return events[-1] if events else {}

    def ended(self) -> JsonObject:
        """`run.ended`, where nothing was started after it; empty otherwise."""
        end, start = self.last("run.ended"), self.last("run.started")
        return end if end and (end.get("time") or 0) >= (start.get("time") or 0) else {}

    def pictures(self) -> dict[str, JsonObject]:
        """Picture events by their path below the folder of the run."""
        return {inside(e): e for e in self.of("picture")}

    def evaluations(self) -> list[JsonObject]:
        """Evaluation losses: step, dataset, loss and the loss by noise level."""
        return [
            {
                "step": e["step"],
                "dataset": text(e.get("dataset"), 200),
                "loss": number(e.get("loss")),
                "by_level": e.get("by_level") or {},
            }
            for e in self.of("evaluation")
        ]

    def scores(self) -> list[JsonObject]:
        """Scores of pictures: step, and name -> value."""
        return [{"step": e["step"], "scores": e.get("scores") or {}} for e in self.of("scores")]

    def log(self) -> list[JsonObject]:
        """Lines of the log, oldest first: messages and what happened."""
        found = [e for kind in LOG_KINDS for e in self.of(kind)]
        found.sort(key=lambda e: (e.get("time") or 0, e["step"]))
        return [_log_line(e) for e in found[-MAX_LOG:]]


def inside(event: Mapping[str, Any]) -> str:
    """The path that an event names, below the run's folder: wherever that folder is now."""
    path = text(event.get("path")).replace("\\", "/")
    for top in (f"{PICTURES}/", f"{BASE_PICTURES}/"):
        _, mark, rest = path.rpartition(f"/{top}")
        if mark:
            return top + rest
        if path.startswith(top):
            return path
    return path.rpartition("/")[2]


def _log_line(event: JsonObject) -> JsonObject:
    kind = event["event"]
    level = text(event.get("level"), 10) if kind == "message" else "info"
    if kind == "run.ended" and event.get("outcome") == "failed":
        level = "error"
    line = {"step": event["step"], "time": number(event.get("time")), "level": level}
    return {**line, "text": _sentence(event)}


def _sentence(event: JsonObject) -> str:
    match event["event"]:
        case "message":
            return text(event.get("text"))
        case "run.started":
            return "the run continues" if event["step"] else "the run begins"
        case "evaluation":
            return (
                f"evaluation loss of {text(event.get('dataset'), 200)}: {_short(event.get('loss'))}"
            )
        case "scores":
            scores = event.get("scores")
            pairs = scores.items() if isinstance(scores, dict) else ()
            return "scores: " + ", ".join(f"{name} {_short(value)}" for name, value in pairs)
        case "checkpoint":
            return f"saved {text(event.get('path')).rpartition('/')[2]}"
    outcome, reason = text(event.get("outcome"), 20), text(event.get("reason"))
    return f"the run {outcome}: {reason}" if reason else f"the run {outcome}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "unknown"
