"""Answers of probes: run in children, kept on the disk, and never taken for another state's."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import probes_of
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.decide.probes import ProbeAnswer, essential, probes
from sd3tune.backends.observe import child, kept_answers, probing
from sd3tune.backends.observe.facts import Facts
from sd3tune.filesystem import drafts

GOOD = ProbeAnswer(True, "error 1e-06", 0.25)
KILLED = ProbeAnswer(False, "killed by SIGABRT", answered=False)
CARD = chips.facts(chips.chip("rtx4090"))


class Counting:
    """Answers every probe alike; what was asked, in order."""

    def __init__(self, answer: ProbeAnswer = GOOD) -> None:
        self.answer, self.asked = answer, list[str]()

    def __call__(self, facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        self.asked += names
        return dict.fromkeys(names, self.answer)


def noted(note: Callable[[], None]) -> Callable[[], AbstractContextManager[None]]:
    """`note` is called when probes begin to run."""

    @contextmanager
    def running() -> Iterator[None]:
        note()
        yield

    return running


def test_an_answer_is_kept_and_only_what_is_new_is_run(tmp_path: Path) -> None:
    device, told = Counting(), list[str]()
    run = probing.on_this_machine(
        folder=tmp_path / "kept",
        execute=device,
        while_running=noted(lambda: told.append("probing")),
    )
    assert run(CARD, ["matmul_fp32"]) == {"matmul_fp32": GOOD}
    assert run(CARD, ["matmul_fp32", "matmul_bf16"]) == {"matmul_fp32": GOOD, "matmul_bf16": GOOD}
    assert run(CARD, ["matmul_bf16"]) == {"matmul_bf16": GOOD}
    assert device.asked == ["matmul_fp32", "matmul_bf16"] and told == ["probing", "probing"]


@pytest.mark.parametrize(
    "change",
    [
        {"driver": "581.1"},
        {"torch": "2.14.0"},
        {"torch_build": "cu132"},
        {"devices": (replace(CARD.weakest, uuid="GPU-other"),)},
        {"devices": (replace(CARD.weakest, name="NVIDIA GeForce RTX 4080"),)},
        {"tools": {"c++": False}},
    ],
)
def test_another_device_driver_or_build_is_asked_anew(
    change: dict[str, object], tmp_path: Path
) -> None:
    device = Counting()
    run = probing.on_this_machine(folder=tmp_path, execute=device)
    for facts in (CARD, replace(CARD, **change), CARD):  # type: ignore[arg-type]
        run(facts, ["matmul_fp32"])
    assert len(device.asked) == 2, "the first state's answer is still there"


def test_the_state_is_the_same_in_every_process() -> None:
    before = kept_answers.state(CARD, {})
    more = subprocess.run(
        [sys.executable, "-c",
         "import json; from sd3tune.backends.decide import chips\n"
         "from sd3tune.backends.observe import kept_answers\n"
         "print(json.dumps(kept_answers.state(chips.facts(chips.chip('rtx4090')), {})))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(more.stdout) == json.loads(json.dumps(before))


def test_what_an_import_adds_to_the_path_and_the_folder_of_a_command_are_no_packages(
    tmp_path: Path,
) -> None:
    """setuptools puts its own copies of packages, with metadata, behind the installed ones."""
    (tmp_path / "checkout.egg-info").mkdir()
    (tmp_path / "state.py").write_text(
        "import sys; from sd3tune.backends.observe import kept_answers\n"
        "sys.path += sys.argv[1:]; print(kept_answers.packages())"
    )
    (tmp_path / "own" / "other-1.0.dist-info").mkdir(parents=True)
    digests = {
        subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True,
                       cwd=folder).stdout.strip()
        for folder, words in (
            (tmp_path, ["-m", "state"]),
            (tmp_path, ["-m", "state", str(tmp_path / "own")]),
            (tmp_path.parent, [str(tmp_path / "state.py")]),
        )
    }  # fmt: skip
    assert digests == {kept_answers.packages()}


def test_a_package_that_a_pth_file_links_to_is_installed(tmp_path: Path) -> None:
    (tmp_path / "linked" / "other-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "a.pth").write_text("# a comment\nimport sys\n\nlinked\n/not/there\n")
    folders = kept_answers.linked(str(tmp_path))
    assert folders == [str(tmp_path / "linked"), "/not/there"]


def test_a_package_that_is_installed_beside_the_others_changes_the_state(tmp_path: Path) -> None:
    folder = tmp_path / "new_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: new-package\nVersion: 1.0\n")
    code = (
        "from sd3tune.backends.decide import chips; from sd3tune.backends.observe import "
        "kept_answers; print(kept_answers.state(chips.facts(chips.chip('t4')), {})['packages'])"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env=os.environ | more).stdout
        for more in ({}, {"PYTHONPATH": str(tmp_path)})
    }  # fmt: skip
    assert len(found) == 2


def test_variables_that_change_what_is_computed_are_part_of_the_state_and_no_others() -> None:
    def state(**environ: str) -> object:
        return kept_answers.state(CARD, environ)

    assert state(CUDA_VISIBLE_DEVICES="1") != state() != state(HSA_OVERRIDE_GFX_VERSION="11.0.0")
    assert state(HF_TOKEN="hf_secret", USER="jane", TORCHELASTIC_RUN_ID="7") == state()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace("RTX 4090", "RTX 4080"),
        lambda text: text.replace('"ok": true', '"ok": 1'),
        lambda text: text.replace('"words": "error', '"wrods": "error'),
    ],
)
def test_a_torn_foreign_or_newer_file_is_not_there(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    device = Counting()
    run = probing.on_this_machine(folder=tmp_path, execute=device)
    run(CARD, ["matmul_fp32"])
    (path,) = tmp_path.glob("*.json")
    path.write_text(damage(path.read_text()))
    assert run(CARD, ["matmul_fp32"]) == {"matmul_fp32": GOOD}
    assert len(device.asked) == 2
    assert run(CARD, ["matmul_fp32"]) and len(device.asked) == 2, "it was written again"


def test_the_folder_is_private_and_one_that_others_can_write_to_is_not_believed(
    tmp_path: Path,
) -> None:
    folder, device = tmp_path / "sd3tune" / "probes", Counting()
    run = probing.on_this_machine(folder=folder, execute=device)
    run(CARD, ["matmul_fp32"])
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    run(CARD, ["matmul_fp32"])
    assert len(device.asked) == 2


def test_where_nothing_can_be_written_every_run_asks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    device = Counting()
    run = probing.on_this_machine(folder=tmp_path / "file" / "probes", execute=device)
    assert run(CARD, ["matmul_fp32"]) == run(CARD, ["matmul_fp32"]) == {"matmul_fp32": GOOD}
    assert len(device.asked) == 2


def test_what_gave_no_answer_is_tried_again_but_not_by_the_processes_of_one_run(
    tmp_path: Path,
) -> None:
    device = Counting(KILLED)
    alone = probing.on_this_machine(folder=tmp_path, execute=device)
    assert alone(CARD, ["matmul_fp32"]) == alone(CARD, ["matmul_fp32"]) == {"matmul_fp32": KILLED}
    assert len(device.asked) == 2
    first, second = (
        probing.on_this_machine(folder=tmp_path, execute=device, several=True) for _ in "ab"
    )
    assert first(CARD, ["matmul_fp32"]) == second(CARD, ["matmul_fp32"]) == {"matmul_fp32": KILLED}
    assert len(device.asked) == 3
    assert alone(CARD, ["matmul_fp32"]) and len(device.asked) == 4


def test_doctor_replaces_what_is_kept(tmp_path: Path) -> None:
    def on(answer: ProbeAnswer, **how: bool) -> Mapping[str, ProbeAnswer]:
        run = probing.on_this_machine(folder=tmp_path, execute=Counting(answer), **how)  # type: ignore[arg-type]
        return run(CARD, ["matmul_bf16"])

    bad = ProbeAnswer(False, "Wrong: off by 0.3", 0.1)
    on(GOOD)
    assert on(bad) == {"matmul_bf16": GOOD}
    assert on(bad, anew=True) == on(GOOD) == {"matmul_bf16": bad}
    assert on(KILLED, anew=True) == {"matmul_bf16": KILLED}
    assert on(GOOD) == {"matmul_bf16": GOOD}, "neither the answer of before nor the kill is kept"


def test_states_that_were_not_used_for_the_longest_time_are_removed(tmp_path: Path) -> None:
    """Several environments on one machine, one of which is updated all the time."""
    execute = Counting()
    run = probing.on_this_machine(folder=tmp_path, execute=execute)
    run(CARD, ["matmul_fp32"])
    (in_use,) = tmp_path.glob("*.json")
    os.utime(in_use, (1, 1))
    others = [tmp_path / f"{n:016x}.json" for n in range(kept_answers.STATES)]
    for seconds, other in enumerate(others, 2):
        other.write_text("{}")
        os.utime(other, (seconds, seconds))
    run(CARD, ["matmul_fp32"])  # its kept answer
    run(replace(CARD, driver="580.1"), ["matmul_fp32"])
    assert len(execute.asked) == 2
    assert len(list(tmp_path.glob("*.json"))) == kept_answers.STATES
    assert in_use.exists() and not others[0].exists() and others[-1].exists()


def test_processes_that_start_together_probe_once(tmp_path: Path) -> None:
    """Eight at a time, as torchrun starts them; a probe takes a while."""
    code = f"""
