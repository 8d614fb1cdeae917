"""Why a hub does not give a model or accept a token: one cause each, with its address, in time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.files.local_names import names_a_path
from sd3tune.sd3 import hub
from tests.loopback import self_signed, sends, serving

CONFIG = json.dumps({"num_layers": 3}).encode()
INVALID = "Invalid credentials in Authorization header"
# Each line: repository (none: the question is who I am), token, revision. The hub is that of the
# environment, which huggingface_hub reads once.
CHILD = """
import json, os, sys
from sd3tune.doctor import logins
from sd3tune.errors import ModelError
from sd3tune.sd3 import hub
for repository, token, revision in json.loads(sys.argv[1]):
    os.environ.update(HF_TOKEN=token)
    try:
        if repository == "doctor":
            found = next(f for f in logins.hub() if f.id == "hub.login")
            said = f"{found.status} {found.fact} ({found.source}) {found.fix}"
        elif repository:
            said = str(hub.config("setting", repository, "transformer", revision))
        else:
            said = str(hub.check_token())
    except ModelError as e:
        said = f"{e} | {e.hint}"
    print(json.dumps(said))
"""
Asked = tuple[str, str, str | None]


def asked(questions: list[Asked], home: Path, **environ: str) -> list[str]:
    """What a process of its own says to each question."""
    own = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HTTP"))}
    own |= {"HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", CHILD, json.dumps(questions)]
    done = subprocess.run(command, capture_output=True, text=True, env=own | environ, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def answer(request: BaseHTTPRequestHandler) -> None:
    """As huggingface.co answers, by the name of the repository."""
    token, path = request.headers.get("authorization", ""), request.path
    status, error, message = 200, "", ""
    if "wrong" in token:
        status, message = 401, INVALID
    elif "/api/whoami" in path:
        status = 200
    elif "gated" in path:
        status, error = (403 if token else 401), "GatedRepo"
    elif "missing" in path:
        status, error = (404 if token else 401), "RepoNotFound"
    elif "empty" in path:
        status, error = 404, "EntryNotFound"
    elif "/v9/" in path:
        status, error = 404, "RevisionNotFound"
    elif "closed" in path:
        status = 403
    elif "busy" in path:
        status = 429
    elif "down" in path:
        status = 503
    body = b'{"name": "ann"}' if "whoami" in path else CONFIG
    body = body if status == 200 else b""
    request.send_response(status)
    for name, value in (("X-Error-Code", error), ("X-Error-Message", message),
                        ("X-Repo-Commit", "a" * 40), ("ETag", '"1"')):  # fmt: skip
        if value and not (status == 429 and name.startswith("X")):
            request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


CAUSES: dict[Asked, tuple[str, ...]] = {
    ("a/model", "", None): ("{'num_layers': 3}",),
    ("a/model", "", "v2"): ("{'num_layers': 3}",),
    ("a/gated", "", None): ("is gated, and you are not logged in at", "licence", "hf auth login"),
    ("a/gated", "hf_x", None): ("is gated, and the token of HF_TOKEN has no access", "licence"),
    ("a/gated", "wrong", None): ("refuses the token of HF_TOKEN", "settings/tokens"),
    ("a/missing", "", None): ("no such repository at", "you are not logged in", "spelling"),
    ("a/missing", "hf_x", None): ("no such repository at", "the token of HF_TOKEN has no access"),
    ("a/model", "", "v9"): ("has no revision `v9` at", "set revision"),
    ("a/empty", "", None): ("does not hold the files of a diffusers model", "transformer/config"),
    ("a/closed", "hf_x", None): ("forbids access with the token of HF_TOKEN (HTTP 403)",),
    ("a/busy", "", None): ("too many requests (HTTP 429)", "wait"),
    ("a/down", "", None): ("does not work now (HTTP 503)", "HF_ENDPOINT"),
    ("b/model", "wrong", None): ("refuses the token of HF_TOKEN: it is invalid or has expired",),
    ("", "hf_s\u00e9cret", None): ("token of HF_TOKEN holds characters",),
    ("doctor", "", None): ("warn not logged in at", "SD3 weights are gated", "hf auth login"),
    ("doctor", "hf_x", None): ("ok logged in at", "(HF_TOKEN)"),
    ("doctor", "wrong", None): ("warn", "refuses the token of HF_TOKEN", "settings/tokens"),
    ("", "hf_x", None): ("None",),
    ("", "wrong", None): ("refuses the token of HF_TOKEN",),
}


def test_each_answer_of_a_hub_is_a_cause_of_its_own(tmp_path: Path) -> None:
    with serving(answer) as served:
        said = dict(zip(CAUSES, asked([*CAUSES], tmp_path, HF_ENDPOINT=served.address),
                        strict=True))  # fmt: skip
    for question, parts in CAUSES.items():
        assert all(part in said[question] for part in parts), (question, said[question])
        whole = "{" in said[question] or said[question] == "None"
        assert whole or served.address in said[question], said[question]
    assert not any("secret" in text or "s\u00e9cret" in text for text in said.values())
    refusals = [text for (repository, *_), text in said.items() if repository and "|" in text]
    assert len(set(refusals)) == len(refusals)  # no two causes in the same words
    assert any("/resolve/v2/transformer/config.json" in line for line in served.asked)


@contextmanager
def nobody() -> Iterator[str]:
    """A server that was there and has gone."""
    with serving(answer) as served:
        address = served.address
    yield address


@contextmanager
def plain() -> Iterator[str]:
    """No TLS where the address says https, as behind the login page of a hotel."""
    with serving(answer) as served:
        yield served.address.replace("http:", "https:")


@contextmanager
def page() -> Iterator[str]:
    """A web server that is not a hub."""

    def missing(request: BaseHTTPRequestHandler) -> None:
        request.send_error(404)

    with serving(missing) as served:
        yield served.address


@contextmanager
def untrusted(folder: Path) -> Iterator[str]:
    """A server with a certificate that nobody signed, as a proxy that opens TLS shows it."""
    with serving(sends(b""), self_signed(folder)) as served:
        yield served.address


UNREACHABLE: dict[str, tuple[Callable[[Path], Any], dict[str, str], tuple[str, ...]]] = {
    "offline": (lambda _: nobody(), {"HF_HUB_OFFLINE": "1"}, ("HF_HUB_OFFLINE forbids",)),
    "down": (lambda _: nobody(), {}, ("cannot be reached", "refused", "check the network")),
    "a proxy": (lambda _: nobody(), {"NO_PROXY": "", "HTTP_PROXY": "http://a:b@127.0.0.1:9"},
                ("through the proxy http://127.0.0.1:9", "HTTP_PROXY and NO_PROXY")),
    "no TLS": (lambda _: plain(), {}, ("makes no TLS connection", "whether a proxy answers")),
    "another certificate": (untrusted, {}, ("certificate that is not trusted", "SSL_CERT_FILE")),
    "no hub": (lambda _: page(), {}, ("does not answer as a hub does", "check HF_ENDPOINT")),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_a_hub_that_cannot_be_asked_is_named_with_the_cause(kind: str, tmp_path: Path) -> None:
    server, environ, parts = UNREACHABLE[kind]
    with server(tmp_path) as address:
        said = asked([("a/b", "", None), ("", "hf_x", None)], tmp_path, HF_ENDPOINT=address,
                     **environ)  # fmt: skip
    for text in said:
        assert all(part in text for part in parts), text
    assert "`setting=a/b`" in said[0] and "the token of HF_TOKEN is not checked" in said[1]
    assert kind == "offline" or all(address in text for text in said)


def test_a_question_ends_when_its_time_is_over() -> None:
    from threading import Event

    never = Event()
    with pytest.raises(TimeoutError):
        hub.in_time(lambda: never.wait(60), 0.01)
    never.set()
    assert hub.in_time(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        hub.in_time(lambda: 1 / 0)
    assert hub.DEADLINE_SECONDS < 15


@pytest.mark.parametrize(
    "text", ["./a/b", "../b", "/a/b", "~/a", "~ann/a", "a\\b", "C:\\models\\b", "a/b/c", "a/b/",
             "/", "model", "a//b", "here/b", ""],
)  # fmt: skip
def test_a_name_that_looks_like_a_path_is_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "stabilityai").mkdir()
    assert names_a_path(text, tmp_path)
    assert not names_a_path("someone/model", tmp_path)
    assert not names_a_path("stabilityai/stable-diffusion-3.5-large", tmp_path)


FETCH = """
from sd3tune.errors import ModelError
from sd3tune.sd3 import hub
try:
    print(sorted(p.name for p in hub.fetched("madebyollin/taesd3").iterdir()))
except ModelError as e:
    print(e)
"""


def test_a_small_model_comes_from_the_hub_then_from_the_cache_or_is_explained(
    tmp_path: Path,
) -> None:
    def fetch(folder: str, address: str) -> str:
        own = {**os.environ, "HF_HOME": str(tmp_path / folder), "HF_ENDPOINT": address}
        own |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
        command = [sys.executable, "-c", FETCH]
        done = subprocess.run(command, capture_output=True, text=True, env=own, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    files = "['config.json', 'diffusion_pytorch_model.safetensors']"
    with serving(answer) as served:
        assert fetch("mine", served.address) == files
        asked_for = [line.split()[1] for line in served.asked]
        assert "/madebyollin/taesd3/resolve/main/config.json" in asked_for
    assert fetch("mine", served.address) == files  # nobody listens there any more
    refused = fetch("other", served.address)
    assert refused.startswith("`madebyollin/taesd3`") and "cannot be reached" in refused
