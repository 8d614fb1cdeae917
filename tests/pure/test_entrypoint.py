"""docker/entrypoint.sh and docker/health.sh without an engine: what they start, with programs of
ours in the place of sd3tune, jupyter and sleep. Nothing here may reach this host's own SSH: keys
are given only to a user who is not root.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sd3tune.cli import cli
from tests.nobody import NOBODY

DOCKER = Path(__file__).parents[2] / "docker"
SECRET = "aVerySecretPassw0rd"
RUNPOD, VAST = {"RUNPOD_POD_ID": "pod77"}, {"VAST_CONTAINERLABEL": "C.1"}
STUB = """#!{python}
import json, os, signal, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps([" ".join([name, *words]), dict(os.environ)]) + "\\n")
if "wait" in words:
    def stop(number, frame):
        time.sleep(0.3)  # saving
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print("training", flush=True)
    time.sleep(30)
sys.exit(int(os.environ.get("CODE_" + (words or ["none"])[0], "0")))
"""


class Place:
    """Programs in the place of the image's, which note how they are started; of the host's only
    what the entrypoint asks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.bin, self.home, self.tmp = folder / "bin", folder / "home", folder / "tmp"
        self.proc = folder / "proc"
        for path in (self.bin, self.home, self.tmp, self.proc):
            path.mkdir()
        for name in ("sd3tune", "jupyter", "sleep", "tool"):
            (self.bin / name).write_text(STUB.format(python=sys.executable, log=str(self.log)))
            (self.bin / name).chmod(0o755)
        for name in ("bash", "id", "mktemp", "sed"):
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        given = {"PATH": str(self.bin), "HOME": str(self.home), "TMPDIR": str(self.tmp), **environ}
        # Jupyter's log is the only file it writes, and it stops the runs that it finds in /proc:
        # neither this host's file nor this host's runs.
        text = (DOCKER / "entrypoint.sh").read_text()
        for name, ours in (("/tmp/jupyter", self.tmp / "jupyter"), ("/proc/", f"{self.proc}/")):
            assert name in text
            text = text.replace(name, str(ours))
        command = ["bash", "-c", text, "entrypoint", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=given, text=True, stdout=pipe, stderr=pipe,
                                cwd=self.folder)  # fmt: skip

    def run(self, *words: str, **environ: str) -> tuple[int, str]:
        """Exit code and stderr; nothing goes to stdout but what programs say."""
        process = self.start(*words, **environ)
        out, err = process.communicate(timeout=30)
        assert out == ""
        return process.returncode, err

    def environments(self) -> list[tuple[str, dict[str, str]]]:
        """Each program with its words, as they were started, and its environment."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(words, environ) for words, environ in map(json.loads, lines)]

    def started(self) -> list[str]:
        return [words for words, _ in self.environments()]

    def written(self) -> list[Path]:
        return [p for d in (self.home, self.tmp) for p in d.rglob("*")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def closed_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


LOOK, QUICK = "sd3tune doctor", "sd3tune doctor --quick"
STOP = "sd3tune image stop-pod --after"
TABLE: dict[str, tuple[list[str], dict[str, str], list[str], int]] = {
    # name: (words, environment, what is started, exit code)
    "nothing asked": ([], {}, [LOOK], 0),
    "nothing asked, no card": ([], {"CODE_doctor": "1"}, [LOOK], 1),
    "an empty word": ([""], {}, [LOOK], 0),
    "RunPod": ([], RUNPOD, [LOOK, "sleep infinity"], 143),
    "RunPod, no card": ([], {**RUNPOD, "CODE_doctor": "1"}, [LOOK, "sleep infinity"], 143),
    "Vast.ai": ([], VAST, [LOOK, "sleep infinity"], 143),
    "Vast.ai, an empty word": ([""], VAST, [LOOK, "sleep infinity"], 143),
    "train": (["train", "a b.json"], {}, [QUICK, "sd3tune train a b.json"], 0),
    "train, by name": (["sd3tune", "train", "c"], {}, [QUICK, "sd3tune train c"], 0),
    "train, no card": (["train"], {"CODE_doctor": "1", "CODE_train": "1"},
        [QUICK, "sd3tune train"], 1),
    "train, only shown": (["train", "c", "--dry-run"], {}, ["sd3tune train c --dry-run"], 0),
    "train, only help": (["train", "--help"], {"SD3TUNE_STOP_POD": "always"},
        ["sd3tune train --help"], 0),
    "export, a word of bash": (["export", "x"], {}, ["sd3tune export x"], 0),
    "an option": (["--version"], {}, ["sd3tune --version"], 0),
    "its name alone": (["sd3tune"], {}, ["sd3tune"], 0),
    "another program": (["tool", "a", "b c", ""], {"CODE_a": "7"}, ["tool a b c "], 7),
    "a program by its path": (["./bin/tool", "x"], {}, ["tool x"], 0),
    "no program": (["traim"], {"CODE_traim": "2"}, ["sd3tune traim"], 2),
    "trained, stop": (["train"], {"SD3TUNE_STOP_POD": "success"},
        [QUICK, "sd3tune train", f"{STOP} 0"], 0),
    "failed, stop": (["train", "c"], {"SD3TUNE_STOP_POD": "always", "CODE_train": "75"},
        [QUICK, "sd3tune train c", f"{STOP} 75"], 75),
    "failed, and so did stop": (["train"], {"SD3TUNE_STOP_POD": "always", "CODE_train": "1",
        "CODE_image": "1"}, [QUICK, "sd3tune train", f"{STOP} 1"], 1),
    "trained, never": (["train"], {"SD3TUNE_STOP_POD": "never"}, [QUICK, "sd3tune train"], 0),
    "another command, stop": (["doctor"], {"SD3TUNE_STOP_POD": "always"}, [LOOK], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_the_entrypoint_starts_what_was_asked_for(case: str, place: Place) -> None:
    words, environ, started, code = TABLE[case]
    found, err = place.run(*words, **environ)
    assert place.started() == started and found == code and place.written() == []
    assert ("no command was given" in err) == (started == [LOOK] and words in ([], [""]))
    assert ("sd3tune: waiting" in err) == (started[-1] == "sleep infinity")


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_of_sd3tune_is_one_of_the_container(name: str, place: Place) -> None:
    """Also those that bash has a word for."""
    place.run(name, "x")
    assert place.started()[-1] == f"sd3tune {name} x"


@pytest.mark.parametrize("mode", ["success", "always"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_saves_and_stops_no_machine(
    number: signal.Signals, mode: str, place: Place
) -> None:
    process = place.start("train", "wait", SD3TUNE_STOP_POD=mode)
    assert process.stdout and process.stdout.readline() == "training\n"
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # again, while it saves
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert place.started() == [QUICK, "sd3tune train wait"]


def test_without_stopping_machines_the_run_takes_the_place_of_the_shell(place: Place) -> None:
    """No shell stands between the platform's signal and the trainer."""
    process = place.start("train", "wait")
    assert process.stdout and process.stdout.readline() == "training\n"
    assert "entrypoint" not in Path(f"/proc/{process.pid}/cmdline").read_text()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


