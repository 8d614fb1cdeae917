"""The accounts that a run may need: the hub of Hugging Face and Weights & Biases.

Findings name where a token or key lies, and never hold it. Only the hub is asked whether it accepts
its token, and only within some seconds.
"""

import os
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from sd3tune.doctor.finding import Finding, Status
from sd3tune.errors import ModelError
from sd3tune.report.trackers import wandb_login
from sd3tune.urls import shown_url

HUB = "hugging face"


def findings(*, ask: bool) -> Iterator[Finding]:
    """Hub, model cache and Weights & Biases. ask: whether the hub is asked about the token."""
    yield from hub(ask=ask)
    yield wandb(os.environ)


def hub(*, ask: bool = True) -> Iterator[Finding]:
    """The address of the hub, whether it accepts the token, and whether the cache can be written.
    Without a token nothing is asked."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")).expanduser()
    try:
        from huggingface_hub import constants

        known = address(constants.ENDPOINT, set_by_user="HF_ENDPOINT" in os.environ)
        yield known
        yield _login(ask=ask and known.status == "ok")
    except ImportError as e:  # the packages' finding says what to do
        yield Finding("hub.login", "skip", HUB, f"the token is not checked: {e}", "huggingface_hub")
    yield _cache(Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser())


def address(endpoint: str, *, set_by_user: bool) -> Finding:
    """Where models come from, without a password in it."""
    parts, shown = urlsplit(endpoint), shown_url(endpoint)
    source = "HF_ENDPOINT" if set_by_user else "huggingface_hub"
    if parts.scheme in ("http", "https") and parts.hostname:
        return Finding("hub.endpoint", "ok", "hub", f"models come from {shown}", source)
    words = f"`{shown}` is not the address of a hub: https:// is missing"
    fix = "export HF_ENDPOINT=https://NAME, or unset HF_ENDPOINT for https://huggingface.co"
    return Finding("hub.endpoint", "warn", "hub", words, source, fix)


def _login(*, ask: bool) -> Finding:
    """Raises ImportError where huggingface_hub is missing."""
    from sd3tune.report.progress import waiting
    from sd3tune.sd3 import hub, hub_refusals

    source, endpoint = hub_refusals.token_source(), hub_refusals.endpoint()
    if source is None:
        words = f"not logged in at {endpoint}: SD3 weights are gated"
        return Finding("hub.login", "warn", HUB, words, "HF_TOKEN", "hf auth login")
    if not ask:
        return Finding("hub.login", "skip", HUB, "a token is here, and was not checked", source)
    try:
        with waiting(f"asking {endpoint} about the token"):
            hub.check_token(hub.ANSWER_SECONDS)
    except ModelError as e:
        return Finding("hub.login", "warn", HUB, str(e), source, e.hint)
    return Finding("hub.login", "ok", HUB, f"logged in at {endpoint}", source)


def _cache(folder: Path) -> Finding:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    status: Status = "ok" if writable else "FAIL"
    words = f"{folder} " + ("can be written" if writable else "cannot be written")
    fix = "" if writable else "export HF_HOME=/a/folder/you/can/write"
    return Finding("hub.cache", status, "model cache", words, "access(2)", fix)


def wandb(environ: Mapping[str, str], installed: bool | None = None) -> Finding:
    """Whether runs with report_to=wandb go online from here. environ: where the library looks for
    its key. installed: the package; None: look."""
    if installed is None:
        installed = next(iter(metadata.distributions(name="wandb")), None) is not None
    if not installed:
        words = "not installed; only report_to=wandb needs it"
        return Finding("wandb.login", "skip", "wandb", words, "importlib.metadata")
    if (variable := wandb_login.offline_variable(environ)) is not None:
        words = "offline: report_to=wandb keeps runs in files here"
        return Finding("wandb.login", "skip", "wandb", words, variable)
    host, source = wandb_login.host(environ), wandb_login.key_source(environ)
    if source is not None:
        return Finding("wandb.login", "ok", "wandb", f"a key for {host} is here", source)
    words = f"no key for {host}: until `wandb login`, report_to=wandb keeps runs in files here"
    return Finding("wandb.login", "skip", "wandb", words, "WANDB_API_KEY, netrc")
