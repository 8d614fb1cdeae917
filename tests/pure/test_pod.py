"""`sd3tune image stop-pod` against a server on this host's loopback: what is asked, what is said
when it is refused, and that the key stands in no word of it.
"""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sd3tune.containers import pod
from sd3tune.errors import ContainerError
from tests.schemas import checker

ROOT = Path(__file__).parents[2]
KEY = "rpa_" + "verySecretKey"
RUNPOD = {"RUNPOD_POD_ID": "pod77", "RUNPOD_API_KEY": KEY}
VAST = {"VAST_CONTAINERLABEL": "C.99", "CONTAINER_API_KEY": KEY}
PLATFORMS = {"RunPod": (RUNPOD, "RUNPOD_REST_URL", "/v2"), "Vast.ai": (VAST, "VAST_URL", "")}


@pytest.fixture(autouse=True)
def directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@dataclass
class Platform:
    url: str
    status: int = 200
    location: str | None = None
    asked: list[tuple[str, str, str | None, str]] = field(default_factory=list)


@pytest.fixture
def platform() -> Iterator[Platform]:
    """Answers every request with its status, and remembers it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            found.asked.append((self.command, self.path, self.headers["Authorization"], body))
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Platform(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def environ(name: str, url: str, mode: str = "always") -> dict[str, str]:
    given, variable, path = PLATFORMS[name]
    return {**given, variable: url + path, "SD3TUNE_STOP_POD": mode}


def test_a_shell_without_the_key_reads_that_of_the_containers_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "environ"
    first.write_bytes(b"A=1\0RUNPOD_API_KEY=rpa=first\0B=\xff\0")
    monkeypatch.setattr(pod, "FIRST", first)
    assert pod.platform({"RUNPOD_POD_ID": "p"}).key == "rpa=first"
    assert pod.platform({"RUNPOD_POD_ID": "p", "RUNPOD_API_KEY": ""}).key == "rpa=first"
    assert pod.platform(RUNPOD).key == KEY
    with pytest.raises(ContainerError, match="CONTAINER_API_KEY is not set"):
        pod.platform({"VAST_CONTAINERLABEL": "C.1"})


REQUESTS = {
    "RunPod": ("POST", "/v2/pods/pod77/action", {"action": "stop"}),
    "Vast.ai": ("PUT", "/api/v0/instances/99/", {"state": "stopped"}),
}


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_platform_is_asked_once_with_its_own_words(name: str, platform: Platform) -> None:
    said = pod.stop(0, environ(name, platform.url))
    number = {"RunPod": "pod77", "Vast.ai": "99"}[name]
    assert said == f"asked {name} to stop {number}"
    ((method, path, key, body),) = platform.asked
    assert (method, path, json.loads(body)) == REQUESTS[name] and key == f"Bearer {KEY}"


def test_runpods_body_is_what_its_interface_takes() -> None:
    body = dict(pod.platform(RUNPOD).body)
    checker("runpod-v2", "PodActionRequest").validate(body)
    assert not checker("runpod-v2", "PodActionRequest").is_valid({"action": "halt"})
    assert pod.platform(RUNPOD).url == "https://api.runpod.io/v2/pods/pod77/action"
    assert pod.platform(VAST).url == "https://console.vast.ai/api/v0/instances/99/"


@pytest.mark.parametrize(
    "mode, code, stops",
    [
        ("never", 0, False),
        ("never", 1, False),
        ("success", 0, True),
        ("success", 1, False),
        ("success", 143, False),
        ("always", 0, True),
        ("always", 1, True),
    ],
)
def test_the_exit_code_and_the_mode_decide(
    mode: str, code: int, stops: bool, platform: Platform
) -> None:
    said = pod.stop(code, environ("RunPod", platform.url, mode))
    assert len(platform.asked) == stops and pod.wanted(mode, code) == stops
    words = f"exit code {code} and SD3TUNE_STOP_POD={mode}: the machine stays"
    assert stops or said == words


def test_nobody_is_asked_unless_it_was_wished(platform: Platform) -> None:
    given = environ("RunPod", platform.url)
    del given["SD3TUNE_STOP_POD"]
    assert "the machine stays" in pod.stop(0, given) and platform.asked == []
    with pytest.raises(ContainerError, match="SD3TUNE_STOP_POD=Always") as e:
        pod.stop(0, {**given, "SD3TUNE_STOP_POD": "Always"})
    assert e.value.hint == "use one of never, success, always" and platform.asked == []


def refused(given: dict[str, str], *words: str) -> None:
    """One error with these words, a hint, and nowhere the key."""
    with pytest.raises(ContainerError) as e:
        pod.stop(0, given)
    for word in words:
        assert word in str(e.value)
    assert e.value.hint and KEY not in str(e.value) + e.value.hint and e.value.__cause__ is None


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_refusal_costs_money_and_says_so(name: str, status: int, platform: Platform) -> None:
    platform.status = status
    refused(environ(name, platform.url), f"{name} did not stop ", f": {status} ")
    assert len(platform.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_key_does_not_follow_a_redirection(status: int, platform: Platform) -> None:
    """urllib would send it to the other address, as a GET, and call that a success."""
    platform.status, platform.location = status, f"{platform.url}/elsewhere"
    refused(environ("RunPod", platform.url), f"RunPod did not stop pod77: {status}")
    assert [path for _, path, _, _ in platform.asked] == ["/v2/pods/pod77/action"]


def test_nobody_there_or_no_address_is_an_error_too() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{one.getsockname()[1]}"
    for url in (closed, "nonsense", "http://", "http://127.0.0.1:port", "http://nowhere.invalid"):
        refused(environ("Vast.ai", url), "Vast.ai could not be asked to stop 99: ")


def test_an_answer_that_is_no_answer_is_an_error_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        refused(environ("RunPod", url), "RunPod could not be asked to stop pod77: ")
        thread.join()


@pytest.mark.parametrize(
    "name, variable", [("RunPod", "RUNPOD_API_KEY"), ("Vast.ai", "CONTAINER_API_KEY")]
)
def test_a_key_that_is_missing_or_none_is_named(
    name: str, variable: str, platform: Platform
) -> None:
    given = environ(name, platform.url)
    for value in ("", " \n"):
        refused({**given, variable: value}, f"{variable} is not set")
    for value in (f"{KEY}\nX: y", f"{KEY}\x7f", f"{KEY}…"):
        refused({**given, variable: value}, f"{variable} is not a key")
    del given[variable]
    refused(given, f"{variable} is not set")
    assert platform.asked == []
    pod.stop(0, {**given, variable: f"{KEY}\n"})  # as files end
    assert platform.asked[0][2] == f"Bearer {KEY}"


def test_a_number_is_one_part_of_the_address(platform: Platform) -> None:
    given = environ("RunPod", platform.url) | {"RUNPOD_POD_ID": "../x y?z"}
    pod.stop(0, given)
    assert platform.asked[0][1] == "/v2/pods/..%2Fx%20y%3Fz/action"


def test_elsewhere_the_machine_is_left_to_its_owner() -> None:
    refused({"SD3TUNE_STOP_POD": "always"}, "neither a RunPod nor a Vast.ai container")
    for label in ("", "C."):
        refused(environ("Vast.ai", "") | {"VAST_CONTAINERLABEL": label}, "neither")


@pytest.mark.parametrize("status, code", [(200, 0), (401, 1)])
def test_the_command_prints_no_key(status: int, code: int, platform: Platform) -> None:
    platform.status = status
    command = [sys.executable, "-m", "sd3tune", "image", "stop-pod", "--after", "7"]
    given = os.environ | environ("RunPod", platform.url) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == code and len(platform.asked) == 1
    assert KEY not in done.stdout + done.stderr and KEY not in " ".join(command)
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ([] if code == 0 else ["error", "hint"])
    assert done.stdout == ("asked RunPod to stop pod77\n" if code == 0 else "")