PYTHON, SCRIPT = "/opt/venv/bin/python", "/opt/sd3tune/bin/sd3tune"
PROCESSES = {  # command line, whose child it is, whether it is told to stop
    "by its name": ([PYTHON, SCRIPT, "train", "a b.json"], None, True),
    "one of its processes": (
        [PYTHON, "/opt/sd3tune/sd3tune/start.py", "sd3tune", "train", "a b.json"], "by its name",
        False),
    "the same by torchrun": ([PYTHON, SCRIPT, "train", "a b.json"], "by its name", False),
    "by its module": ([PYTHON, "-m", "sd3tune", "train"], None, True),
    "through the entrypoint": (
        ["bash", "/usr/local/bin/sd3tune-entrypoint", "train"], "another program", True),
    "another command": ([PYTHON, SCRIPT, "doctor"], None, False),
    "another program": (["tmux", "new-session", "-d", "sd3tune train a.json"], None, False),
    "its results": (["tail", "-f", "/workspace/sd3tune/train"], None, False),
    "the kernel's": ([], None, False),
}  # fmt: skip


def test_runs_that_a_shell_started_are_told_once_and_waited_for(place: Place) -> None:
    """Processes of ours, which /proc calls so."""
    (place.bin / "sleep").unlink()
    (place.bin / "sleep").symlink_to(str(shutil.which("sleep")))
    tool, pipe = str(place.bin / "tool"), subprocess.PIPE
    started = {name: subprocess.Popen([tool, "wait"], stdout=pipe) for name in PROCESSES}
    for name, (words, parent, _) in PROCESSES.items():
        folder = place.proc / str(started[name].pid)
        folder.mkdir()
        (folder / "cmdline").write_text("".join(f"{word}\0" for word in words))
        (folder / "status").write_text(f"PPid:\t{started[parent].pid if parent else 1}\n")
        assert (started[name].stdout or sys.stdin.buffer).readline() == b"training\n"
    process = place.start(**RUNPOD)
    assert process.stderr and "waiting" in process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        for one in started.values():
            one.poll()  # takes its exit code, as an init would: else it is still there
        time.sleep(0.05)
    stopped = {name for name, one in started.items() if one.poll() is not None}
    for one in started.values():
        one.kill()
        one.communicate()
    told = {name for name, (*_, told) in PROCESSES.items() if told}
    assert stopped == told and process.returncode == 143
    assert {started[name].returncode for name in told} == {143}
    assert process.communicate()[1].count("stopping run") == len(told)


