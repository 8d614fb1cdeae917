"""What a command says when it fails, and its exit code."""

import os
import time

from sd3tune.cli import broken_torch, surroundings, words
from sd3tune.errors import Sd3tuneError
from sd3tune.escaping import echo

# Rank 0 prints first; within this time the launcher has usually killed the other ranks, so that the
# error appears once.
OTHER_RANKS_WAIT_SECONDS = 2.0


def show_failure(e: Exception) -> int:
    """Prints an error as messages and hints, or a bug with its traceback; returns the exit code."""
    if isinstance(e, Sd3tuneError):
        if os.environ.get("RANK", "0") != "0":
            time.sleep(OTHER_RANKS_WAIT_SECONDS)
        for problem in e.problems:
            words.show_error(problem.message, problem.hint)
        return e.exit_code
    if broken_torch.failed_with(e):
        broken_torch.forget_report()
        words.show_error(f"PyTorch cannot be imported: {type(e).__name__}: {e}", broken_torch.HINT)
        return 1
    if isinstance(e, OSError | UnicodeEncodeError | ImportError):
        refusal = surroundings.refusal(e)
        if refusal is not None:
            words.show_error(*refusal)
            return 1
    return _show_bug(e)


def _show_bug(e: Exception) -> int:
    import traceback

    echo("".join(traceback.format_exception(e)).rstrip(), err=True)
    words.show_error(
        f"this is a bug in sd3tune: {type(e).__name__}: {e}",
        "please report it with the lines above and the file of `sd3tune doctor --report`",
    )
    return 2
