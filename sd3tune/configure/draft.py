"""Answers as the planner judges them: the files are written to a folder of their own and read back
as `sd3tune plan` reads them, so that what is shown is what the run will do."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sd3tune.backends.decide.admission import ProbeRunner, recorded
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import MODELS
from sd3tune.config.run_files import load_run
from sd3tune.configure.documents import (
    DATASETS,
    PROMPTS,
    AskedRun,
    Documents,
    Paths,
    documents,
    typed_settings,
)
from sd3tune.data.buckets import enlarged
from sd3tune.data.discover import within
from sd3tune.discovered import Discovered
from sd3tune.errors import ErrorAndHint, Sd3tuneError
from sd3tune.plan import duration
from sd3tune.plan.duration import Duration
from sd3tune.plan.overview import Overview
from sd3tune.prepare import Prepared, model_of, plan_run
from sd3tune.run_overview import overview_of
from sd3tune.sd3.variants import tokens

CONFIG = "config/config.json"


@dataclass(frozen=True)
class PlannedDraft:
    """A run that the planner accepts."""

    documents: Documents
    prepared: Prepared

    @cached_property
    def overview(self) -> Overview:
        """Pictures, disk, downloads and host memory."""
        return overview_of(self.prepared)

    @cached_property
    def image_tokens(self) -> float:
        """Of an image, on average."""
        samples = self.prepared.samples
        return sum(tokens(*s.geometry.bucket) for s in samples) / len(samples)

    @property
    def enlarged(self) -> int:
        """Images that are smaller than the size they are trained at."""
        return sum(enlarged(s.size, s.geometry) > 1 for s in self.prepared.samples)

    @cached_property
    def operations(self) -> int:
        """Of all steps on one device."""
        plan = self.prepared.plan
        return plan.steps * duration.step_operations(plan, self.image_tokens)

    @property
    def duration(self) -> Duration | None:
        """Of the whole run; None where the device's speed is unknown."""
        return None if self.overview.time is None else self.overview.time.total


class Drafts:
    """Plans of answers for one machine, each made once.

    scratch: a folder of its own. run_probes: None takes the answers in the facts.
    """

    def __init__(self, scratch: Path, facts: Facts, run_probes: ProbeRunner | None = None) -> None:
        self._paths = Paths(scratch, scratch / CONFIG, absolute=True)
        self._facts = facts
        self._run_probes = recorded(facts.smoke) if run_probes is None else run_probes
        self._known: dict[str, PlannedDraft | Sd3tuneError] = {}

    def of(self, asked: AskedRun) -> PlannedDraft:
        """The plan. Raises Sd3tuneError where there is none."""
        written = documents(asked, self._paths)
        key = json.dumps([written.config, written.datasets, written.prompts])
        if key not in self._known:
            self._known[key] = _answer(lambda: self._plan(written, asked))
        answer = self._known[key]
        if isinstance(answer, PlannedDraft):
            return answer
        raise answer

    def _plan(self, written: Documents, asked: AskedRun) -> PlannedDraft:
        self._paths.config.parent.mkdir(parents=True, exist_ok=True)
        for path, text in contents(written, self._paths.config).items():
            path.write_text(text, encoding="utf-8")
        try:
            config, datasets = load_run(self._paths.config)
            typed = typed_settings(asked.words)
            model = model_of(config) if typed.keys() & {*MODELS} else asked.model
            longest = model.transformer.longest_side
            discoveries = {
                d.id: within(asked.folder.discovery(d), longest, d) for d in datasets.all
            }
            sources = dict.fromkeys(discoveries, asked.folder.source)
            found = Discovered(config, datasets, sources, discoveries)
            prepared = plan_run(found, model, self._facts, run_probes=self._run_probes)
        except Sd3tuneError as e:
            raise self._without_scratch(e) from None
        return PlannedDraft(written, prepared)

    def _without_scratch(self, error: Sd3tuneError) -> Sd3tuneError:
        """The same error with the files named as they will be, not as they are here."""
        folder = f"{self._paths.project}/"
        named = [
            ErrorAndHint(p.message.replace(folder, ""), p.hint.replace(folder, ""))
            for p in error.problems
        ]
        return type(error).of(named)


def _answer(plan: Callable[[], PlannedDraft]) -> PlannedDraft | Sd3tuneError:
    try:
        return plan()
    except Sd3tuneError as e:
        return e


def contents(written: Documents, config: Path) -> dict[Path, str]:
    """File -> its text, for `config` and what is beside it."""
    files: dict[Path, object] = {
        config: written.config,
        config.with_name(DATASETS): written.datasets,
    }
    if written.prompts:
        files[config.with_name(PROMPTS)] = written.prompts
    return {f: json.dumps(data, indent=2, ensure_ascii=False) + "\n" for f, data in files.items()}
