"""`sd3tune image` as it is typed, with an engine of a page (tests/fakes/engine.py)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sd3tune.containers.run_options import FORWARDED
from tests.commands import exit_code
from tests.fakes.engine import Engine, listening
from tests.special_files import socket_at

Said = tuple[int, str, str]
Say = Callable[..., Said]
Start = Callable[[Engine], Engine]


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works in a folder with config/ and photos/, and nothing in them."""
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("photos").mkdir()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this host's engine, proxies or tokens."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "HF_HOME", *FORWARDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def say(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Say:
    """The command line: exit code, stdout, stderr."""

    def run(*words: str) -> Said:
        code = exit_code(["image", *words], monkeypatch)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture
def start(elsewhere: None, public: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """This engine listens, and is the one that is asked."""
    with ExitStack() as running:

        def go(one: Engine) -> Engine:
            where = running.enter_context(listening(one, public / f"{id(one)}.sock"))
            monkeypatch.setenv("DOCKER_HOST", where)
            return one

        yield go


@pytest.fixture
def silent(public: Path) -> str:
    """A socket whose engine has gone."""
    path = public / "engine.sock"
    socket_at(path)
    return f"unix://{path}"
