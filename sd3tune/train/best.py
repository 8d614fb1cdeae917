"""What follows from the evaluation loss: its curve, the best checkpoint, and an early end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sd3tune.encode.caches import Caches
from sd3tune.formats import manifest
from sd3tune.formats.evaluation_history import best, ended_early
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report.stream import Stream
from sd3tune.train.keeper import Keeper
from sd3tune.train.loop import Chore
from sd3tune.train.outcome import Ending
from sd3tune.train.recipe import Recipe
from sd3tune.train.resume import decided
from sd3tune.train.stable_loss import StableLoss
from sd3tune.train.state import TrainState


@dataclass(frozen=True)
class Judge:
    """Measures the evaluation loss when it is due, and keeps the best checkpoint. The model before
    its training is measured for the curve, and is never the best."""

    loss: StableLoss
    keeper: Keeper

    def judge(self) -> None:
        """Measures after a step. Every process must call this."""
        state = self.keeper.state
        loss = self.loss.measure(state)
        state.evaluations.append([state.step, loss])
        lowest = best(state.evaluations)
        remark = ""
        if lowest is not None:
            first = len(state.evaluations) == 1
            remark = (
                f"; the lowest was {lowest.loss:.4f} after step {lowest.step}"
                if lowest.since
                else ("" if first else ", the lowest so far")
            )
        self.loss.say(state.step, loss, remark)
        if self.loss.how.keep_best and self._is_kept(loss):
            self.keeper.save("best")

    def _is_kept(self, loss: float) -> bool:
        """Whether this step's checkpoint becomes the best: its loss is below that of the one that
        is on the disk. Where none is, this one is the best there is."""
        state = self.keeper.state
        output, run = self.keeper.plan.output_dir, state.lineage.run

        def decide() -> bool:
            kept = best_checkpoint(output, run)
            if kept is None:
                return True
            losses = {int(step): each for step, each in state.evaluations}
            before = losses.get(manifest.step_of(kept))
            return before is None or loss < before

        return decided(self.keeper.world, decide)


def best_checkpoint(output: Path, run: str = "") -> Path | None:
    """The newest whole-looking checkpoint of the kind `best`; run: of any run when ""."""
    ours = (f for f in reversed(manifest.folders(output)) if manifest.kind_of(f) == "best")
    return next((f for f in ours if manifest.is_ours(f, run)), None)


def judging(
    keeper: Keeper, caches: Caches, recipe: Recipe, world: World, stream: Stream
) -> list[Chore]:
    """The chore of the evaluation loss, none where the plan has none. It comes before those that
    save, so that a checkpoint holds the evaluation of its step. Measures the model before its
    training at once."""
    state, plan = keeper.state, keeper.plan
    if plan.evaluation is None:
        return []
    loss = StableLoss.of(plan.evaluation, caches, recipe, world, stream)
    if state.step == 0:
        loss.say(0, loss.measure(state), ", before training")
    due = loss.due(caches.prepared.schedule, plan.steps)
    return [Chore(due, Judge(loss, keeper).judge)]


def enough(plan: Plan) -> Callable[[TrainState], bool]:
    """Whether training has ended early. It follows from the state alone: a resumed run agrees."""
    patience = None if plan.evaluation is None else plan.evaluation.patience
    return lambda state: ended_early(state.evaluations, patience)


def ending(state: TrainState, plan: Plan) -> Ending:
    """Why the run ended early, and the best checkpoint."""
    how = plan.evaluation
    keeps = how is not None and how.keep_best
    kept = best_checkpoint(plan.output_dir, state.lineage.run) if keeps else None
    return Ending(_why_early(state, plan), kept)


def _why_early(state: TrainState, plan: Plan) -> str:
    how, lowest = plan.evaluation, best(state.evaluations)
    if how is None or not ended_early(state.evaluations, how.patience):
        return ""
    if lowest is None:
        return "no evaluation loss is a number"
    return (
        f"no lower evaluation loss in {lowest.since} evaluations than {lowest.loss:.4f} after step "
        f"{lowest.step} (early_stopping_patience)"
    )
