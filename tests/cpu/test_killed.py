"""Killed at any moment, or shared by two processes, a cache ends as an undisturbed one does."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sd3tune.plan.prepare import Prepared
from sd3tune.train import store
from tests.cpu.conftest import Project

IMAGES, KILLS = 96, 20


def forked(work: Callable[[], object]) -> int:
    """A child process that does it; torch is loaded already, so a kill hits the work itself."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


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


def test_twenty_kills_leave_the_cache_of_an_undisturbed_run(project: Project) -> None:
    images(project)
    undisturbed = into(project, "undisturbed")
    started = time.monotonic()
    assert os.waitpid(forked(lambda: store.build(undisturbed)), 0)[1] == 0
    whole = time.monotonic() - started
    disturbed = into(project, "disturbed")
    dice, folder = random.Random(1), project.root / "disturbed"
    seen: set[str] = set()
    killed = 0
    for _ in range(KILLS):
        child = forked(lambda: store.build(disturbed))
        time.sleep(dice.uniform(0, whole / 4))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        now = {p.name for p in folder.rglob("*.safetensors")}
        assert seen <= now  # what was whole stays
        seen = now
    assert killed >= KILLS // 2
    assert os.waitpid(forked(lambda: store.build(disturbed)), 0)[1] == 0
    want, got = contents(project.root / "undisturbed"), contents(folder)
    assert sorted(got) == sorted(want) and len(want) > 40
    assert got == want


def test_two_processes_fill_one_cache_and_share_the_work(project: Project) -> None:
    images(project)
    store.build(into(project, "alone"))
    shared = into(project, "shared")
    children = [forked(lambda: store.build(shared)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert contents(project.root / "shared") == contents(project.root / "alone")
