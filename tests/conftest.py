"""Tests are filed by what they need: pure (no torch), cpu (torch on the CPU)."""

import os

import pytest

# Two threads on a busy two-core machine are five times slower per step than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden from this run"
    )
