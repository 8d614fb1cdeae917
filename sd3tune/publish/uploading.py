"""One upload: a commit of some files to a repository, tried again where the hub or the network may
recover, and never reported before the hub has confirmed it.
"""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sd3tune.errors import PublishError
from sd3tune.filesystem import opening
from sd3tune.publish.login import Destination
from sd3tune.publish.published_files import PublishedFile
from sd3tune.publish.receipt import Receipt, fingerprint
from sd3tune.report.quiet import quiet_logger
from sd3tune.sd3.hub import in_time
from sd3tune.urls import redacted

LEAST_SECONDS = 300.0  # after which an attempt is given up, however small the files are
SLOWEST_BYTES_PER_SECOND = 250_000
OF_HUGGING_FACE = "https://huggingface.co"
AGAIN = "give the same command again: it uploads what the hub does not have"
PASSING = (408, 409, 412, 425, 429)  # HTTP statuses that another attempt may not meet; and all 5xx


@dataclass(frozen=True)
class Patience:
    """How often an upload is tried, and how long is waited between: seconds, doubled each time."""

    attempts: int = 4
    first_wait_seconds: float = 2.0
    longest_wait_seconds: float = 60.0

    def tries(self) -> Any:
        """A function that calls another one until it returns, or raises the last error."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

        return Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(self.first_wait_seconds, self.longest_wait_seconds),
            retry=retry_if_exception(may_pass),
            reraise=True,
        )


PATIENT = Patience()
ONE_AT_A_TIME = threading.Lock()  # a second upload sees in the receipt what the first has done


def upload(
    files: Sequence[PublishedFile],
    destination: Destination,
    receipt: Receipt,
    message: str,
    patience: Patience = PATIENT,
) -> int:
    """Uploads what the receipt does not have, in one commit; returns how many files. message: of
    the commit. Raises PublishError when the hub has not confirmed them."""
    with ONE_AT_A_TIME:
        return _upload(receipt.missing(files), destination, receipt, message, patience)


def _upload(
    missing: Sequence[PublishedFile],
    destination: Destination,
    receipt: Receipt,
    message: str,
    patience: Patience,
) -> int:
    if not missing:
        return 0
    try:
        printed = [(file, fingerprint(file)) for file in missing]
        seconds = LEAST_SECONDS + sum(f.size_bytes for f in missing) / SLOWEST_BYTES_PER_SECOND
        patience.tries()(lambda: in_time(lambda: _commit(missing, destination, message), seconds))
        receipt.keep(printed)
    except Exception as e:  # of two libraries, of sockets and of the disk
        what = missing[0].name if len(missing) == 1 else f"{missing[0].name} and others"
        raise PublishError(f"{what}: {reason(e)}", hint=AGAIN) from e
    return len(missing)


def _commit(files: Sequence[PublishedFile], to: Destination, message: str) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # sd3tune draws its own
    quiet_logger("huggingface_hub")
    api = HfApi()
    if not to.exists:
        api.create_repo(to.repository, private=to.private, exist_ok=True)
    with ExitStack() as opened:
        operations: list[Any] = [CommitOperationAdd(f.name, _content(f, opened)) for f in files]
        # The library sends two files of the same bytes from the same open file, at the same time.
        # Once the hub has the bytes it sends neither. Look again at huggingface_hub 2.5.
        different = {operation.upload_info.sha256: operation for operation in operations}
        api.preupload_lfs_files(to.repository, different.values(), free_memory=False)
        api.create_commit(to.repository, operations, commit_message=message)


def _content(file: PublishedFile, opened: ExitStack) -> Any:
    """As the library takes it: an open file goes over Git LFS, which every hub has. A path goes
    over Xet where hf_xet is installed, and only Hugging Face's own hub has that."""
    from huggingface_hub import constants

    if file.content is not None:
        return file.content
    if constants.ENDPOINT == OF_HUGGING_FACE:
        return file.path
    return opened.enter_context(opening.opened(file.path))


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: not where the hub refuses the request itself, and not
    where a file is gone."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in PASSING
    return not isinstance(error, FileNotFoundError | ValueError | PermissionError)


def reason(error: BaseException) -> str:
    """One sentence: what an upload failed of."""
    from huggingface_hub import get_token

    status = _status(error)
    while error.__cause__ is not None:  # the library wraps what it met
        error = error.__cause__
    words = " ".join(str(error).split())
    if status in (401, 403):
        return f"the hub refuses the token for this repository (HTTP {status})"
    if status is not None:
        return f"the hub answered HTTP {status}"
    if isinstance(error, FileNotFoundError):
        return f"{error.filename or 'a file'} is gone"
    return redacted(words.replace(get_token() or "\0", "…"))[:200] or type(error).__name__


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error or of what caused it."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None
