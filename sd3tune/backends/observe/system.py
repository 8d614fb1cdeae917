"""Asking programs and files without ever raising: no answer is None, or an empty text.

Standard library only: the observers use this before anything is installed.
"""

import subprocess
from pathlib import Path


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def run(command: list[str], timeout_seconds: float = 8.0) -> str | None:
    """What a program printed; None when it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def number(text: object) -> float | None:
    """A figure from a tool's word; "N/A", "[Not Supported]" and such are None."""
    if isinstance(text, bool) or text is None:
        return None
    try:
        return float(str(text).split()[0])
    except (ValueError, IndexError):
        return None


def whole(text: object) -> int | None:
    value = number(text)
    return None if value is None else int(value)


def scaled(text: object, unit: int) -> int | None:
    """A figure in some unit as bytes."""
    value = number(text)
    return None if value is None else int(value * unit)


def bus_id(text: object) -> str | None:
    """ "00000000:65:00.0" and "0000:65:00.0" are one card: domain of four digits, lower case."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str) or text.count(":") != 2:
        return None
    domain, rest = text.strip().lower().split(":", 1)
    return f"{domain[-4:].rjust(4, '0')}:{rest}"


def hip_uuid(serial: object) -> str | None:
    """A serial number ("0x9fa599fd0d5e1f20", or a decimal number) as ROCR_VISIBLE_DEVICES takes it:
    "GPU-9fa599fd0d5e1f20"; None for a number that is not known."""
    try:
        number = int(str(serial), 0)
    except ValueError:
        return None
    return f"GPU-{number:016x}" if 0 < number < 2**64 else None


def pci_cards(root: Path, vendor: str) -> list[tuple[str, str]]:
    """(bus id, class) of a vendor's display controllers and accelerators, driver or not."""
    found = []
    for card in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind = read(card / "class").strip()
        if read(card / "vendor").strip() == vendor and kind.startswith(("0x03", "0x12")):
            found.append((card.name, kind))
    return found
