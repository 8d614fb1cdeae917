"""A PyTorch that does not load, found when a command imports it: `plan` and `train` decide from
what PyTorch said before, which is kept on the disk, and do not see that a library is gone since."""

import os
import re
import sys
import traceback

HINT = "bash scripts/setup installs it; `sd3tune doctor` looks further"
IMPORT = re.compile(r"\s*(import|from) torch\b")


def failed_with(e: Exception) -> bool:
    """The import of torch ended with this error, of whatever class: a library that is missing is an
    OSError or an ImportError, files of two versions give any other."""
    if "torch" in sys.modules:  # Python takes it out again where its import fails
        return False
    frames = [frame for frame, _ in traceback.walk_tb(e.__traceback__)]
    running = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames}
    if "torch" in running:
        return True
    last = traceback.extract_tb(e.__traceback__)[-1:]  # where its first file cannot be compiled
    return any(IMPORT.match(frame.line or "") for frame in last)


def forget_report() -> None:
    """Removes what PyTorch said before, so that the next command asks it. Never raises."""
    from sd3tune.backends.observe import kept_answers, kept_torch

    kept_torch.forget(kept_answers.folder(os.environ))
