"""Which processes of this computer belong to the run that asks: what they hold of a device is not
held by others.

Standard library only. Linux alone lists processes in files; elsewhere only the process that asked
is known.
"""

import os
from pathlib import Path

LAUNCHED = ("RANK", "LOCAL_RANK")  # torchrun, accelerate and sd3tune's own launcher set them


def numbers(asker: int | None = None, root: Path = Path("/")) -> frozenset[int]:
    """Process numbers of the run: the process that asked and all that it started; of a run of
    several processes also those beside it. asker: None is the parent, since observers run in a
    child process."""
    parents = _parents(root)
    first = os.getppid() if asker is None else asker
    if any(name in os.environ for name in LAUNCHED):
        first = parents.get(first, first)
    own = {first, os.getpid()}
    if first <= 1:  # the asker is gone, or was started by init: everything descends from it
        return frozenset({os.getpid()})
    while more := {child for child, parent in parents.items() if parent in own} - own:
        own |= more
    return frozenset(own)


def _parents(root: Path) -> dict[int, int]:
    """Process -> its parent. A process that ends meanwhile is left out."""
    found = {}
    for path in (root / "proc").glob("[0-9]*/stat"):
        try:
            # `4242 (a name (with) brackets) S 4200 …`
            words = path.read_text(errors="replace").rpartition(")")[2].split()
            found[int(path.parent.name)] = int(words[1])
        except (OSError, ValueError, IndexError):
            continue
    return found
