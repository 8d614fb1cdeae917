"""Trackio: a run in its local database, in TRACKIO_DIR or where the library keeps it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd3tune.report.events import PictureDrawn
from sd3tune.report.tracker_sink import TrackedRun, by_prompt, caption

COLUMNS = ["step", "prompt", "size", "seed", "weights", "picture"]


class Trackio:
    """A run of Trackio. The name tells runs apart there, so it has a part of the run's id."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio: Any = quiet(trackio)
        self._table = run.layout == "table"
        self._run = trackio.init(
            project=run.project,
            name=run.unique_name,
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        newest = trackio.sqlite_storage.SQLiteStorage.get_max_step_for_run(
            run.project, run.unique_name, run_id=self._run.id
        )
        self.last = -1 if newest is None else int(newest)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, drawn: Sequence[PictureDrawn]) -> None:
        """gallery: a key per picture below its prompt. table: all of a step, a row each."""
        if self._table:
            rows = [
                [step, p.prompt, f"{p.size[0]}x{p.size[1]}", p.seed, p.weights, self._image(p)]
                for p in drawn
            ]
            self._run.log(
                {"validation": self._trackio.Table(columns=COLUMNS, data=rows)}, step=step
            )
            return
        for name, group in by_prompt(drawn).items():
            for number, picture in enumerate(group):
                key = f"{name}/{number}" if len(group) > 1 else name
                self._run.log({key: self._image(picture)}, step=step)

    def _image(self, picture: PictureDrawn) -> Any:
        return self._trackio.Image(str(picture.path), caption=caption(picture))

    def sheet(self, step: int, name: str, path: Path) -> None:
        self._run.log({f"sheets/{name}": self._trackio.Image(str(path))}, step=step)

    def text(self, step: int, name: str, markdown: str) -> None:
        self._run.log({name: self._trackio.Markdown(markdown)}, step=step)

    def flush(self) -> None:
        """The library writes twice a second."""

    def finish(self, *, failed: bool) -> None:
        self._run.finish()


def quiet(trackio: Any) -> Any:
    """The library without its lines on stdout, which is for results, and without asking
    huggingface.co who the user is, which it does for a run that stays on this machine. It has no
    setting for either (trackio 0.43; look again at 0.44)."""
    for module in (trackio, trackio.run, trackio.utils):
        module.print = lambda *words, **how: None
    trackio.run._get_default_namespace = lambda: None
    return trackio