import sys, time
from pathlib import Path
from sd3tune.backends.decide import chips
from sd3tune.backends.decide.admission import probes_of
from sd3tune.backends.decide.probes import ProbeAnswer
from sd3tune.backends.observe import probing

def execute(facts, names):
    with Path({str(tmp_path / "runs")!r}).open("a") as f:
        f.write(" ".join(names) + "\\n")
    time.sleep(0.5)
    return {{name: ProbeAnswer(False, "no answer in 60 s", answered=False) for name in names}}

kept = Path({str(tmp_path / "kept")!r})
run = probing.on_this_machine(folder=kept, execute=execute, several=True)
print(run(chips.facts(chips.chip("h100")), ["matmul_fp32"])["matmul_fp32"].words)
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {p.communicate(timeout=60)[0].strip() for p in started} == {"no answer in 60 s"}
    assert (tmp_path / "runs").read_text() == "matmul_fp32\n"


def test_a_probe_that_kills_its_child_does_not_take_the_others_answers_along() -> None:
    asked: list[tuple[str, ...]] = []

    def ask(
        observer: str, words: Sequence[str], *, timeout_seconds: float, stop: threading.Event,
        now: Callable[[str], None],
    ) -> child.Answer:  # fmt: skip
        names = words[1:]  # after the device
        asked.append((observer, *names))
        if "linear_nf4-bnb" in names:
            return child.Answer(error="killed by SIGSEGV")
        return child.Answer(data={n: {"ok": True, "words": "right", "seconds": 0.1} for n in names})

    names = ["matmul_fp32", "linear_int8-quanto", "linear_nf4-bnb"]
    answers = probing.in_children(CARD, names, ask)
    assert answers["matmul_fp32"].ok and answers["linear_int8-quanto"].ok
    assert answers["linear_nf4-bnb"] == ProbeAnswer(False, "killed by SIGSEGV", answered=False)
    assert ("probes", "matmul_fp32") in asked and ("quant", "linear_int8-quanto") in asked


