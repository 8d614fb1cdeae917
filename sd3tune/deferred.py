"""Packages that other libraries import and hardly ever use: loaded when somebody uses them.

`defer("bitsandbytes")` puts a module into sys.modules that imports the real one at the first
access to any of its attributes. Whoever imports it gets the same objects as ever, only later.
Nothing is deferred that is loaded already or is not installed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

LOCK = RLock()


class Deferred(ModuleType):
    """Stands for a module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        """Python calls this for what the stand-in lacks, `__path__` of a package included."""
        return getattr(self._loaded(), name)

    def _loaded(self) -> ModuleType:
        name = self.__name__
        with LOCK:
            if sys.modules.get(name) is self:
                del sys.modules[name]
            return import_module(name)


def defer(*names: str) -> None:
    """Defers these modules. A name with a dot loads the package that holds it."""
    for name in names:
        if name in sys.modules:
            continue
        try:
            spec = find_spec(name)
        except ImportError:  # the package that holds it is not installed, or broken
            continue
        if spec is None or spec.origin is None:
            continue
        module = Deferred(name)
        # What tools ask of every module that is loaded (inspect.getmodule, find_spec).
        module.__spec__, module.__file__ = spec, spec.origin
        sys.modules[name] = module


@contextmanager
def briefly(name: str) -> Iterator[None]:
    """Defers a module for a block that imports it and uses nothing of it."""
    if name in sys.modules:
        yield
        return
    defer(name)
    try:
        yield
    finally:
        if isinstance(sys.modules.get(name), Deferred):
            del sys.modules[name]


def is_loaded(name: str) -> bool:
    """Whether the module itself is loaded, and no stand-in."""
    module = sys.modules.get(name)
    return module is not None and not isinstance(module, Deferred)
