"""Killed at any moment, or shared by two processes, a cache ends as an undisturbed one does."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sd3tune.encode import upkeep
from sd3tune.prepare import Prepared
from tests.cpu.conftest import Project
from tests.cpu.forks import forked

IMAGES, KILLS = 96, 20


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


def into(project: Project, name: str) -> Prepared:
    project.dataset["cache_dir_vae"] = f"{name}/vae"
    project.others[0]["cache_dir"] = f"{name}/text"
    return project.prepare()


def images(project: Project) -> None:
    for i in range(IMAGES):
        project.picture(f"{i}.png", i, (96, 64) if i % 3 else (64, 96))
    bad = project.picture("7.png", 7)
    bad.write_bytes(bad.read_bytes()[:300])  # broken behind its header: remembered as such


def killed_after(cpu_seconds: float, work: Callable[[], object]) -> Callable[[], object]:
    """The kernel ends the process when it has worked for so long, however busy the machine is:
    nothing handles SIGPROF, so that it is a SIGKILL by another name."""

    def run() -> None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        work()

    return run


@pytest.mark.slow
def test_twenty_kills_leave_the_cache_of_an_undisturbed_run(project: Project) -> None:
    images(project)
    undisturbed = into(project, "undisturbed")
    _, status, used = os.wait4(forked(lambda: upkeep.build(undisturbed)), 0)
    assert status == 0
    want = contents(project.root / "undisturbed")
    assert len(want) > 40
    disturbed, folder = into(project, "disturbed"), project.root / "disturbed"
    dice, seen, kills = random.Random(1), set[str](), 0
    while kills < KILLS:
        seconds = dice.uniform(0, (used.ru_utime + used.ru_stime) / 4)
        child = forked(killed_after(seconds, lambda: upkeep.build(disturbed)))
        if os.WIFSIGNALED(status := os.waitpid(child, 0)[1]):
            assert os.WTERMSIG(status) == signal.SIGPROF
            kills += 1
            now = {p.name for p in folder.rglob("*.safetensors")}
            assert seen <= now  # what was whole stays
            seen = now
        else:  # it was done before
            assert status == 0 and contents(folder) == want
            shutil.rmtree(folder)
            seen = set()
    assert os.waitpid(forked(lambda: upkeep.build(disturbed)), 0)[1] == 0
    assert contents(folder) == want


@pytest.mark.slow
def test_two_processes_fill_one_cache_and_share_the_work(project: Project) -> None:
    images(project)
    upkeep.build(into(project, "alone"))
    shared = into(project, "shared")
    children = [forked(lambda: upkeep.build(shared)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert contents(project.root / "shared") == contents(project.root / "alone")
