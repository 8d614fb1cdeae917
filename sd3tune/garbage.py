"""How often Python looks for unused objects that refer to each other (its garbage collector).

It looks after every 700 new objects, and now and then at all there are. Importing PyTorch and
diffusers makes some 500,000, which all stay: looking at them again and again took a sixth of the
time of the imports. While they are imported it looks after every 500,000.
"""

import gc

SELDOM = 500_000  # new objects
USUAL = gc.get_threshold()


def look_seldom() -> None:
    """While a command starts. Commands that load no model stay with it."""
    gc.set_threshold(SELDOM, *USUAL[1:])


def look_as_usual() -> None:
    """When the imports are over, before models are loaded: an unused object may hold a tensor. What
    exists by then stays to the end, and is not looked at any more."""
    if gc.get_threshold() != USUAL:
        gc.freeze()
        gc.set_threshold(*USUAL)
