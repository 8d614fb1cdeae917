"""Whether Weights & Biases has credentials here, and where they lie; never what they are.

Read as the library reads them, without importing it. Nothing is asked over the network.
"""

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

SERVER = "https://api.wandb.ai"
VARIABLES = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
OFFLINE = ("offline", "dryrun")


def host(environ: Mapping[str, str]) -> str:
    """The name of the server: that of WANDB_BASE_URL, or the public one."""
    server = environ.get("WANDB_BASE_URL") or SERVER
    return urlsplit(server).hostname or server


def offline_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that switches the library offline, if one does."""
    if environ.get("WANDB_MODE", "").strip().lower() in OFFLINE:
        return "WANDB_MODE"
    return "WANDB_DISABLED" if environ.get("WANDB_DISABLED", "").lower() in ("true", "1") else None


def key_source(environ: Mapping[str, str]) -> str | None:
    """The variable with a key for the server, or the file where `wandb login` writes it; None:
    there is no key."""
    for name in VARIABLES:
        if environ.get(name):
            return name
    home = Path(environ.get("HOME") or "~").expanduser()
    named = environ.get("NETRC")
    files = [Path(named).expanduser()] if named else [home / ".netrc", home / "_netrc"]
    return next((str(file) for file in files if _has_login(file, host(environ))), None)


def _has_login(file: Path, host: str) -> bool:
    try:
        login = netrc.netrc(str(file)).hosts.get(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return login is not None and bool(login[2])
