"""Why a hub of Hugging Face does not give what it was asked for: the errors of huggingface_hub, of
its HTTP library and of sockets as one cause each, with the address of the hub.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from sd3tune.errors import ModelError
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.urls import shown_url

OTHER_HUB = "try again later, set HF_ENDPOINT to a hub that works"
LONGEST_REVISION = 255
INVALID = "Invalid credentials in Authorization header"  # what the hub says of a wrong token


@dataclass(frozen=True)
class Question:
    """What is asked of the hub, as messages name it."""

    repository: str
    setting: str = ""  # that names the repository
    revision: str | None = None
    token: bool = False  # the question is whether the token is valid

    @property
    def named(self) -> str:
        if self.token:
            return f"the token of {token_source()} is not checked"
        named = f"{self.setting}={self.repository}" if self.setting else self.repository
        return f"`{named}`"


def no_such_path(setting: str, path: str) -> ModelError:
    """The error for a model that would be on this disk and is not."""
    known = ", ".join(row.repository for row in ARCHITECTURES.rows)
    hint = f"give a diffusers folder, a safetensors file, or one of {known}"
    if (row := ARCHITECTURES.get(Path(path).name)) is not None:
        hint = f"set model_flavour={row.name} without {setting}, or {hint}"
    elif near := get_close_matches(Path(path).name, _beside(Path(path)), n=1):
        hint = f"did you mean {Path(path).with_name(near[0])}? Or {hint}"
    if "\\" in path:
        hint = "write the path with / instead of \\; " + hint
    return ModelError(f"`{setting}={path}`: there is no such folder or file", hint=hint)


def _beside(path: Path) -> list[str]:
    """Names in the folder that would hold the path."""
    try:
        return [other.name for other in islice(path.parent.iterdir(), 1000)]
    except OSError:
        return []


def refusal(question: Question, error: Exception) -> ModelError | None:
    """The cause of a library's error, with the endpoint; None for an error of another kind."""
    from huggingface_hub import errors

    causes = list(_chain(error))
    for kind, say in (
        (errors.OfflineModeIsEnabled, _offline),
        (errors.HFValidationError, _bad_name),
        (errors.GatedRepoError, _gated),
        (errors.DisabledRepoError, _disabled),
        (errors.RevisionNotFoundError, _no_revision),
        (errors.EntryNotFoundError, _no_file),
        (errors.RepositoryNotFoundError, _no_repository),
        (errors.HfHubHTTPError, _answered),
    ):
        for cause in causes:
            if isinstance(cause, kind) and not isinstance(cause, errors.LocalEntryNotFoundError):
                return say(question, cause)
    return _unreachable(question, causes)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, outermost first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


def endpoint() -> str:
    """The address of the hub, as it may be shown."""
    from huggingface_hub import constants

    return shown_url(constants.ENDPOINT)


def token_source() -> str | None:
    """Where the token for the hub comes from: a variable or a file; None: there is no token."""
    from huggingface_hub import constants, get_token

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return name
    return str(constants.HF_TOKEN_PATH) if get_token() else None


def _offline(question: Question, _: BaseException) -> ModelError:
    from huggingface_hub import constants

    if question.token:
        words = f"{question.named}: HF_HUB_OFFLINE forbids to ask the hub"
        return ModelError(words, hint="unset HF_HUB_OFFLINE to check it")
    at = f" at revision {question.revision}" if question.revision else ""
    return ModelError(
        f"{question.named}{at} is not in the hub's cache `{constants.HF_HUB_CACHE}`, and "
        "HF_HUB_OFFLINE forbids to ask the hub",
        hint="unset HF_HUB_OFFLINE, set HF_HOME to the cache that has the model, or give a local "
        "diffusers folder",
    )


def _bad_name(question: Question, error: BaseException) -> ModelError:
    if question.revision and len(question.revision) > LONGEST_REVISION:
        return _no_revision(question, error)
    return ModelError(
        f"{question.named} is not a folder here and cannot be the name of a repository",
        hint="give a diffusers folder, a safetensors file, or a repository such as "
        f"{ARCHITECTURES.rows[0].repository}",
    )


def _gated(question: Question, error: BaseException) -> ModelError:
    page = f"{endpoint()}/{question.repository}"
    source = token_source()
    if INVALID in str(error):
        return _wrong_token(question)
    if source is None:
        return ModelError(
            f"{question.named} is gated, and you are not logged in at {endpoint()}",
            hint=f"accept the licence at {page}, then `hf auth login` or set HF_TOKEN",
        )
    return ModelError(
        f"{question.named} is gated, and the token of {source} has no access to it at {endpoint()}",
        hint=f"accept the licence at {page} with the account of that token; a fine-grained token "
        "also needs the permission to read gated repositories",
    )


def _disabled(question: Question, error: BaseException) -> ModelError:
    words = f"{question.named} was disabled at {endpoint()}"
    return ModelError(words, hint="use another copy of the model")


def _no_revision(question: Question, error: BaseException) -> ModelError:
    return ModelError(
        f"{question.named} has no revision `{question.revision or 'main'}` at {endpoint()}",
        hint="set revision to a branch, tag or commit of the repository, or leave it out",
    )