def test_children_take_turns_on_a_card_that_takes_one_process_at_a_time() -> None:
    running, most = threading.Semaphore(1), [0]

    def ask(
        observer: str, words: Sequence[str], *, timeout_seconds: float, stop: threading.Event,
        now: Callable[[str], None],
    ) -> child.Answer:  # fmt: skip
        alone = running.acquire(blocking=False)
        most[0] += not alone
        time.sleep(0.05)
        if alone:
            running.release()
        return child.Answer(data={n: {"ok": True, "words": "right"} for n in words[1:]})

    exclusive = replace(CARD, devices=(replace(CARD.weakest, exclusive=True),))
    for facts, together in ((CARD, 1), (exclusive, 0)):
        most[0] = 0
        probing.in_children(facts, ["matmul_fp32", "linear_nf4-bnb"], ask)
        assert most[0] == together


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "CUDA_DEVICE_ORDER"])
def test_what_a_run_sets_later_does_not_make_the_probes_run_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    counting = Counting()
    run = probing.on_this_machine(folder=tmp_path / "kept", execute=counting)
    run(CARD, ["matmul_fp32"])
    monkeypatch.setenv(name, "x")
    run(CARD, ["matmul_fp32"])
    assert counting.asked == ["matmul_fp32"]
    probing.on_this_machine(folder=tmp_path / "kept", execute=counting)(CARD, ["matmul_fp32"])
    assert counting.asked == 2 * ["matmul_fp32"]  # another program, with that variable from birth