def test_a_user_without_a_home_gets_one_and_a_name(place: Place) -> None:
    place.run("tool", HOME="/proc/none")
    ((_, found),) = place.environments()
    assert (found["HOME"], found["USER"], found["LOGNAME"]) == ("/tmp", "sd3tune", "sd3tune")
    place.log.unlink()
    place.run("tool", USER="me")
    ((_, found),) = place.environments()
    assert (found["HOME"], found["USER"]) == (str(place.home), "me")


# Services


def until(true: Callable[[], bool]) -> None:
    for _ in range(100):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("not within five seconds")


def test_the_password_is_jupyters_alone(place: Place) -> None:
    port = closed_port()
    _, err = place.run("tool", JUPYTER_PASSWORD=SECRET, JUPYTER_PORT=port, HF_TOKEN="hf_x")
    lab = "jupyter lab --no-browser"
    until(lambda: lab in place.started())  # it starts in the background
    found = dict(place.environments())
    assert found[lab]["JUPYTER_PASSWORD"] == SECRET
    assert found[lab]["JUPYTER_CONFIG_DIR"] == "/opt/jupyter"
    assert "JUPYTER_PASSWORD" not in found["tool"] and found["tool"]["HF_TOKEN"] == "hf_x"
    assert f"JupyterLab on port {port}" in err and SECRET not in err
    files = [p for p in place.written() if p.is_file()]
    assert [p.name for p in files] == ["jupyter.log"]
    assert SECRET not in files[0].read_text() and SECRET not in " ".join(found)


@pytest.mark.parametrize("password", ["hunter2", "elevenchars"])
def test_a_short_password_starts_no_jupyter_and_keeps_nothing_up(
    password: str, place: Place
) -> None:
    code, err = place.run(JUPYTER_PASSWORD=password, JUPYTER_PORT=closed_port())
    assert (code, place.started()) == (0, [LOOK])
    assert "JUPYTER_PASSWORD is shorter than 12 characters: JupyterLab not started" in err
    assert password not in err


KEYS = {"RUNPOD_API_KEY": "rpa_key", "CONTAINER_API_KEY": "vast_key"}


def test_the_platforms_keys_are_those_of_stop_pod_alone(place: Place) -> None:
    """They rent and delete machines. The rest of the environment goes along."""
    words = {"HF_TOKEN": "hf_x", "JUPYTER_PASSWORD": SECRET, "JUPYTER_PORT": closed_port()}
    place.run("train", SD3TUNE_STOP_POD="always", **KEYS, **words)
    until(lambda: len(place.started()) == 4)
    found = dict(place.environments())
    stop = found.pop(f"{STOP} 0")
    assert {name: stop[name] for name in KEYS} == KEYS
    assert set(found) == {QUICK, "sd3tune train", "jupyter lab --no-browser"}
    for environ in found.values():
        assert not KEYS.keys() & environ.keys() and environ["HF_TOKEN"] == "hf_x"


