"""Asks a hub of Hugging Face about a model and about the token of the user.

The hub is that of HF_ENDPOINT, and huggingface_hub asks it. Every question ends after
DEADLINE_SECONDS with an answer or one cause. No torch here.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sd3tune.sd3 import configs
from sd3tune.sd3.hub_refusals import Question, refusal

T = TypeVar("T")
WEIGHTS = "diffusion_pytorch_model.safetensors"
DOWNLOAD_SECONDS = 120.0  # for a few megabytes
ANSWER_SECONDS, DEADLINE_SECONDS = 5.0, 12.0


def config(setting: str, repository: str, subfolder: str, revision: str | None) -> dict[str, Any]:
    """config.json of a part of a repository, a few hundred bytes, from the hub or from its cache.
    setting: that names the repository, for messages. Raises ModelError."""
    name = "config.json" if subfolder == "." else f"{subfolder}/config.json"
    return configs.read(Path(file(Question(repository, setting, revision), name)))


def file(question: Question, name: str, seconds: float = DEADLINE_SECONDS) -> str:
    """The path of a small file of a repository in the hub's cache. Raises ModelError within
    `seconds`."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    def ask() -> str:
        """The library alone would ask a hub that is down six times in 23 seconds."""
        repository, revision = question.repository, question.revision
        try:
            url = hf_hub_url(repository, name, revision=revision)
            get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
        except (EntryNotFoundError, RevisionNotFoundError):
            raise
        except Exception as e:  # no answer, or none for us: the cache may have the file
            try:
                return hf_hub_download(repository, name, revision=revision, local_files_only=True)
            except EntryNotFoundError:
                raise e from None
        return hf_hub_download(repository, name, revision=revision, etag_timeout=ANSWER_SECONDS)

    try:
        return in_time(ask, seconds)
    except Exception as e:  # errors of two libraries, of sockets, and of the disk
        if (refused := refusal(question, e)) is None:
            raise
        raise refused from e


def fetched(repository: str) -> Path:
    """The folder of the hub's cache with a small diffusers model, a few megabytes: from the hub, or
    from the cache where the hub does not answer. Raises ModelError."""
    question = Question(repository)
    file(question, "config.json")
    return Path(file(question, WEIGHTS, DOWNLOAD_SECONDS)).parent


def check_token(seconds: float = DEADLINE_SECONDS) -> None:
    """Raises ModelError within `seconds` for a token that the hub refuses, and where no hub
    answers."""
    from huggingface_hub import HfApi

    try:
        in_time(lambda: HfApi().whoami(), seconds)
    except Exception as e:  # errors of two libraries and of sockets
        question = Question("", token=True)
        if (refused := refusal(question, e)) is None:
            raise
        raise refused from e


def in_time(ask: Callable[[], T], seconds: float = DEADLINE_SECONDS) -> T:
    """The answer, or the error, of a question to a server. Raises TimeoutError after `seconds`: a
    server that answers a byte at a time could keep a library waiting for ever."""
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as e:  # of the caller, whose thread raises it
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise errors[0] if errors else TimeoutError(f"no answer within {seconds:g} s")
