"""The errors of the libraries that read weights, as ModelError with a hint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd3tune.errors import ModelError, Sd3tuneError
from sd3tune.sd3 import hub_refusals
from sd3tune.sd3.hub_refusals import Question
from sd3tune.sd3.models import MODEL, is_file


@contextmanager
def reading(part: str, place: str, setting: str = MODEL) -> Iterator[None]:
    """Turns the errors of the libraries for missing, gated or damaged weights into ModelError."""
    named = f"`{place}`" if is_file(place) else f"`{setting}={place}`"
    remote = not is_file(place) and not Path(place).is_dir()
    try:
        yield
    except Sd3tuneError:
        raise
    except Exception as e:  # tokenizers raises plain Exception, and damaged files raise anything
        from sd3tune.backends.kernels.no_memory import is_out_of_memory  # it imports torch

        if is_out_of_memory(e):
            raise
        refused = hub_refusals.refusal(Question(place, setting), e) if remote else None
        raise (refused or _unreadable(named, part, e)) from e


def _unreadable(named: str, part: str, error: Exception) -> ModelError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, OSError):
        words = f"{named}: cannot load the {part}: {first}"
        return ModelError(words, hint="check that the files can be read, or download them again")
    words = f"{named}: the {part} is damaged or of another kind: {first}"
    return ModelError(words, hint="download the model again")
