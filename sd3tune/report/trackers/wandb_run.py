"""Weights & Biases: a run at a server, or files in logging_dir/wandb that `wandb sync` sends.

The library asks for a login when it finds no key; the plan has decided by then whether it is used
online, so it never asks. It does not get the command line, which may hold secrets, nor the output.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd3tune.report.events import PictureDrawn
from sd3tune.report.messages import warn
from sd3tune.report.tracker_sink import TrackedRun, by_prompt, caption
from sd3tune.report.trackers.wandb_files import newest_step

INIT_SECONDS = 30.0  # for the answer of the server, before the run is kept offline
FINISH_SECONDS = 15.0  # for what is left to send; `wandb sync` sends the rest
COLUMNS = ["step", "prompt", "size", "seed", "weights", "picture"]


class Wandb:
    """A run of Weights & Biases. Its id is the run's, so a resumed run continues it, and two runs
    with the same settings are two."""

    def __init__(self, run: TrackedRun, init_seconds: float = INIT_SECONDS) -> None:
        import wandb

        self._wandb: Any = wandb
        self._table, self._init_seconds = run.layout == "table", init_seconds
        (run.folder / "wandb").mkdir(parents=True, exist_ok=True)
        self._run = self._begun(run)
        if self._run.settings.mode == "online":
            self.last = self._run.starting_step - 1
        else:
            self.last = newest_step(run.folder / "wandb", run.id)

    def _begun(self, run: TrackedRun) -> Any:
        if not run.online:
            return self._init(run, "offline")
        try:
            return self._init(run, "online")
        except (self._wandb.Error, OSError) as error:
            words = str(error).partition("\n")[0]
            warn(f"wandb cannot be reached ({words}); this run is kept here, and `wandb sync "
                 f"{run.folder / 'wandb'}/offline-run-*` sends it")  # fmt: skip
            self._wandb.teardown()
            return self._init(run, "offline")

    def _init(self, run: TrackedRun, mode: str) -> Any:
        settings = self._wandb.Settings(
            mode=mode,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_save_requirements=False,
            init_timeout=self._init_seconds,
            finish_timeout=FINISH_SECONDS,
        )
        return self._wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            config=dict(run.settings),
            dir=os.fspath(run.folder),
            settings=settings,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, drawn: Sequence[PictureDrawn]) -> None:
        """gallery: the pictures of a prompt side by side. table: all of a step, a row each."""
        if self._table:
            rows = [
                [step, p.prompt, f"{p.size[0]}x{p.size[1]}", p.seed, p.weights, self._image(p)]
                for p in drawn
            ]
            shown = {"validation": self._wandb.Table(columns=COLUMNS, data=rows)}
        else:
            shown = {
                name: list(map(self._image, group)) for name, group in by_prompt(drawn).items()
            }
        self._run.log(shown, step=step)

    def _image(self, picture: PictureDrawn) -> Any:
        return self._wandb.Image(os.fspath(picture.path), caption=caption(picture))

    def sheet(self, step: int, name: str, path: Path) -> None:
        self._run.log({f"sheets/{name}": self._wandb.Image(os.fspath(path))}, step=step)

    def text(self, step: int, name: str, markdown: str) -> None:
        """Not sent: its page has no curve of texts."""

    def flush(self) -> None:
        """The library's own process writes."""

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
