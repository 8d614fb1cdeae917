"""Work beside training that may fail: its failure is reported, and the run goes on unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sd3tune import out_of_memory
from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.encode.fill import free
from sd3tune.errors import ErrorAndHint, Sd3tuneError
from sd3tune.processes.world import World
from sd3tune.report.progress import warn
from sd3tune.sample.pictures import same_random_numbers


@dataclass
class Harmless:
    """name: of the work, as `validation`."""

    name: str
    world: World
    reported: set[str] = field(default_factory=set)  # failures that were reported in full

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Reports what fails in the block. Random generators and memory are as before it."""
        try:
            with same_random_numbers(self.world.device):
                yield
        except Exception as error:  # libraries and disks raise anything; a signal is no Exception
            self._report(step, failure(error))
        finally:
            free()

    def _report(self, step: int, why: ErrorAndHint) -> None:
        """A failure of a new kind with its hint, the others by their step."""
        if why.message in self.reported:
            warn(f"the {self.name} at step {step} failed as before; the run goes on")
            return
        self.reported.add(why.message)
        hints = (f"hint: {why.hint}",) if why.hint else ()
        warn(f"the {self.name} at step {step} failed, and the run goes on: {why.message}", *hints)


def failure(error: Exception) -> ErrorAndHint:
    """What went wrong, and what to do; no hint where nobody knows."""
    if is_out_of_memory(error):
        hint = f"{out_of_memory.STAGES['drawing pictures']}, or set validation_disable=true"
        return ErrorAndHint("out of memory while drawing pictures", hint)
    hint = error.hint if isinstance(error, Sd3tuneError) else ""
    return ErrorAndHint(str(error) or type(error).__name__, hint)
