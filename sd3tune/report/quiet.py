"""Silences libraries: their output at import and while loading does not help a user who trains.
With `-v` they print it."""

import logging
import os
import warnings

from sd3tune import deferred, garbage
from sd3tune.report.messages import verbosity

# Imported by diffusers, peft and accelerate wherever they are installed, for quantised models,
# samplers and Amazon's machines: a quarter of the time until the first step, and 100 MiB.
SELDOM_USED = ("bitsandbytes", "scipy.stats", "scipy.integrate", "boto3")


def quiet_libraries() -> None:
    """Only errors are left. Call this before diffusers, transformers, peft or bitsandbytes are
    imported, and before models are loaded."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked loaders would warn
    deferred.defer(*SELDOM_USED)
    if verbosity() != "verbose":
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        quiet_logger("bitsandbytes")
        pattern = "diffusers|transformers|peft"
        warnings.filterwarnings("ignore", category=FutureWarning, module=pattern)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()  # sd3tune draws its own
    transformers_logging.disable_progress_bar()
    garbage.look_as_usual()


def quiet_logger(name: str) -> None:
    """Only errors of a library's logger, unless -v was given. A library that sets its own level at
    import needs this afterwards."""
    if verbosity() != "verbose":
        logging.getLogger(name).setLevel(logging.ERROR)
