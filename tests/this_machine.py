"""Plans for the machine that runs the tests: asked once, and passed to everything that plans."""

import os
from functools import cache
from pathlib import Path

from sd3tune.backends.observe import probing
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.devices import observe
from sd3tune.prepare import Prepared, asked_for, prepare


@cache
def facts_here() -> Facts:
    """The CPU, whatever else this machine has: tests/cpu/conftest.py says so."""
    assert os.environ["SD3TUNE_BACKEND"] == "cpu"
    return observe()


def prepared_here(path: Path, *words: str) -> Prepared:
    """As `sd3tune train PATH WORDS` prepares it. The answers of probes are kept for the session."""
    config = Config.load(path, words)
    return prepare(config, facts_here(), asked_for(config), probing.on_this_machine())
