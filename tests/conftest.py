"""Tests are filed by what they need: pure (no torch), cpu (torch on the CPU), device (a GPU),
docker (a container engine), browser (chromium)."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes is the machine's affair.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# Two threads on a busy two-core machine are five times slower per step than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# readline, which pytest imports, sets a width past os.environ, and pytest-xdist hands its own width
# to its workers: commands would break their errors at it. Only what was set can be unset.
os.environ["COLUMNS"] = ""
del os.environ["COLUMNS"]
# A busy machine takes longer than the two seconds after which a command says that it is at work.
os.environ["SD3TUNE_LOG_SECONDS"] = "3600"
# A shell starts its background jobs deaf to Ctrl-C, and what they start inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Answers of probes are kept here: for the session, and not among the user's.
CACHE = tempfile.mkdtemp(prefix="sd3tune-tests-")
os.environ["XDG_CACHE_HOME"] = CACHE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden and what documents take from the code",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """tests/pure imports no torch; a few of its tests start a command that looks for one."""
    if find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("needs_torch"):
                item.add_marker(pytest.mark.skip(reason="needs an installed PyTorch"))


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may look into, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="sd3tune-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
