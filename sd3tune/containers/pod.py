"""Stops the rented machine this container runs on, so that a finished run costs nothing more.

RunPod and Vast.ai give a container its own number and a key for itself. Untested on the platforms:
written from their documentation; the requests are tested against a server of our own.
"""

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.errors import ContainerError

SECONDS = 30.0
FIRST = Path("/proc/1/environ")  # of the container: shells over SSH do not inherit the key
MODES = ("never", "success", "always")


@dataclass(frozen=True)
class Platform:
    """A request that stops one machine.

    RunPod: API v2, `POST /pods/{id}/action` (api.runpod.io/v2/openapi.json; v1 ends on 2026-12-01).
    Vast.ai: docs.vast.ai/api-reference/instances/manage-instance.
    """

    name: str
    number: str
    key: str
    method: str
    url: str
    body: Mapping[str, str]


def platform(environ: Mapping[str, str]) -> Platform:
    """Where this container runs. Raises ContainerError on other platforms."""
    if number := _number(environ, "RUNPOD_POD_ID"):
        base = environ.get("RUNPOD_REST_URL", "https://api.runpod.io/v2")
        url = f"{base}/pods/{number}/action"
        key = _key(environ, "RUNPOD_API_KEY")
        return Platform("RunPod", number, key, "POST", url, {"action": "stop"})
    # "C.123456" is the label of instance 123456.
    if number := _number(environ, "VAST_CONTAINERLABEL").removeprefix("C."):
        base = environ.get("VAST_URL", "https://console.vast.ai")
        url = f"{base}/api/v0/instances/{number}/"
        key = _key(environ, "CONTAINER_API_KEY")
        return Platform("Vast.ai", number, key, "PUT", url, {"state": "stopped"})
    raise ContainerError(
        "SD3TUNE_STOP_POD: this is neither a RunPod nor a Vast.ai container",
        hint="elsewhere stop the machine yourself, for example `sd3tune train …; sudo poweroff`",
    )


def _number(environ: Mapping[str, str], name: str) -> str:
    return urllib.parse.quote(environ.get(name, ""), safe="")


def _key(environ: Mapping[str, str], name: str) -> str:
    key = (environ.get(name) or _of_first_process(name)).strip()
    if not key:
        words = f"{name} is not set, so this machine cannot be stopped from inside"
        raise ContainerError(words, hint=f"add {name} to the template's secrets")
    if not (key.isascii() and key.isprintable()):  # http.client's own error would show it
        words = f"{name} is not a key: it has characters that a request cannot carry"
        raise ContainerError(words, hint=f"copy {name} again into the template's secrets")
    return key


def _of_first_process(name: str) -> str:
    try:
        pairs = FIRST.read_bytes().decode(errors="replace").split("\0")
    except OSError:  # not root
        return ""
    return dict(p.partition("=")[::2] for p in pairs).get(name, "")


class _Here(urllib.request.HTTPRedirectHandler):
    """A redirection is a refusal: the key is for one address, and a GET stops nothing."""

    def redirect_request(self, *_: Any) -> None:
        return None


def wanted(mode: str, code: int) -> bool:
    """Whether a run that ended with this exit code stops the machine."""
    if mode not in MODES:
        words = f"SD3TUNE_STOP_POD={mode}"
        raise ContainerError(words, hint=f"use one of {', '.join(MODES)}")
    return mode == "always" or (mode == "success" and code == 0)


def stop(code: int, environ: Mapping[str, str] = os.environ) -> str:
    """What was done, in one line. Raises ContainerError when the platform refuses."""
    mode = environ.get("SD3TUNE_STOP_POD", "never")
    if not wanted(mode, code):
        return f"exit code {code} and SD3TUNE_STOP_POD={mode}: the machine stays"
    p = platform(environ)
    headers = {"Authorization": f"Bearer {p.key}", "Content-Type": "application/json"}
    data = json.dumps(p.body).encode()
    try:
        request = urllib.request.Request(p.url, data, headers, method=p.method)
        with urllib.request.build_opener(_Here).open(request, timeout=SECONDS):
            return f"asked {p.name} to stop {p.number}"
    except urllib.error.HTTPError as e:
        words = f"{p.name} did not stop {p.number}: {e.code} {e.reason}"
        raise ContainerError(words, hint="stop it by hand: it costs money until then") from None
    except (OSError, ValueError, http.client.HTTPException) as e:  # no network, address, answer
        words = f"{p.name} could not be asked to stop {p.number}: {e}"
        raise ContainerError(words, hint="stop it by hand: it costs money until then") from None
