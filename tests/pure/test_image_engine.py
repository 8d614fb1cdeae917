"""Engines that are not there, refuse, or run a container: real sockets, docker's own SDK, and the
recorded words of real engines. No engine is needed.
"""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import docker.errors
import pytest

from sd3tune.containers import engine
from sd3tune.errors import ContainerError
from tests.fakes.engine import TAG, Engine, listening
from tests.nobody import as_nobody
from tests.pure.conftest import Said, Say, Start

ROOT = Path(__file__).parents[2]
START = "sudo systemctl start docker"


def two_lines(said: Said) -> tuple[str, str]:
    code, out, err = said
    error, hint = err.splitlines()
    assert code == 1 and out == ""
    assert error.startswith("error: ") and hint.startswith("hint: ")
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


# Nobody there

RUN = ("run", "--vendor", "cuda", "doctor")


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_no_engine_says_how_to_get_one(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    error, hint = two_lines(say(*RUN))
    assert error == f"no container engine: there is no unix://{tmp_path}/none.sock"
    assert "apt-get install docker.io" in hint and START in hint


def test_an_engine_that_has_gone_is_started_again(
    silent: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in (silent, f"tcp://127.0.0.1:{closed_port()}"):
        monkeypatch.setenv("DOCKER_HOST", where)
        error, hint = two_lines(say(*RUN))
        assert error == f"no container engine listens on {where}" and START in hint


def test_a_socket_without_permission_names_the_group(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = public / "engine.sock"
    with listening(Engine(), path) as where:
        path.chmod(0o600 if os.getuid() == 0 else 0)
        monkeypatch.setenv("DOCKER_HOST", where)

        def connect() -> list[str]:
            try:
                engine.connect()
            except ContainerError as e:
                return [str(e), e.hint]
            return []

        words, hint = as_nobody(connect)
        path.chmod(0o666)
        assert as_nobody(connect) == []
    assert words == f"no permission on the container engine's socket {where}"
    assert hint.startswith("sudo usermod -aG docker $USER")


@pytest.mark.parametrize(
    "where",
    [
        "foo", " ", "tcp://", "tcp://nowhere.invalid:1", "tcp://127.0.0.1:99999", "tcp://a:b",
        "tcp://[::1", "unix:///dev/null", "ssh://nobody@127.0.0.1", "npipe:////./pipe/x", "fd://",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "build"])
def test_an_address_that_is_none_is_said_to_be(
    where: str, command: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", where)
    words = RUN if command == "run" else ("build", "--vendor", "cuda")
    code, out, err = say(*words)
    *before, error, hint = err.splitlines()
    shown = where.strip().replace("nobody@", "")  # addresses are shown without user names
    assert before == ([] if command == "run" else ["image for cuda (asked for)"])
    assert error.startswith("error: ") and "container engine" in error and shown in error
    assert hint.startswith("hint: ") and "DOCKER_HOST" in hint
    assert code == 1 and out == ""


def test_something_else_that_listens_is_no_engine(
    public: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(Engine(refuses={"/version": (200, "hello")}), public / "s") as where:
        monkeypatch.setenv("DOCKER_HOST", where)
        error, _ = two_lines(say(*RUN))
    assert f"the container engine at {where} cannot be reached" in error


def test_the_context_of_the_docker_command_is_taken(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.address() == engine.DEFAULT
    identity = hashlib.sha256(b"remote").hexdigest()
    meta = tmp_path / ".docker" / "contexts" / "meta" / identity / "meta.json"
    meta.parent.mkdir(parents=True)
    there = {"Host": "tcp://127.0.0.1:1", "SkipTLSVerify": False}
    document = {"Name": "remote", "Metadata": {}, "Endpoints": {"docker": there}}
    meta.write_text(json.dumps(document))
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "remote"}')
    assert engine.address() == "tcp://127.0.0.1:1"
    (tmp_path / ".docker" / "config.json").write_text("{")
    assert engine.address() == engine.DEFAULT
    monkeypatch.setenv("DOCKER_HOST", "tcp://x:1")
    assert engine.address() == "tcp://x:1"


# Refusals

NO_TOOLKIT = "the engine cannot pass NVIDIA cards: it has no NVIDIA Container Toolkit"
HOOK = ("OCI runtime create failed: runc create failed: unable to start container process: error "
        "running hook #0: exit status 1, stderr: nvidia-container-cli: ")  # fmt: skip
SELECT = 'could not select device driver "{}" with capabilities: [[gpu]]'
RECORDED = {  # what engines said -> the error, a part of the hint
    SELECT.format(""): (NO_TOOLKIT, "nvidia-ctk runtime configure"),
    SELECT.format("nvidia"): (NO_TOOLKIT, "nvidia-ctk runtime configure"),
    'could not select device driver "cdi" with capabilities: []': (
        "the engine's Container Device Interface is off", '{"features": {"cdi": true}}'),
    "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=1": (
        "the engine does not know such an NVIDIA device", "nvidia-ctk cdi generate"),
    "Unknown runtime specified nvidia": ("the engine has no NVIDIA runtime", "nvidia-ctk runtime"),
    HOOK + "initialization error: nvml error: driver not loaded: unknown": (
        "NVIDIA's toolkit found no working driver", "nvidia-smi"),
    HOOK + "requirement error: unsatisfied condition: cuda>=13.0, please update your driver to a "
    "newer version, or use an earlier cuda container: unknown": (
        "the host's NVIDIA driver is too old for the image", "580"),
    HOOK + "device error: 7: unknown device: unknown": (
        "this host has no NVIDIA device `7`", "nvidia-smi -L"),
    'error gathering device information while adding custom device "/dev/kfd": no such file or '
    "directory": ("this host has no /dev/kfd: the amdgpu driver is not loaded", "modprobe amdgpu"),
    'error gathering device information while adding custom device "/dev/dri": no such file or '
    "directory": ("this host has no /dev/dri: the amdgpu driver is not loaded", "modprobe amdgpu"),
    "Unable to find group render: no matching entries in group file": (
        "the image has no group `render`", "stat -c %g /dev/kfd"),
    "unable to find user abc: no matching entries in passwd file": (
        "the image has no user `abc`", '--user "$(id -u):$(id -g)"'),
    "network nowhere not found": ("the engine has no network `nowhere`", "docker network ls"),
    "write /var/lib/docker/x: no space left on device": ("the engine's disk is full", "prune"),
    "Bind for 0.0.0.0:8888 failed: port is already allocated": (
        "the port is taken on this host", "--publish"),
    "listen tcp4 0.0.0.0:8888: bind: address already in use": (
        "the port is taken on this host", "--publish"),
    "No such image: sd3tune:cuda": (f"there is no image `{TAG}` here", "sd3tune image build"),
    "invalid reference format: repository name must be lowercase": (
        f"`{TAG}` is not a valid name of an image", "lower case"),
    "dial tcp: lookup registry.example.com: no such host": (
        "the container engine refused: dial tcp: lookup", "sd3tune image check"),
}  # fmt: skip


@pytest.mark.parametrize("text", RECORDED)
def test_what_an_engine_refuses_is_explained(text: str) -> None:
    words, hint = RECORDED[text]
    for kind in (docker.errors.APIError, docker.errors.NotFound):
        found = engine.explained(kind("500 Server Error", explanation=text), TAG)
        assert str(found).startswith(words) and hint in found.hint
    found = engine.explained(docker.errors.ImageNotFound("404 Client Error"), TAG)
    assert str(found) == f"there is no image `{TAG}` here"


def test_every_meaning_was_said_by_an_engine() -> None:
    for said, _, _ in engine.MEANINGS:
        assert [text for text in RECORDED if re.search(said, text, re.IGNORECASE)], said


@pytest.mark.parametrize("place", ["/create", "/start"])
def test_a_refused_container_is_two_lines_and_leaves_nothing(
    place: str, start: Start, say: Say
) -> None:
    text = SELECT.format("")
    one = start(Engine(refuses={place: (500, text)}))
    code, out, err = say(*RUN)
    lines = err.splitlines()
    assert lines[-2:] == [f"error: {NO_TOOLKIT}", f"hint: {engine.TOOLKIT}"] and len(lines) == 3
    assert (code, out) == (1, "")
    assert ("DELETE /containers/1" in one.asked) == (place == "/start")


@pytest.mark.parametrize("image", ["Foo:cuda", "a b", "no/such:image"])
def test_a_name_that_is_no_image_is_two_lines(image: str, start: Start, say: Say) -> None:
    refuses = {} if "/" in image else {"/create": (400, "invalid reference format")}
    start(Engine(refuses=refuses))
    code, _, err = say("run", "--vendor", "rocm", "--cpu", "--image", image, "doctor")
    *_, error, hint = err.splitlines()
    assert code == 1 and error.startswith("error: ") and f"`{image}`" in error
    assert hint.startswith("hint: ")


# A container that runs


def test_output_and_exit_code_are_the_containers(start: Start, say: Say, tmp_path: Path) -> None:
    one = start(Engine(out="40 %\ré".encode(), err="übel\n".encode(), ends=3))
    words = ("train", "a b.json", "--dry-run", "--gpus")
    given = ("--publish", "8888:80", "--env", "A=b c", "--shm-size", "1g", "--gpus", "1")
    code, out, err = say("run", "--vendor", "cuda", *given, *words)
    assert (code, out) == (3, "40 %\ré") and err.splitlines()[1:] == ["übel"]
    (body,) = one.created
    assert body["Cmd"] == list(words) and body["Image"] == TAG
    assert sorted(body["Env"]) == ["A=b c", "HF_HOME=/huggingface"]
    host = body["HostConfig"]
    assert host["ShmSize"] == 2**30 and host["DeviceRequests"][0]["DeviceIDs"] == ["1"]
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8888"}]}
    assert [(m["Source"], m["Target"]) for m in host["Mounts"]] == [
        (str(tmp_path), "/workspace"),
        (f"{tmp_path}/.cache/huggingface/hub", "/huggingface/hub"),
        (f"{tmp_path}/.cache/huggingface/xet", "/huggingface/xet"),
    ]
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["CapDrop"] == ["ALL"]
    assert host["Tmpfs"] == {"/huggingface": "mode=1777"}
    assert one.asked[-1] == "DELETE /containers/1"


def test_the_token_of_a_login_goes_in_by_name_and_its_files_stay_outside(
    start: Start, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub of me"
    hub.mkdir()
    (hub / "token").write_text("hf_of_the_login\n")
    (hub / "stored_tokens").write_text("[me]\nhf_token = hf_of_the_login\n")
    monkeypatch.setenv("HF_HOME", str(hub))
    one = start(Engine())
    words = ("run", "--vendor", "cuda", "--cpu")
    say(*words, "doctor")
    say(*words, "--env", "HF_TOKEN=", "doctor")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    say(*words, "doctor")
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")
    given = [[e for e in body["Env"] if e.startswith("HF_TOKEN")] for body in one.created]
    assert given == [["HF_TOKEN=hf_of_the_login"], ["HF_TOKEN="], []]
    for body in one.created:
        sources = [Path(m["Source"]) for m in body["HostConfig"]["Mounts"]]
        assert not [p for p in (hub / "token", hub / "stored_tokens") for s in sources
                    if p.is_relative_to(s) and s != tmp_path]  # fmt: skip
    code, out, _ = say(*words, "--print", "doctor")
    assert code == 0 and out.startswith(f"HF_TOKEN=\"$(cat '{hub}/token')\" docker run --rm ")
    assert "-e HF_TOKEN " in out and "hf_of" not in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_goes_to_the_container_and_its_exit_code_comes_back(
    number: signal.Signals, start: Start
) -> None:
    one = start(Engine(out=b"step 1\n", ends=None))
    command = [sys.executable, "-m", "sd3tune", "image", "run", "--vendor", "cuda", "train"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environ, text=True, stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stdout.readline() == "step 1\n"
        process.send_signal(number)
        err = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number and "Traceback" not in err
    assert one.asked[-3:] == [f"POST /containers/1/{x}" for x in ("kill", "wait")] + [
        "DELETE /containers/1"
    ]


def test_a_signal_before_the_container_has_started_is_not_lost(start: Start) -> None:
    one = start(Engine(ends=None))
    one.held.set()
    command = [sys.executable, "-m", "sd3tune", "image", "run", "--vendor", "cuda", "train"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 30
        while "POST /containers/1/start" not in one.asked and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # for a wrong program to ask for the impossible
        one.held.clear()
        process.communicate(timeout=30)
    assert process.returncode == 143 and one.asked.count("POST /containers/1/kill") == 1


def test_an_option_that_is_none_starts_nothing(start: Start, say: Say) -> None:
    one = start(Engine())
    error, _ = two_lines(say("run", "--gpu", "0", "train"))
    assert "No such option" in error and one.asked == []
