"""A hub of Hugging Face on the loopback, as huggingface_hub 2.4 speaks to it: accounts,
repositories, large files over Git LFS, commits. It keeps what it was sent, and fails where a test
says so.
"""

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.loopback import Handler, serving

LARGE = (".safetensors", ".png", ".jpg", ".webp")  # what the hub takes over LFS
WRITE, READ, FINE = "hf_token_that_may_write", "hf_token_that_may_read", "hf_token_of_one_scope"
SCOPE = {"entity": {"type": "user", "name": "me"}, "permissions": ["repo.content.read"]}
ROLES: dict[str, dict[str, Any]] = {
    WRITE: {"role": "write"},
    READ: {"role": "read"},
    FINE: {"role": "fineGrained", "fineGrained": {"scoped": [SCOPE]}},
}


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class LoopbackHub:
    """faults: parts of requests, `POST …/commit/`, and what each of the next ones meets instead of
    an answer: an HTTP status, or "cut"."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # over LFS, by SHA-256
    faults: dict[str, list[int | str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # `METHOD path`
    forbidden: set[str] = field(default_factory=set)  # repositories nobody may write into

    def answer(self, request: Handler) -> None:
        """Answers one request, or fails as the test says."""
        line = f"{request.command} {urlsplit(request.path).path}"
        self.asked.append(line)
        body = _body(request)
        for part, due in self.faults.items():
            if due and re.search(part, line):
                fault = due.pop(0)
                if fault == "cut":
                    request.connection.shutdown(socket.SHUT_RDWR)
                    return
                return _send(request, {"error": "no"}, int(fault))
        token = str(request.headers.get("Authorization", "")).removeprefix("Bearer ")
        if line.startswith("PUT /lfs/"):
            named = line.rpartition("/")[2]
            if hashlib.sha256(body).hexdigest() != named:
                return _send(request, {"error": "the bytes are not those of the name"}, 400)
            self.stored[named] = body
            return _send(request, {})
        if token not in ROLES:
            return _send(request, {"error": "Invalid credentials in Authorization header"}, 401)
        return self._known(request, line, body, token)

    def _known(self, request: Handler, line: str, body: bytes, token: str) -> None:
        sent = json.loads(body) if body[:1] == b"{" and b"\n{" not in body else {}
        if line == "GET /api/whoami-v2":
            orgs = [{"name": "friends"}]
            account = {"name": "me", "orgs": orgs, "auth": {"accessToken": ROLES[token]}}
            return _send(request, account)
        if line == "POST /api/validate-yaml":
            return _send(request, {"errors": [], "warnings": []})
        if line == "POST /api/repos/create":
            name = f"{sent['organization'] or 'me'}/{sent['name']}"
            self.repositories.setdefault(name, Repository(sent.get("visibility") == "private"))
            return _send(request, {"url": f"{self.address}/{name}"})
        match = re.match(r"\w+ /(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?$", line)
        name, action = (match[1], match[2] or "") if match else ("", "")
        if name not in self.repositories:
            return _send(request, {"error": "Repository not found"}, 404, "RepoNotFound")
        if name in self.forbidden and action != "":
            return _send(request, {"error": "forbidden"}, 403)
        return self._of_repository(request, name, action, sent, body)

    def _of_repository(
        self, request: Handler, name: str, action: str, sent: Any, body: bytes
    ) -> None:
        repository = self.repositories[name]
        if action in ("", "/revision/main"):
            oid = hashlib.sha1(repr(repository.commits).encode()).hexdigest()
            return _send(request, {"id": name, "private": repository.private, "sha": oid})
        if action == "/auth-check/write":
            return _send(request, {})
        if action == "/preupload/main":
            return _send(request, {"files": [_mode(repository, f) for f in sent["files"]]})
        if action == "/info/lfs/objects/batch":
            return _send(request, {"objects": [self._object(o) for o in sent["objects"]]})
        assert action == "/commit/main", action
        operations = [json.loads(line) for line in body.splitlines()]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                repository.files[value["path"]] = self.stored[value["oid"]]
            elif operation["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
        repository.commits.append(operations[0]["value"]["summary"])
        address = f"{self.address}/{name}/commit/1"
        return _send(request, {"commitUrl": address, "commitOid": "1" * 40, "success": True})

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """As LFS answers: where to put an object; nothing to do for one that is there."""
        if wanted["oid"] in self.stored:
            return wanted
        href = f"{self.address}/lfs/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": href, "header": {}}}}


def _mode(repository: Repository, file: dict[str, Any]) -> dict[str, Any]:
    """How a file is uploaded, and the hash of what is there under its name."""
    large = file["path"].endswith(LARGE)
    held = repository.files.get(file["path"])
    oid = None
    if held is not None:
        blob = b"blob %d\0" % len(held) + held
        oid = hashlib.sha256(held).hexdigest() if large else hashlib.sha1(blob).hexdigest()
    mode = "lfs" if large else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _body(request: Handler) -> bytes:
    length = request.headers.get("Content-Length")
    if length is not None:
        return request.rfile.read(int(length))
    whole = b""
    if "chunked" in str(request.headers.get("Transfer-Encoding")):
        while size := int(request.rfile.readline(), 16):
            whole += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
    return whole


def _send(request: Handler, content: Any, status: int = 200, code: str = "") -> None:
    data = json.dumps(content).encode()
    request.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **({"X-Error-Code": code} if code else {}),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)


@contextmanager
def loopback_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub that huggingface_hub in this process and in children of it speaks to, logged in."""
    hub = LoopbackHub()
    with serving(hub.answer) as server:
        hub.address = server.address
        for name, value in {"HF_ENDPOINT": hub.address, "HF_TOKEN": WRITE, "HF_HUB_OFFLINE": "0",
                            "NO_PROXY": "127.0.0.1"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub
