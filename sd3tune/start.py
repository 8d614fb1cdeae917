"""Starts Python so that nothing is imported from the folder where a command is typed.

`python -m`, `python -c` and empty or relative entries of PYTHONPATH put the working directory
before the standard library: a `tokenize.py` in a downloaded project would run, with the user's
tokens in reach. `python -P` and PYTHONSAFEPATH exist since Python 3.11 only. So children are
started by the path of this file, which takes its own folder off the path again before it imports
anything.

Nothing is imported here that Python has not loaded by itself before.
"""

import os
import sys

SCRIPT = os.path.abspath(__file__)  # noqa: PTH100  pathlib is not loaded yet
ROOT = os.path.dirname(os.path.dirname(SCRIPT))  # noqa: PTH120  the folder that holds sd3tune
PACKAGE = "sd3tune"


def command(module: str, *words: str) -> list[str]:
    """Runs `main()` of a module of this very package, installed or not; its sys.argv[1:] is
    `words`. The package's own name stands for the `sd3tune` command."""
    return [sys.executable, SCRIPT, module, *words]


def environment(environ: "os._Environ[str]") -> dict[str, str]:
    """Variables for a child that is started with Python: PYTHONPATH without empty and relative
    entries, which mean the working directory. Absolute entries stay."""
    absolute = [e for e in _entries(environ) if os.path.isabs(e)]  # noqa: PTH117
    found = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    if absolute:
        found["PYTHONPATH"] = os.pathsep.join(absolute)
    return found | {"PYTHONSAFEPATH": "1"}  # for what libraries start, from Python 3.11 on


def leave_working_directory() -> None:
    """Takes the working directory, and what PYTHONPATH names relative to it, off the import path of
    this process and of those it starts."""
    given = set(_entries(os.environ))
    absolute = {e for e in given if os.path.isabs(e)}  # noqa: PTH117
    relative = given - absolute
    try:  # noqa: SIM105  contextlib is not loaded yet
        relative |= {os.path.abspath(e) for e in relative}  # noqa: PTH100  site.py did the same
    except OSError:  # the working directory is gone: then site.py left them as they were
        pass
    sys.path[:] = [e for e in sys.path if e and e not in relative - absolute]
    kept = environment(os.environ)
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        os.environ.pop(name, None)
        if name in kept:
            os.environ[name] = kept[name]


def limit_spinning() -> None:
    """Has OpenMP threads that wait for work sleep after 1000 turns, about as long as waking one
    takes. The default of GCC's library, which PyTorch has on Linux, is 300,000: on busy cores the
    thread that has the work then waits for those that spin. OMP_WAIT_POLICY and GOMP_SPINCOUNT of
    the user hold before this. Must run before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def drop_first() -> None:
    """Takes off the entry that `python -m` and `python FILE` put first; -P and -I put none."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]


def _entries(environ: "os._Environ[str]") -> list[str]:
    value = environ.get("PYTHONPATH")  # empty: as if it were not set
    return value.split(os.pathsep) if value else []


def _run() -> None:
    drop_first()
    leave_working_directory()
    module = sys.argv.pop(1)
    sys.argv[0] = PACKAGE
    sys.path.insert(0, ROOT)
    __import__(PACKAGE)  # every other module of sd3tune comes from where this one was found
    sys.path.remove(ROOT)
    name = f"{PACKAGE}.__main__" if module == PACKAGE else module
    __import__(name)
    sys.modules[name].main()


if __name__ == "__main__":
    _run()
