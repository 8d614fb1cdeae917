"""Which trackers a run reports to, and under which name.

A tracker that the user names must be installed. `all` takes those that are, and the plan lists the
others. Without an account, Weights & Biases is used offline.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sd3tune.backends.decide.rules import Package, Request
from sd3tune.config.settings.trackers import ALL
from sd3tune.decision import AUTO, Decision, Provenance, Rejected
from sd3tune.errors import PlanError
from sd3tune.plan.inputs import RunInputs
from sd3tune.report.trackers import wandb_login
from sd3tune.tables.trackers import TRACKERS, Tracker

WANDB = "wandb"


@dataclass(frozen=True)
class ReportingPlan:
    """trackers: names of rows of TRACKERS, with the reasons for those that `all` leaves out."""

    trackers: Decision[tuple[str, ...]]
    wandb_mode: Decision[Literal["online", "offline"]] | None  # None: it is not among them
    project: str
    run_name: str
    folder: Path  # logging_dir
    layout: Literal["gallery", "table"]  # of validation pictures


def reporting_plan(
    inputs: RunInputs, title: str, environ: Mapping[str, str] = os.environ
) -> ReportingPlan:
    """title: of the result. environ: the environment, where Weights & Biases has its key. Raises
    PlanError for a tracker that the user names and that is not installed."""
    c = inputs.config
    folder = c.output_dir / c.logging_dir
    trackers = _trackers(inputs, {"folder": str(folder), "project": c.tracker_project_name})
    return ReportingPlan(
        trackers=trackers,
        wandb_mode=wandb_mode(environ, folder) if WANDB in trackers.value else None,
        project=c.tracker_project_name,
        run_name=c.tracker_run_name or title,
        folder=folder,
        layout=c.tracker_image_layout,
    )


def _trackers(inputs: RunInputs, filled: Mapping[str, str]) -> Decision[tuple[str, ...]]:
    asked, source = inputs.config.report_to, inputs.config.source("report_to")
    if not asked:
        why = "metrics.jsonl and events.jsonl in output_dir record the run"
        return Decision((), source, why)
    rows = TRACKERS.rows if asked == ALL else tuple(TRACKERS[name] for name in asked)
    checked = {row.name: _missing(row, inputs) for row in rows}
    missing = {name: why for name, why in checked.items() if why is not None}
    if asked != ALL and missing:
        raise _refusal(missing, source)
    there = [row for row in rows if row.name not in missing]
    parts = [f"{row.name}: {row.where.format(**filled)}" for row in there]
    parts += [f"without {name}: {why}" for name, why in missing.items()]
    left_out = tuple(Rejected(name, (why,)) for name, why in missing.items())
    return Decision(tuple(row.name for row in there), source, "; ".join(parts), left_out)


def _missing(row: Tracker, inputs: RunInputs) -> str | None:
    """Why a tracker cannot be used on this machine."""
    library = row.library
    return Package(library.name, library.lowest, library.extra)(inputs.facts, Request())


def _refusal(missing: Mapping[str, str], source: Provenance) -> PlanError:
    where = f"{source.file}: " if source.file else ""
    why = "; ".join(f"`report_to={name}`: {reason}" for name, reason in missing.items())
    hint = "install it, or leave it out of report_to; `all` takes those that are installed"
    return PlanError(f"{where}{why}", hint=hint)


def wandb_mode(environ: Mapping[str, str], folder: Path) -> Decision[Literal["online", "offline"]]:
    """Whether Weights & Biases is used online: WANDB_MODE says so, or there is a key. The library
    would ask for one on the terminal otherwise."""
    kept = f"the run is kept here, and `wandb sync {folder / WANDB}/offline-run-*` sends it"
    if (variable := wandb_login.offline_variable(environ)) is not None:
        return Decision("offline", Provenance("auto", None, variable), f"{variable}: {kept}")
    host = wandb_login.host(environ)
    if wandb_login.key_source(environ) is not None:
        return Decision("online", AUTO, f"there is a key for {host}")
    return Decision("offline", AUTO, f"no key for {host}: set WANDB_API_KEY or run `wandb login`; "
                                     f"until then {kept}")  # fmt: skip
