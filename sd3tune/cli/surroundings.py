"""What a command finds around it and cannot work with: disks, a locale, no working directory, a
library that does not load."""

import os
import sys

from sd3tune.errors import ConfigError
from sd3tune.filesystem import disk
from sd3tune.report import streams


def find_working_directory(command: str | None) -> None:
    """Raises ConfigError when it was removed: relative paths would mean nothing. `doctor` needs
    none."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as e:
        if command != "doctor" or "--report" in sys.argv:
            raise ConfigError(
                f"the working directory does not exist any more ({e.strerror})",
                hint="go to a folder that exists, with `cd`, and start again",
            ) from None
        os.chdir("/")


def refusal(e: OSError | UnicodeEncodeError | ImportError) -> tuple[str, str] | None:
    """Message and hint for an error of the environment (disk, permissions, encoding, a package that
    is not installed); None for a bug in sd3tune."""
    if isinstance(e, ImportError):
        library = (e.name or "").partition(".")[0]
        if library in ("", "sd3tune"):
            return None
        name = "PyTorch" if library == "torch" else f"the package {library}"
        hint = "bash scripts/setup installs it; `sd3tune doctor` looks further"
        return f"{name} cannot be imported: {type(e).__name__}: {e}", hint
    if isinstance(e, UnicodeEncodeError):
        if e.encoding.lower().replace("-", "") == "utf8":
            return None
        name = f"{e.object!a} has no form in {e.encoding}, the encoding of this locale"
        return name, "set LC_ALL=C.UTF-8, and PYTHONUTF8 to 1 or to nothing"
    if "No usable temporary directory" in str(e):
        tried = os.environ.get("TMPDIR") or "unset"
        what = f"no temporary folder can be used: TMPDIR is {tried}, and /tmp was tried too"
        return what, "set TMPDIR to a folder you may write to, on a disk with room"
    if disk.number(e) not in disk.REASONS:
        return None
    streams.outlive()  # what Python still holds for stdout would be refused at exit: exit code 120
    why, remedy = disk.reason(e)
    what = "an open file or the output" if e.filename is None else f"`{os.fsdecode(e.filename)}`"
    return f"{what}: {why}", remedy
