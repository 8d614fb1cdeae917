"""Children of a test that share what it has loaded."""

import os
from collections.abc import Callable

import torch


def forked(work: Callable[[], object]) -> int:
    """A child process that does it; torch is loaded already, so a kill hits the work itself."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work()
            status = 0
        finally:
            os._exit(status)
    return child
