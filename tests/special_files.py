"""Files that are not files, where a test needs one."""

import os
import socket
from pathlib import Path


def socket_at(path: Path) -> None:
    """A socket that nobody listens at. Sockets have short names: it is bound from its folder."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)
