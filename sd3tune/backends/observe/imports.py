"""Imports what a run needs, in a child process: a package can be installed and still not load.

The names are those that the trainer asks for, since diffusers and transformers load a model's file
only when its class is named.
"""

import re
import time
from importlib import import_module, metadata

from sd3tune.tables.libraries import LIBRARIES

# Modules whose distribution has another name, of packages that others ask for.
ELSEWHERE = {"yaml": "pyyaml"}


def observe(device: str, *probes: str) -> dict[str, dict[str, object]]:
    """`attempt` of each probe `import_NAME`, for the child process. No device is touched."""
    return {probe: attempt(probe.removeprefix("import_")) for probe in probes}


def attempt(distribution: str, imports: str | None = None) -> dict[str, object]:
    """A ProbeAnswer as JSON data: the version that was imported, or the error and its fix. imports:
    as in a row of LIBRARIES; by default those of the row of that name."""
    started = time.perf_counter()
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return {"ok": False, "words": "it is not installed", "fix": install(distribution)}
    module, _, names = (imports or LIBRARIES[distribution].imports).partition(":")
    try:
        loaded = import_module(module)
        for name in names.split():
            getattr(loaded, name)
    except Exception as e:  # whatever loading a library raises is the finding
        return {"ok": False, "words": sentence(e), "fix": remedy(distribution, module, e),
                "seconds": time.perf_counter() - started}  # fmt: skip
    return {"ok": True, "words": version, "seconds": time.perf_counter() - started}


def sentence(error: BaseException) -> str:
    """One line of the first cause of an error, since a lazy module wraps it in paragraphs."""
    root = cause(error)
    line = next(iter(str(root).strip().splitlines()), "")
    return f"{type(root).__name__}: {line}" if line else type(root).__name__


def cause(error: BaseException) -> BaseException:
    """The innermost error that says which import failed; the error itself where none does."""
    found, seen = error, error
    for _ in range(20):  # an error may be its own cause
        inner = seen.__cause__ or seen.__context__
        if inner is None:
            break
        seen = inner
        if isinstance(seen, ImportError | OSError):
            found = seen
    return found


def remedy(distribution: str, module: str, error: BaseException) -> str:
    """A command: installs the module that is missing, or the package itself again."""
    root = cause(error)
    if isinstance(root, ModuleNotFoundError) and root.name is not None:
        missing = root.name.partition(".")[0]
        if missing != module.partition(".")[0]:
            name = distribution_of(missing)
            asked = wanted_by(distribution, name) or wanted_by("sd3tune", name)
            return f"pip install '{asked or name}'"
    # --no-deps: pip would replace PyTorch by the build of its own index.
    return install(distribution).replace("install", "install --force-reinstall --no-deps", 1)


def distribution_of(module: str) -> str:
    """The distribution that brings a top-level module, "pillow" for PIL."""
    rows = {row.imports.partition(":")[0].partition(".")[0]: row.name for row in LIBRARIES.rows}
    return (rows | ELSEWHERE).get(module, module)


def install(distribution: str) -> str:
    """The version that sd3tune was tested with."""
    return f"pip install '{wanted_by('sd3tune', distribution) or distribution}'"


def wanted_by(distribution: str, name: str) -> str | None:
    """`name` with the range that the metadata of a distribution asks for; None where it does not
    name it, and where `packaging` itself is what does not load."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        return None
    try:
        lines = metadata.requires(distribution) or ()
    except metadata.PackageNotFoundError:
        return None
    for line in lines:
        try:
            found = Requirement(line)
        except InvalidRequirement:
            continue
        if canonicalize_name(found.name) == canonicalize_name(re.sub(r"\W", "-", name)):
            return f"{found.name}{found.specifier}"
    return None
