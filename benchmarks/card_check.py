"""Whether this machine has what benchmarks/on_a_card.sh needs, in a line for each thing.

    python benchmarks/card_check.py [FOLDER] [--json FILE]

Packages and their versions, the device and its memory, free disk below FOLDER, a C compiler, and a
small function that is compiled for the device. Exit code 1: a package is missing. Without a
compiler, compiled rows fail, each for itself.
"""

import importlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import machine

MODULES = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "lycoris",
           "optimum.quanto", "sd3tune")  # fmt: skip
GB = 1e9


def imported() -> dict[str, str]:
    """Module -> its version, or `missing: WHY`."""
    found = {}
    for name in MODULES:
        try:
            module = importlib.import_module(name)
            found[name] = str(getattr(module, "__version__", "there"))
        except Exception as e:  # a library may fail in any way when it is loaded
            found[name] = f"missing: {type(e).__name__}: {e}"
    return found


def compiling() -> dict[str, Any]:
    """Seconds to compile a function of one kernel on the device; `failed`: why it cannot be."""
    import torch

    device = torch.accelerator.current_accelerator() or "cpu"
    started = time.perf_counter()
    try:
        torch.compile(lambda x: torch.nn.functional.gelu(x) * 2)(torch.ones(64, device=device))
    except Exception as e:  # compilers fail in any way
        return {"failed": f"{type(e).__name__}: {(str(e).strip() or '?').splitlines()[0]}"}
    return {"seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?", default=Path())
    given = made.parse_args()
    started = time.perf_counter()
    found = imported()
    missing = [name for name, version in found.items() if version.startswith("missing")]
    result: dict[str, Any] = {
        "packages": found,
        "import_seconds": round(time.perf_counter() - started, 1),
        "free_disk_gb": round(shutil.disk_usage(given.folder).free / GB, 1),
        "c_compiler": shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang"),
    }
    if "torch" not in missing:
        import torch

        if torch.cuda.is_available():
            card = torch.cuda.get_device_properties(0)
            result["card"] = f"{card.name}, {card.total_memory / GB:.1f} GB"
        result["compiling"] = compiling()
    for name, value in result.items():
        print(f"{name:<16}{value}", flush=True)
    machine.report("card_check", result, given.json)
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
