"""Waiting for children that are slow or hang: what is waited for is named, findings come before,
and nothing is left of a command that was killed."""

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from sd3tune import doctor
from sd3tune.backends.decide.probes import ProbeAnswer
from sd3tune.backends.observe import child, kept_answers, probing
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.facts import Facts
from sd3tune.cli.doctor import FindingsAsTheyCome
from sd3tune.doctor.finding import Finding
from tests import recordings

OBSERVER = """
import time
from sd3tune.backends.observe import now_running
def observe(*names):
    for name in names:
        now_running.tell(name)
        time.sleep(0.5 if name != "import_hanging" else 600)
    return {name: {"ok": True, "words": "x"} for name in names}
"""
COMMAND = [sys.executable, "-c",
           "from sd3tune.backends.observe import child;"
           "child.OBSERVERS['strange'] = 'strange_observer:observe'; child.main()"]  # fmt: skip


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_observer.py").write_text(OBSERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_what_is_awaited_is_named_with_its_seconds_and_forgotten_when_it_has_answered() -> None:
    awaited = Awaited()
    text = awaited.words("looking at the devices")
    assert text() == "looking at the devices"
    with awaited.answer("import torch"), awaited.answer("the drivers of the devices") as now:
        assert text() == "waiting for import torch (0 s), the drivers of the devices (0 s)"
        now("nvidia-smi")
        assert text() == "waiting for import torch (0 s), nvidia-smi (0 s)"
    assert text() == "looking at the devices"


def test_a_child_that_hangs_is_named_by_the_probe_it_hangs_in(strange: None) -> None:
    names: list[str] = []
    answer = child.ask("strange", ["import_quick", "import_hanging"], timeout_seconds=2.5,
                       command=COMMAND, now=names.append)  # fmt: skip
    assert answer.hung and answer.error == "no answer in 2.5 s, busy with import_hanging"
    assert list(dict.fromkeys(names)) == ["import_quick", "import_hanging"]


def test_the_probes_of_a_child_are_awaited_by_name() -> None:
    awaited = Awaited()
    text = awaited.words("probing")
    seen: list[str] = []

    def ask(observer: str, words: Sequence[str], **more: object) -> child.Answer:
        seen.append(text())
        now = more["now"]
        assert callable(now)
        now("import_peft")
        seen.append(text())
        return child.Answer({n: {"ok": True, "words": "1"} for n in words[1:]})

    facts = doctor.consult("rtx4090").facts
    probing.in_children(facts, ["import_diffusers", "import_peft"], ask, awaited)
    assert seen == [
        "waiting for the import of diffusers and 1 more packages (0 s)",
        "waiting for the import of peft (0 s)",
    ]


def test_findings_are_told_before_the_probes_run_and_each_is_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = recordings.observed(recordings.load("rtx4090"), tmp_path, monkeypatch)
    shown = FindingsAsTheyCome()

    def run(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        told.append(capsys.readouterr().out)
        return {name: ProbeAnswer(True, "1.0", 0.1) for name in names}

    told: list[str] = []
    made = doctor.diagnose(*seen, run, tell=shown.tell)
    assert "RTX 4090" in told[0] and "python: " in told[0]
    left = shown.new(made.findings)
    assert left and all(f.id.startswith(("probe", "software.imports")) for f in left)
    assert not shown.new(made.findings)


def test_a_package_that_is_not_installed_is_one_finding_and_not_two() -> None:
    shown = FindingsAsTheyCome()
    missing = Finding("software.peft", "FAIL", "peft", "not installed", "importlib.metadata", "x")
    failed = Finding("software.peft", "FAIL", "peft", "cannot be imported", "import", "x")
    assert shown.new([missing]) == [missing] and shown.new([missing, failed]) == []


def test_a_killed_command_leaves_no_folder_of_its_children(strange: None, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    script = (
        "import sys; from sd3tune.backends.observe import child;"
        f"child.ask('strange', ['import_hanging'], timeout_seconds=60, command={COMMAND!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", script],
                              env=os.environ | {"TMPDIR": str(folder)})  # fmt: skip
    try:
        wait_until(lambda: any(folder.glob("*/running")))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not any(folder.iterdir()))


def wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.02)


@pytest.mark.parametrize("home", ["", "relative"])
def test_an_empty_home_is_not_the_root_of_the_file_system(home: str) -> None:
    own = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    folder = kept_answers.folder({"HOME": home})
    assert folder in (None, own / ".cache" / "sd3tune" / "probes")
    assert kept_answers.folder({"HOME": "/"}) is None, "what belongs to nobody keeps nothing"
    assert kept_answers.folder({"HOME": "/home/jane"}) == Path("/home/jane/.cache/sd3tune/probes")
