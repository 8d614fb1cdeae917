"""`sd3tune doctor --report`: what we need to know of hardware we do not have, fit to be published.

One JSON document and not an archive: its owner reads it before sending it, and `sd3tune plan --on`
and our tests take it as it is.
"""

import json
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import child, mps_settings, raw_answers
from sd3tune.backends.observe.facts import Vendor
from sd3tune.doctor.private import Private
from sd3tune.errors import ConfigError
from sd3tune.escaping import one_line
from sd3tune.filesystem import drafts

SECONDS = 60.0
ENVIRONMENT = (
    *mps_settings.NAMES,
    *"CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES CUDA_DEVICE_ORDER".split(),
    *"GPU_DEVICE_ORDINAL NVIDIA_VISIBLE_DEVICES".split(),
    *"HSA_OVERRIDE_GFX_VERSION PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF".split(),
    *"OMP_NUM_THREADS SD3TUNE_BACKEND CONDA_PREFIX NCCL_P2P_DISABLE".split(),
    "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
)
MORE = ("sd3tune", "torch", "ninja")


def write(doctor: Mapping[str, Any], path: Path) -> str:
    """doctor: the document of `doctor --json`. What was written, in words. Raises ConfigError."""
    document = bundle(doctor, os.environ, Private.here())
    text = json.dumps(document, indent=1) + "\n"
    try:
        path.parent.stat()  # a folder that is not there was misspelt, and is not made
        drafts.write(path, text.encode())
    except OSError as e:
        words = f"`{path}` cannot be written: {e.strerror}"
        raise ConfigError(
            words, hint="sd3tune doctor --report FILE, in a folder of yours"
        ) from None
    return (
        f"wrote  {one_line(path)} ({len(text) // 1024} KiB)\n"
        "without names, folders, serial numbers, addresses and secrets; read it, then attach it to "
        "an issue of the project"
    )


def bundle(
    doctor: Mapping[str, Any],
    environ: Mapping[str, str],
    private: Private,
    root: Path = Path("/"),
    build: Callable[[], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The document, without what names its owner. build: how PyTorch was built, in its own words;
    None asks it in a child process."""
    torch = doctor["torch"] or {}
    asked = [survey["vendor"] for survey in doctor["machine"]["surveys"]]
    document = {
        **doctor,
        "report": {
            "schema": 1,
            "packages": packages(),
            "environment": {n: environ[n] for n in ENVIRONMENT if n in environ},
            "nvidia_smi": raw_answers.nvidia_details(asked),
            "torch": (build or details)() if torch.get("imported") else {},
        },
        "recording": recording(doctor, environ, root, asked),
    }
    cleaned: dict[str, Any] = private.clean(document)
    return cleaned


def recording(
    doctor: Mapping[str, Any], environ: Mapping[str, str], root: Path, asked: list[Vendor]
) -> dict[str, Any]:
    """As tests/machines has them: the answers from which this machine's facts are made again."""
    facts, host = doctor["facts"], doctor["machine"]["host"]
    return {
        "provenance": f"measured: sd3tune {doctor['version']} doctor --report",
        "platform": host["os"],
        "files": raw_answers.files(root),
        "commands": raw_answers.commands(asked),
        "packages": facts["packages"],
        "tools": facts["tools"],
        "environ": {n: environ[n] for n in ENVIRONMENT if n in environ and n != "SD3TUNE_BACKEND"},
        "torch": doctor["torch"],
    }


def packages() -> dict[str, str]:
    """Installed versions that `facts` does not list already."""
    found = {}
    for name in MORE:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def details() -> dict[str, Any]:
    answer = child.ask("torch-details", timeout_seconds=SECONDS)
    return answer.data if answer.data is not None else {"error": answer.error}
