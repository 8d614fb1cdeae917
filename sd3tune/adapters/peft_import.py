"""Attaches adapters of peft without bitsandbytes, where no layer is bitsandbytes'.

For each layer peft asks whether bitsandbytes is installed, and imports it where it is, and with it
torch's compiler: 1 to 2 s of every start. Only a LoRA on a layer of bitsandbytes needs it there.
Look again when peft looks at the layer first (0.21 does not).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sd3tune import deferred
from sd3tune.tables.schemes import SCHEMES

LIBRARY = "bitsandbytes"


@contextmanager
def for_layers_of(scheme: str) -> Iterator[None]:
    """Adapters of peft are attached in this block, to a transformer quantised with this scheme.
    Afterwards peft knows bitsandbytes again: the next run of a queue may need it."""
    if SCHEMES[scheme].library == LIBRARY or deferred.is_loaded(LIBRARY):
        yield
        return
    from peft import import_utils

    answers = import_utils.is_bnb_available, import_utils.is_bnb_4bit_available
    before = sys.modules.get(LIBRARY)
    # None: to Python it is not installed.
    sys.modules[LIBRARY] = None  # type: ignore[assignment]
    try:
        for answer in answers:
            answer.cache_clear()
            answer()  # remembered from here on
    finally:
        del sys.modules[LIBRARY]
        if before is not None:
            sys.modules[LIBRARY] = before
    try:
        yield
    finally:
        for answer in answers:
            answer.cache_clear()