@pytest.mark.parametrize(
    ("name", "kept"),
    [("matmul_fp32", False), ("import_peft", False), ("import_torch-optimi", False),
     ("linear_int8-quanto", True)],
)  # fmt: skip
def test_a_failure_that_refuses_a_run_is_looked_at_again(
    name: str, kept: bool, tmp_path: Path
) -> None:
    failed = Counting(ProbeAnswer(False, "ImportError: libfoo.so", 0.1))
    probing.on_this_machine(folder=tmp_path / "kept", execute=failed)(CARD, [name])
    mended = Counting()
    answers = probing.on_this_machine(folder=tmp_path / "kept", execute=mended)(CARD, [name])
    assert (answers[name].ok, mended.asked) == ((False, []) if kept else (True, [name]))


def test_a_launcher_is_not_another_machine() -> None:
    alone = kept_answers.state(CARD, {})
    launched = {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                "TORCHELASTIC_RUN_ID": "none"}  # fmt: skip
    assert kept_answers.state(CARD, launched) == alone


def test_an_interrupt_stops_the_children_at_once() -> None:
    stopped: list[bool] = []

    def ask(
        observer: str, words: Sequence[str], *, timeout_seconds: float, stop: threading.Event,
        now: Callable[[str], None],
    ) -> child.Answer:  # fmt: skip
        if not stop.is_set():
            time.sleep(0.5)  # until every thread has started
            os.kill(os.getpid(), signal.SIGINT)  # to the main thread
        stopped.append(stop.wait(20.0))
        return child.Answer(error=child.STOPPED)

    with pytest.raises(KeyboardInterrupt):
        probing.in_children(CARD, ["matmul_fp32", "matmul_bf16"], ask)
    assert stopped and all(stopped)


def test_nobody_waits_for_ever_for_the_probes_of_another_process(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with drafts.drafted(tmp_path / ".lock") as held:
        assert held is not None
        started = time.monotonic()
        with kept_answers.turn(tmp_path, most_seconds=0.3):  # and comes here, without the lock
            assert time.monotonic() - started >= 0.3


def test_a_folder_that_others_can_write_to_is_not_locked(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with kept_answers.turn(tmp_path):
        assert not list(tmp_path.iterdir())


def test_every_probe_has_a_row_and_every_row_decides_or_informs() -> None:
    named = {name for axis in AXES.values() for option in axis for name in probes_of(option)}
    assert named <= set(probes())
    idle = {p.name for p in probes().values() if p.name not in named and p.name not in essential()}
    assert {n for n in idle if not n.startswith("import_")} == {
        "matmul_int8", "matmul_fp8", "bandwidth", "rates",
    }  # fmt: skip


def test_a_command_is_not_silent_while_it_probes(tmp_path: Path) -> None:
    started = time.monotonic()
    told: list[float] = []

    def execute(facts: Facts, names: Sequence[str]) -> Mapping[str, ProbeAnswer]:
        assert told, "the line comes first"
        return dict.fromkeys(names, GOOD)

    before = lambda: told.append(time.monotonic() - started)  # noqa: E731
    run = probing.on_this_machine(folder=tmp_path, execute=execute, while_running=noted(before))
    run(CARD, ["matmul_fp32"])
    run(CARD, ["matmul_fp32"])
    assert len(told) == 1