def _no_file(question: Question, error: BaseException) -> ModelError:
    at = f" at revision {question.revision}" if question.revision else ""
    return ModelError(
        f"{question.named}{at} does not hold the files of a diffusers model at {endpoint()}: "
        f"{_address(error)} does not exist",
        hint="use a repository in diffusers' layout, or download its safetensors file and give "
        "that file",
    )


def _no_repository(question: Question, error: BaseException) -> ModelError:
    if INVALID in str(error):
        return _wrong_token(question)
    source = token_source()
    also = "you are not logged in" if source is None else f"the token of {source} has no access"
    return ModelError(
        f"{question.named}: there is no such folder here, and no such repository at {endpoint()}; "
        f"or it is private, and {also}",
        hint="check the spelling; for a private repository `hf auth login` or set HF_TOKEN with an "
        "account that can read it",
    )


def _wrong_token(question: Question) -> ModelError:
    whose = "" if question.token else f"{question.named}: "
    return ModelError(
        f"{whose}{endpoint()} refuses the token of {token_source()}: it is invalid or has expired",
        hint=f"make a new one at {endpoint()}/settings/tokens, then `hf auth login` or set "
        "HF_TOKEN; without a token public models can be read",
    )


def _answered(question: Question, error: BaseException) -> ModelError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 and token_source() is not None:
        return _wrong_token(question)
    if status in (401, 403):
        source = token_source()
        who = "without a token" if source is None else f"with the token of {source}"
        return ModelError(
            f"{question.named}: {endpoint()} forbids access {who} (HTTP {status})",
            hint=f"look at {endpoint()}/{question.repository} while logged in; a fine-grained "
            "token needs the permission to read this repository",
        )
    if status == 404:
        return _no_hub(question)
    if status == 429:
        return ModelError(
            f"{question.named}: {endpoint()} answers that there were too many requests (HTTP 429)",
            hint="wait some minutes, or log in: `hf auth login`",
        )
    return ModelError(
        f"{question.named}: the hub at {endpoint()} does not work now (HTTP {status})",
        hint=f"{OTHER_HUB}, or give a local diffusers folder",
    )


def _unreachable(question: Question, causes: list[BaseException]) -> ModelError | None:
    """The error where no hub answered; None where the errors are not of a connection."""
    from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

    if any(type(cause).__name__ == "InvalidURL" for cause in causes):
        return _bad_name(question, causes[0])
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if names & {"UnicodeEncodeError", "LocalProtocolError"}:  # their messages quote the token
        return ModelError(
            f"the token of {token_source()} holds characters that no token has",
            hint=f"copy it again from {endpoint()}/settings/tokens",
        )
    words = " ".join(map(str, causes))
    where = f"{question.named}: the hub at {endpoint()}{_through()}"
    if "SSLCertVerificationError" in names or "CERTIFICATE_VERIFY" in words:
        return ModelError(
            f"{where} shows a certificate that is not trusted here: {_last(causes)}",
            hint="a proxy that opens TLS needs its root certificate in SSL_CERT_FILE",
        )
    if "SSLError" in names or "[SSL" in words:
        return ModelError(
            f"{where} makes no TLS connection: {_last(causes)}",
            hint="check HF_ENDPOINT, HTTPS_PROXY and whether a proxy answers instead",
        )
    if any(isinstance(c, FileMetadataError) for c in causes):
        return _no_hub(question)
    if names & {"TimeoutException", "TimeoutError"}:
        return ModelError(
            f"{where} does not answer in time",
            hint=f"check the network, {OTHER_HUB}, or give a local diffusers folder",
        )
    if names & {"TransportError", "ConnectionError", "gaierror"} or any(
        isinstance(c, LocalEntryNotFoundError) for c in causes
    ):
        network = "HTTPS_PROXY, HTTP_PROXY and NO_PROXY" if _through() else "the network"
        return ModelError(
            f"{where} cannot be reached: {_last(causes)}",
            hint=f"check {network}, {OTHER_HUB}, or give a local diffusers folder",
        )
    return None


def _no_hub(question: Question) -> ModelError:
    return ModelError(
        f"{question.named}: {endpoint()}{_through()} does not answer as a hub does",
        hint="check HF_ENDPOINT, and whether a proxy answers instead",
    )


def _through() -> str:
    """The proxy on the way to the hub, as words that follow its address."""
    from urllib.request import getproxies, proxy_bypass  # with ssl: 20 ms

    address = urlsplit(endpoint())
    proxy = getproxies().get(address.scheme)
    if proxy is None or proxy_bypass(address.hostname or ""):
        return ""
    return f", through the proxy {shown_url(proxy)},"


def _address(error: BaseException) -> str:
    url = getattr(getattr(error, "response", None), "url", None)
    return "a file" if url is None else shown_url(str(url))


def _last(causes: list[BaseException]) -> str:
    """The first line of the innermost cause that says something."""
    said = [str(c).strip().splitlines()[0] for c in causes if str(c).strip()]
    return said[-1] if said else type(causes[-1]).__name__