def test_no_program_imports_from_its_working_directory(place: Place) -> None:
    place.run("train", JUPYTER_PASSWORD=SECRET, JUPYTER_PORT=closed_port())
    until(lambda: len(place.started()) == 3)
    assert all(environ["PYTHONSAFEPATH"] == "1" for _, environ in place.environments())


def test_a_shell_over_ssh_has_the_containers_variables_but_not_its_secret_ones(
    tmp_path: Path,
) -> None:
    first = {"HF_TOKEN": "hf_x", "SD3TUNE_IMAGE": "cuda", "HOME": "/elsewhere", "A": "b\nc d",
             "JUPYTER_PASSWORD": SECRET, "JUPYTER_TOKEN": "t", "VAST_API_KEY": "v"}  # fmt: skip
    first |= KEYS
    (tmp_path / "environ").write_text("".join(f"{k}={v}\0" for k, v in first.items()))
    text = (DOCKER / "environment.sh").read_text()
    assert text.count("/proc/1/environ") == 2
    text = text.replace("/proc/1/environ", str(tmp_path / "environ"))
    done = subprocess.run(
        ["bash", "-c", f"{text}\nenv -0"], capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": "/mine", "SSH_CONNECTION": "1"},
    )  # fmt: skip
    found = dict(pair.partition("=")[::2] for pair in done.stdout.split("\0"))
    assert (found["HF_TOKEN"], found["A"], found["HOME"]) == ("hf_x", "b\nc d", "/mine")
    secret = {*KEYS, "JUPYTER_PASSWORD", "JUPYTER_TOKEN", "VAST_API_KEY"}
    assert not secret & found.keys() and SECRET not in done.stdout and done.stderr == ""


def test_a_container_with_a_service_stays(place: Place) -> None:
    _, err = place.run(JUPYTER_PASSWORD=SECRET, JUPYTER_PORT=closed_port(), CODE_doctor="1")
    assert "sleep infinity" in place.started() and "sd3tune: waiting" in err


def test_a_port_that_is_taken_brings_no_second_jupyter(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        _, err = place.run("tool", JUPYTER_PASSWORD=SECRET, JUPYTER_PORT=port)
    time.sleep(0.3)
    assert place.started() == ["tool"]
    assert f"something listens on port {port}: JupyterLab not started" in err


@pytest.mark.parametrize("name", ["PUBLIC_KEY", "SSH_PUBLIC_KEY"])
def test_ssh_needs_root_and_without_it_the_command_runs(name: str, public: Path) -> None:
    """As nobody: as root it would be this host's own sshd. tests/docker has it in a container."""
    (public / "id").symlink_to(str(shutil.which("id")))
    (public / "tool").write_text("#!/bin/sh\necho ran\n")
    (public / "tool").chmod(0o755)
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if os.getuid() == 0 else {}
    done = subprocess.run(
        ["bash", "-c", (DOCKER / "entrypoint.sh").read_text(), "entrypoint", "tool"],
        env={"PATH": f"{public}:/usr/bin:/bin", "HOME": "/tmp", name: "ssh-ed25519 AAAA me"},
        capture_output=True, text=True, cwd=public, **user,
    )  # type: ignore[call-overload]  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr == "sd3tune: SSH was asked for and needs root: not started\n"


# Health


@pytest.mark.parametrize(
    "age, limit, code",
    [(None, None, 0), (1, None, 0), (880, None, 0), (920, None, 1), (5, "3", 1), (5, "60", 0)],
)
def test_a_run_that_has_stopped_moving_is_unhealthy(
    age: int | None, limit: str | None, code: int, tmp_path: Path
) -> None:
    beat = tmp_path / "a beat"
    environ = {"PATH": os.environ["PATH"], "SD3TUNE_HEARTBEAT": str(beat)}
    if limit:
        environ["SD3TUNE_HEARTBEAT_SECONDS"] = limit
    if age is not None:
        beat.touch()
        os.utime(beat, (time.time() - age,) * 2)
    command = ["sh", str(DOCKER / "health.sh")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == code and done.stderr == ""
    assert done.stdout.startswith("no run" if age is None else "a run moved ")
