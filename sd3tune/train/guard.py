"""Finds bad numbers and loss spikes before the weights are updated, and names the images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from sd3tune.data.discover import Sample
from sd3tune.errors import Diverged
from sd3tune.plan.objective import SpikeAction
from sd3tune.plan.plan import Plan
from sd3tune.train.state import TrainState

WINDOW = 100  # losses remembered; their median is what a loss is compared with
MIN_HISTORY = 20  # losses before spike detection starts
SHARE = 0.5  # `lower` leaves this share of the learning rate
LOWERED = 100  # for this update and so many more
NAMED = 4  # images in a message


@dataclass(frozen=True)
class StepImage:
    """One image of an optimizer step."""

    id: int
    level: float  # noise level
    loss: float
    noise: int = 0  # digest of its noise


@dataclass(frozen=True)
class Guard:
    """Watches the losses of a run. name: an image's id to where a human finds it."""

    action: SpikeAction = "none"
    factor: float = 5.0
    name: Callable[[int], str] = str

    @classmethod
    def of(cls, plan: Plan, samples: Sequence[Sample]) -> "Guard":
        """The plan's guard, which names images by their paths."""
        paths = {s.id: s.path for s in samples}
        return cls(plan.loss.spike_action, plan.loss.spike_factor, paths.__getitem__)

    def refuse_bad_numbers(
        self, state: TrainState, loss: float, grad_norm: float, seen: Sequence[StepImage]
    ) -> None:
        """Raises Diverged for a loss or gradient that is not finite. With the fp16 gradient scaler
        an overflowing gradient is not an error: the scaler skips the update and halves its scale.
        At a scale below 1 the cause is not an overflow."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        if math.isfinite(loss) and state.scaler.is_enabled() and state.scaler.get_scale() >= 1:
            return
        bad = [s for s in seen if not math.isfinite(s.loss)] or list(seen)
        raise Diverged(
            f"step {state.step + 1}: loss {loss:g}, gradient norm {grad_norm:g} on "
            f"{self._names(bad)}",
            hint="lower learning_rate or max_grad_norm; nothing was written, the last checkpoint "
            "holds",
        )

    def spike(
        self, state: TrainState, loss: float, seen: Sequence[StepImage]
    ) -> SpikeAction | None:
        """The action for a loss far above the median of recent losses; None for an ordinary loss.
        Spikes enter the median too, so that it follows a lasting change.
        Raises Diverged for `stop`."""
        before = state.recent_losses
        state.recent_losses = [*before, loss][-WINDOW:]
        if self.action == "none" or len(before) < MIN_HISTORY:
            return None
        if loss <= self.factor * median(before):
            return None
        if self.action == "stop":
            worst = sorted(seen, key=lambda s: -s.loss)
            raise Diverged(
                f"step {state.step + 1}: loss {loss:g} is {loss / median(before):.3g} times the "
                f"median of the last {len(before)} on {self._names(worst)}",
                hint="look at these images, lower learning_rate, or use loss_spike_action=skip; "
                "nothing was written, the last checkpoint holds",
            )
        if self.action == "lower":
            lower(state)
        return self.action

    def _names(self, seen: Sequence[StepImage]) -> str:
        names = list(dict.fromkeys(f"`{self.name(s.id)}`" for s in seen))
        rest = len(names) - NAMED
        return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


BAD_NUMBERS = Guard()  # refuses numbers that are not finite, and takes spikes as they come


def lower(state: TrainState) -> None:
    """Half the learning rate, in this update and LOWERED more; a further spike begins anew."""
    if state.step >= state.lowered_until:
        for group in state.optimizer.param_groups:
            group["lr"] *= SHARE
    state.lowered_until = state.step + 1 + LOWERED


def rate_share(state: TrainState) -> float:
    """Share of the scheduled learning rate that the next update takes: less after a spike."""
    return SHARE if state.step < state.lowered_until else 1.0
