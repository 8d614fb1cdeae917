"""The process of a run on this machine: whether it lives, and telling it to stop and save.

A run holds a lock on a file in its folder, and the file names the process (train/lock.py). A file
of a stranger could name any process. So a process counts only if it belongs to this user and has
that very file open, and only while the lock is held.
"""

import fcntl
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass

import psutil

from sd3tune.data.folder import OUTPUT_MARK
from sd3tune.live.run_folder import RunFolder
from sd3tune.live.tail import json_object

OWNER_BYTES = 4096


@dataclass(frozen=True)
class RunProcess:
    """Who holds the lock. pid: None where it is not a process that may be told to stop."""

    pid: int | None
    host: str
    reason: str = ""  # why it cannot be stopped from here, as a sentence


def running(folder: RunFolder) -> RunProcess | None:
    """The process that holds the lock of the folder; None when nobody holds it."""
    try:
        with folder.opened(OUTPUT_MARK) as file:
            descriptor = file.fileno()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _owner(file.read(OWNER_BYTES), os.fstat(descriptor))
    except OSError:  # no file, or a disk without locks
        return None
    return None


def _owner(content: bytes, lock: os.stat_result) -> RunProcess:
    owner = json_object(content) or {}
    pid, host = owner.get("pid"), owner.get("host")
    if type(pid) is not int or not isinstance(host, str) or not 1 < pid < 2**31:
        return RunProcess(None, "", "the run has not said which process it is")
    host = host[:255]
    if host != socket.gethostname():
        return RunProcess(None, host, f"the run is on another machine ({host})")
    if not _holds(pid, lock):
        return RunProcess(None, host, f"process {pid} does not hold the lock of this run")
    return RunProcess(pid, host)


def _holds(pid: int, lock: os.stat_result) -> bool:
    """Whether the process is this user's and has the lock file open."""
    with suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.uids().real != os.getuid():
            return False
        for opened in process.open_files():
            with suppress(OSError):
                if os.path.samestat(os.stat(opened.path), lock):  # noqa: PTH116  as they are named
                    return True
    return False


def stop(folder: RunFolder) -> str:
    """Tells the run to finish its step, save and end; returns "" or why that cannot be."""
    process = running(folder)
    if process is None:
        return "the run is not running"
    if process.pid is None:
        return process.reason
    try:
        os.kill(process.pid, signal.SIGTERM)
    except OSError as e:
        return f"process {process.pid} cannot be told to stop: {e.strerror}"
    return ""


def memory_bytes(pid: int) -> int | None:
    """Main memory of the process; None where it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
