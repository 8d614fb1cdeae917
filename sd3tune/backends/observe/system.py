"""Asking programs, files and libraries without ever raising: no answer is a value or an empty text.

Standard library only: the observers use this before anything is installed.
"""

import os
import selectors
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MOST_BYTES = 2**22  # of what a program prints: 8 cards take 2 kB, and rubbish may have no end
Cause = Literal["absent", "forbidden", "hangs", "crashed", "failed", "garbage"]


@dataclass(frozen=True)
class ProgramOutput:
    """What a program printed; `cause` and `message` say why there is nothing to read."""

    text: str = ""
    cause: Cause | None = None
    message: str = ""  # "did not answer in 4 s": the program's name goes before it
    utf8: bool = True  # False: bytes that are not UTF-8 became U+FFFD


def read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def run(command: list[str], timeout_seconds: float = 8.0) -> str | None:
    """What a program printed; None when it is missing, fails or hangs."""
    answer = output(command, timeout_seconds)
    return answer.text if answer.cause is None else None


def program(name: str, root: Path, folder: str) -> str:
    """The name of a program that is on PATH, or its path in the folder where its vendor installs
    it, which not every PATH has. Its name where it is in neither."""
    elsewhere = root / folder / name
    return name if shutil.which(name) or not elsewhere.exists() else str(elsewhere)


def output(command: list[str], timeout_seconds: float = 8.0) -> ProgramOutput:
    """Runs a program to its end. One that never ends, or whose own children hold its output open,
    is given up at the limit; one that prints more than MOST_BYTES as well."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    except FileNotFoundError:
        return ProgramOutput(cause="absent", message="is not on PATH")
    except PermissionError:
        return ProgramOutput(cause="forbidden", message="may not be started by this user")
    except OSError as e:  # a file that is no program
        return ProgramOutput(cause="garbage", message=f"cannot be started: {e.strerror or e}")
    printed: dict[str, bytes] = {"out": b"", "err": b""}
    try:
        stopped = _collect(process, printed, timeout_seconds)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    return stopped or _ended(process.returncode, printed)


def _collect(
    process: "subprocess.Popen[bytes]", printed: dict[str, bytes], timeout_seconds: float
) -> ProgramOutput | None:
    """Reads both streams to their ends; why not, when that does not happen."""
    end = time.monotonic() + timeout_seconds
    late = ProgramOutput(cause="hangs", message=f"did not answer in {timeout_seconds:g} s")
    with selectors.DefaultSelector() as streams:
        for stream, name in ((process.stdout, "out"), (process.stderr, "err")):
            assert stream is not None
            streams.register(stream, selectors.EVENT_READ, name)
        while streams.get_map():
            ready = streams.select(max(0.0, end - time.monotonic()))
            if not ready:
                return late
            for key, _ in ready:
                piece = os.read(key.fd, 2**16)
                printed[key.data] += piece
                if not piece:
                    streams.unregister(key.fileobj)
            if sum(map(len, printed.values())) > MOST_BYTES:
                return ProgramOutput(cause="garbage", message="does not stop printing")
    try:
        process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return late
    return None


def _ended(status: int, printed: dict[str, bytes]) -> ProgramOutput:
    if status < 0:
        return ProgramOutput(cause="crashed", message=f"was killed by {signal_name(-status)}")
    text = printed["out"].decode("utf-8", errors="replace")
    if status != 0:
        words = (text + "\n" + printed["err"].decode("utf-8", errors="replace")).splitlines()
        first = next((line.strip() for line in words if line.strip()), "")
        message = f"failed with exit code {status}" + (f": {first[:200]}" if first else "")
        return ProgramOutput(text, "failed", message)
    return ProgramOutput(text, utf8="\ufffd" not in text)


def signal_name(number: int) -> str:
    """ "SIGSEGV"; "signal 40" for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def load_failure(error: OSError) -> tuple[Cause, str]:
    """Why the loader of the system refused a library: the cause, and a clause on it."""
    text = " ".join(str(error).split())
    if "No such file" in text:
        return "absent", "is not found"
    if "Permission denied" in text:
        return "forbidden", "may not be opened by this user"
    if any(
        w in text for w in ("file too short", "invalid ELF", "cannot read file", "not a mach-o")
    ):
        return "garbage", f"is damaged or cut off: {text}"
    return "failed", f"cannot be loaded: {text}"


def number(text: object) -> float | None:
    """A figure from a tool's word; "N/A", "[Not Supported]" and such are None."""
    if isinstance(text, bool) or text is None:
        return None
    try:
        value = float(str(text).split()[0])
    except (ValueError, IndexError):
        return None
    return value if abs(value) < 2**63 else None  # also NaN and infinity


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
