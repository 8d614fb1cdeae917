"""Whether the hub takes what a run will upload: asked before training, and before an upload.

The token stays inside huggingface_hub; no message here holds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.sd3 import hub_refusals
from sd3tune.sd3.hub import in_time

PUSH = "push_to_hub=true"
TOKENS = "make one with the role `write`"


@dataclass(frozen=True)
class Destination:
    """A repository that takes uploads. exists: it is there already, with its own visibility."""

    repository: str  # namespace/name
    private: bool
    exists: bool

    @property
    def address(self) -> str:
        """Of its page."""
        return f"{hub_refusals.endpoint()}/{self.repository}"

    @property
    def shown(self) -> str:
        kind = "private" if self.private else "public"
        return f"{self.address} ({kind}{'' if self.exists else ', new'})"


def destination(name: str, *, private: bool, asked: str = PUSH) -> Destination:
    """The repository `name` stands for, with a token that may write there. asked: the setting or
    option that wants it, for messages. Raises ConfigError within some seconds."""
    if hub_refusals.token_source() is None:
        raise ConfigError(
            f"`{asked}`: you are not logged in at {hub_refusals.endpoint()}",
            hint="`hf auth login` with a token of the role `write`, or set HF_TOKEN; "
            + _without(asked),
        )
    from huggingface_hub import HfApi

    api = HfApi()
    account = _asked(asked, "", api.whoami)
    owner, _, last = name.rpartition("/")
    owner = owner or str(account.get("name", ""))
    repository = f"{owner}/{last}"
    _refuse_readers(asked, repository, owner, account)
    return _existing(api, asked, repository, private)


def _existing(api: Any, asked: str, repository: str, private: bool) -> Destination:
    """Raises ConfigError for a repository of that name into which the token may not write."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    try:
        found = in_time(lambda: api.repo_info(repository))
    except RepositoryNotFoundError:
        return Destination(repository, private, False)
    except Exception as e:  # errors of two libraries and of sockets
        raise _refusal(asked, repository, e) from e
    try:
        in_time(lambda: api.auth_check(repository, write=True))
    except (EntryNotFoundError, RepositoryNotFoundError):
        pass  # a hub without this question; the upload will tell
    except HfHubHTTPError as e:
        if e.response.status_code not in (401, 403):
            raise _refusal(asked, repository, e) from e
        raise ConfigError(
            f"`{asked}`: the token of {hub_refusals.token_source()} may not write into "
            f"{hub_refusals.endpoint()}/{repository}",
            hint=f"{TOKENS} at {_tokens()}, or set hub_model_id to a repository of your own",
        ) from None
    return Destination(repository, bool(found.private), True)


def _refuse_readers(asked: str, repository: str, owner: str, account: Mapping[str, Any]) -> None:
    user = str(account.get("name", ""))
    groups = [str(o.get("name", "")) for o in account.get("orgs") or () if isinstance(o, Mapping)]
    if owner not in (user, *groups):
        also = f" or one of {', '.join(groups)}" if groups else ""
        raise ConfigError(
            f"`{asked}`: {repository} is in the namespace of {owner}, and the token is {user}'s",
            hint=f"set hub_model_id to {repository.rpartition('/')[2]}, in the namespace of {user}"
            + also,
        )
    token = (account.get("auth") or {}).get("accessToken") or {}
    if not may_write(token, owner, repository):
        raise ConfigError(
            f"`{asked}`: the token of {hub_refusals.token_source()} may only read at "
            f"{hub_refusals.endpoint()}",
            hint=f"{TOKENS} at {_tokens()}, then `hf auth login` or set HF_TOKEN; "
            + _without(asked),
        )


def may_write(token: Mapping[str, Any], owner: str, repository: str) -> bool:
    """Whether an access token, as the hub describes it, may write into a repository. Unknown roles
    may: the hub decides when it is asked to write."""
    if token.get("role") == "read":
        return False
    if token.get("role") != "fineGrained":
        return True
    scopes = (token.get("fineGrained") or {}).get("scoped") or ()
    return any(
        "repo.write" in (scope.get("permissions") or ())
        and (scope.get("entity") or {}).get("name") in (owner, repository)
        for scope in scopes
        if isinstance(scope, Mapping)
    )


def _asked(asked: str, repository: str, question: Any) -> Mapping[str, Any]:
    try:
        answer = in_time(question)
    except Exception as e:  # errors of two libraries and of sockets
        raise _refusal(asked, repository, e) from e
    return answer if isinstance(answer, Mapping) else {}


def _refusal(asked: str, repository: str, error: Exception) -> Exception:
    """The cause as the hub's other errors name it, with the setting; the error itself where it is
    of another kind."""
    refused = hub_refusals.refusal(hub_refusals.Question(repository, token=True), error)
    if refused is None:
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    hint = f"{TOKENS} at {_tokens()}, then `hf auth login` or set HF_TOKEN"
    if status != 401:
        hint = "check the network and HF_ENDPOINT, and unset HF_HUB_OFFLINE"
    return ConfigError(f"`{asked}`: {refused}", hint=f"{hint}; {_without(asked)}")


def _without(asked: str) -> str:
    if asked == PUSH:
        return "or train without push_to_hub, and `sd3tune publish` uploads the result later"
    return "the files stay where they are"


def _tokens() -> str:
    return f"{hub_refusals.endpoint()}/settings/tokens"
