"""Real child processes that hang, die, print and lie."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sd3tune.backends.observe import child, machine


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Runs a function body as an observer, in a module of its own."""

    def run(body: str, seconds: float = 20.0) -> child.Answer:
        (tmp_path / "strange_driver.py").write_text(
            f"import os, sys, time\ndef observe():\n {body}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        code = (
            "import sys; from sd3tune.backends.observe import child;"
            "child.OBSERVERS['strange'] = 'strange_driver:observe'; child.main()"
        )
        command = [sys.executable, "-c", code]
        return child.ask("strange", timeout_seconds=seconds, command=command)

    return run


def test_an_answer_survives_a_library_that_prints(probe) -> None:  # type: ignore[no-untyped-def]
    body = "print('Unable to find libamd_smi.so'); os.write(1, b'noise'); return {'a': 1}"
    assert probe(body) == child.Answer(data={"a": 1})


def test_a_crash_is_named(probe) -> None:  # type: ignore[no-untyped-def]
    assert probe("os.abort()").error == "killed by SIGABRT"


def test_an_exception_is_its_last_line(probe) -> None:  # type: ignore[no-untyped-def]
    assert probe("raise KeyError('libamd_smi.so')").error == "KeyError: 'libamd_smi.so'"


def test_a_hang_ends_at_the_limit_and_takes_its_children_along(probe) -> None:  # type: ignore[no-untyped-def]
    mark = f"600.{os.getpid()}"  # seconds, and the name of the child's own child
    assert probe(f"os.system('sleep {mark}')", 1.0).error == "no answer in 1 s"
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or ())]


def test_another_thread_stops_a_child() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    command = ["sh", "-c", "sleep 600"]
    answer = child.ask("torch", timeout_seconds=600.0, command=command, stop=stop)
    assert answer.error == child.STOPPED
    assert child.ask("torch", timeout_seconds=1.0, stop=stop).error == child.STOPPED


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    observer = f"import os, time\ndef observe():\n os.system('echo $$ > {pid}; exec sleep 600')\n"
    (tmp_path / "strange_driver.py").write_text(observer)
    started = (
        "import sys; from sd3tune.backends.observe import child;"
        "child.OBSERVERS['strange'] = 'strange_driver:observe'; child.main()"
    )
    asking = (
        "import sys; from sd3tune.backends.observe import child;"
        f"child.ask('strange', timeout_seconds=600, command=[sys.executable, '-c', {started!r}])"
    )
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", asking], env=environ) as parent:
        until(lambda: pid.exists() and pid.read_text().strip() != "")
        parent.kill()
    until(lambda: not alive(int(pid.read_text())))


def until(true: Callable[[], bool]) -> None:
    """Waits for it, a minute at most."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie that nobody waits for does not."""
    status = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return status.stdout.strip() not in ("", "Z", "Zs")


def test_an_exit_without_an_answer_is_an_error(probe) -> None:  # type: ignore[no-untyped-def]
    assert probe("os._exit(3)").error == "exit code 3 and no answer"


def test_this_machine_is_surveyed_without_torch_in_a_second() -> None:
    started = time.process_time()
    found = machine.survey()
    assert found.host.python and found.host.cpu_count
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "name, extra, index",
    [
        ("h100", "cuda", None),
        ("v100-new-wheel", "cuda", "cu126"),
        ("driver-too-old", "cuda", "cu126"),
        ("mi300x-spx", "rocm", "rocm7.2"),
        ("m3-max", "apple", None),
        ("cpu-only", "cpu", "cpu"),
    ],
)
def test_the_pytorch_build_follows_the_card(name, extra, index, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from sd3tune.backends.decide.torch_builds import torch_build
    from tests.recordings import machine_of

    build = torch_build(machine_of(name, tmp_path, monkeypatch))
    assert build.extra == extra
    assert (build.index_url or "none").endswith(index or "none")
    assert (extra == "cpu") == build.requirement.endswith("+cpu")
