"""A run as the page shows it: what its files say, read on from where reading ended before.

`sections` are JSON values by name; the page draws each anew when it changes. The numbers of the
steps come apart (curves.py), because they are many.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sd3tune.live import downloads, run_process
from sd3tune.live.bounded import bounded, number, step, text
from sd3tune.live.card_sample import CardSample
from sd3tune.live.curves import Curves
from sd3tune.live.gallery import Gallery
from sd3tune.live.run_events import FILE as EVENTS
from sd3tune.live.run_events import RunEvents, inside
from sd3tune.live.run_folder import RunFolder
from sd3tune.live.tail import JsonObject, Tail, json_object
from sd3tune.report.metrics import FILE as METRICS

MAX_PLAN_BYTES = 4 * 2**20
FRESH_SECONDS = 90.0  # since the last change, while a run without a lock counts as running
EVERY_SECONDS = 0.5  # between two looks at the files, at least
SETTINGS = (
    "output_dir", "model_type", "checkpoint_step_interval", "validation_step_interval",
    "eval_steps_interval", "validation_prompt", "user_prompt_library", "validation_preview",
)  # fmt: skip


class RunReader:
    """One run. Its methods may be called from several threads."""

    def __init__(self, folder: Path, name: str = "", now: Callable[[], float] = time.time) -> None:
        self.folder = RunFolder(folder)
        self.name = name or "/".join(folder.absolute().parts[-2:])
        self.curves, self.sections = Curves(), dict[str, Any]()
        self._metrics, self._lines = Tail(self.folder, METRICS), Tail(self.folder, EVENTS)
        self._events, self._events_generation = RunEvents(), 0
        self._gallery, self._now = Gallery(self.folder), now
        self._card = CardSample()
        self._plan_of: tuple[str, JsonObject] = ("", {})  # the file of a plan, and what it holds
        self._lock, self._last = threading.Lock(), -EVERY_SECONDS

    def refresh(self) -> None:
        """Reads what is new. Does nothing right after the last call."""
        with self._lock:
            if time.monotonic() - self._last >= EVERY_SECONDS:
                self._read_lines()
                self.sections = self._all_sections()
                self._last = time.monotonic()

    def _read_lines(self) -> None:
        more = True
        while more:
            rows, more = self._metrics.read()
            if self._metrics.generation != self.curves.generation:
                self.curves = Curves(self._metrics.generation)
            for row in rows:
                self.curves.add(row)
        more = True
        while more:
            events, more = self._lines.read()
            if self._lines.generation != self._events_generation:
                self._events, self._events_generation = RunEvents(), self._lines.generation
            for event in events:
                self._events.add(event)

    def _all_sections(self) -> dict[str, Any]:
        events = self._events
        plan, checkpoints = self._plan(), downloads.checkpoints(self.folder)
        return {
            "about": self._about(plan),
            "plan": plan_rows(plan),
            "evaluations": events.evaluations(),
            "scores": events.scores(),
            "levels": {"step": self.curves.last_step, "losses": self.curves.levels},
            "spikes": self.curves.spikes,
            "pictures": self._gallery.pictures(events.pictures()),
            "sheets": self._gallery.sheets(),
            "previews": self._previews(),
            "checkpoints": checkpoints,
            "results": downloads.results(self.folder),
            "log": events.log(),
        }

    def _plan(self) -> JsonObject:
        """As `sd3tune plan --json` writes it; from the newest checkpoint where no event has it."""
        if isinstance(plan := self._events.last("run.started").get("plan"), dict):
            return plan
        newest = downloads.checkpoints(self.folder)[-1:]
        path = f"{newest[0]['name']}/plan.json" if newest else ""
        if path and path != self._plan_of[0]:
            try:
                read = json_object(self.folder.read(path, MAX_PLAN_BYTES))
            except OSError:
                read = None
            self._plan_of = (path, bounded(read or {}))
        return self._plan_of[1]

    def _about(self, plan: JsonObject) -> JsonObject:
        """What the page shows at its top."""
        started, process = self._events.last("run.started"), run_process.running(self.folder)
        at = max(self.curves.last_step, step(started.get("step")) or 0)
        steps = step(started.get("steps")) or step(decided(plan, "max_train_steps"))
        seconds = self.curves.seconds_per_step()
        state, reason = self._state(process, at, steps)
        left = (steps - at) * seconds if steps and seconds and state == "running" else None
        settings = started.get("settings") or plan.get("config") or {}
        return {
            "name": text(started.get("name"), 200) or self.name,
            "folder": self.name,
            "state": state,
            "reason": reason,
            "step": at,
            "steps": steps,
            "seconds_per_step": seconds,
            "seconds_left": left,
            "changed": max(self._metrics.changed, self._lines.changed) or None,
            "model": text(decided(plan, "model"), 200),
            "can_stop": bool(process and process.pid and state == "running"),
            "why_not": process.reason if process else "",
            "settings": {k: settings.get(k) for k in SETTINGS} if settings else {},
            "hardware": self._hardware(plan, process),
        }

    def _state(
        self, process: run_process.RunProcess | None, at: int, steps: int | None
    ) -> tuple[str, str]:
        """waiting, running, finished, stopped, failed or interrupted; and a reason."""
        end = self._events.ended()
        if process is not None:
            return "running", ""
        if outcome := text(end.get("outcome"), 20):
            return outcome, text(end.get("reason"))
        changed = max(self._metrics.changed, self._lines.changed)
        if not at and not changed:
            return "waiting", ""
        if steps and at >= steps:
            return "finished", ""
        if self._now() - changed < FRESH_SECONDS:
            return "running", ""
        return "interrupted", "nothing was written for a while, and no process has the folder"

    def _hardware(self, plan: JsonObject, process: run_process.RunProcess | None) -> JsonObject:
        """Memory and temperature; None where it is unknown, and after the run."""
        pid = process.pid if process else None
        facts = plan.get("facts") or {}
        vendor = text(facts.get("vendor"), 10) if isinstance(facts, dict) else ""
        return {
            "device": text(decided(plan, "device"), 100),
            "process_bytes": run_process.memory_bytes(pid) if pid else None,
            "cards": self._card.read(vendor) if pid else [],
        }

    def _previews(self) -> list[JsonObject]:
        """The newest preview of each picture that is being drawn at the newest step."""
        newest = self._events.last("preview")
        if not newest or self._events.ended():
            return []
        drawn = {_subject(p) for p in self._events.of("picture") if p["step"] == newest["step"]}
        previews = self._events.of("preview")
        shown = {_subject(e): e for e in previews if e["step"] == newest["step"]}
        return [
            {
                "path": inside(e),
                "step": e["step"],
                "shortname": text(e.get("shortname"), 200),
                "prompt": text(e.get("prompt")),
                "size": e.get("size"),
                "sampling_step": number(e.get("sampling_step")),
                "sampling_steps": number(e.get("sampling_steps")),
            }
            for key, e in shown.items()
            if key not in drawn and e.get("path")
        ]


def _subject(event: JsonObject) -> tuple[str, str, str]:
    """What a preview and its picture have in common."""
    return str(event.get("shortname")), str(event.get("size")), str(event.get("index"))


def decided(plan: JsonObject, name: str) -> Any:
    """The value of a decision of the plan; None where the plan has none of that name."""
    decisions = plan.get("decisions")
    decision = decisions.get(name) if isinstance(decisions, dict) else None
    return decision.get("value") if isinstance(decision, dict) else None


def plan_rows(plan: JsonObject) -> JsonObject:
    """The plan as the page shows it: decisions with reasons, warnings, memory."""
    decisions, memory = plan.get("decisions"), plan.get("memory")
    rows = decisions.items() if isinstance(decisions, dict) else ()
    return {
        "decisions": [{"name": name, **row} for name, row in rows if isinstance(row, dict)],
        "warnings": plan.get("warnings") or [],
        "memory": memory if isinstance(memory, dict) else {},
    }
