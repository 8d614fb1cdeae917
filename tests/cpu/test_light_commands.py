"""What commands do not load and do not start: no test can promise their seconds."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sd3tune import garbage
from sd3tune.data.cache import TensorCache
from sd3tune.report.quiet import quiet_libraries

HEAVY = ("torch", "numpy", "transformers", "diffusers", "peft", "scipy", "ssl", "PIL",
         "rich.console", "pillow_heif")  # fmt: skip
# Runs a command, and prints which of these modules it loaded and which processes it started.
CODE = """
import json, sys
started = []
sys.addaudithook(lambda event, args: started.append(str(args[1][:3]))
                 if event == "subprocess.Popen" else None)
from sd3tune import cli
words, heavy = json.loads(sys.argv[1])
sys.argv = ["sd3tune", *words]
try:
    cli.main()
except SystemExit as end:
    assert end.code in (0, 1, None), end.code
print(json.dumps([[name for name in heavy if name in sys.modules], started]))
"""


def loaded_and_started(folder: Path, *words: str) -> tuple[list[str], list[str]]:
    asked = json.dumps([words, HEAVY])
    here = os.environ | {"SD3TUNE_BACKEND": "cpu"}
    line = [sys.executable, "-c", CODE, asked]
    done = subprocess.run(line, cwd=folder, check=True, text=True, capture_output=True, env=here)
    loaded, started = json.loads(done.stdout.splitlines()[-1])
    return loaded, started


@pytest.mark.parametrize("words", [("--help",), ("plan", "--help"), ("plan", "--on", "h100")])
def test_help_and_plans_for_other_cards_load_no_library(words: tuple[str, ...], demo: Path) -> None:
    loaded, started = loaded_and_started(demo, *words)
    assert set(loaded) <= {"ssl"} and started == []


def test_a_cache_is_verified_without_torch(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    with cache.claim(["a" * 40]) as draft:
        assert draft is not None
        draft.write({"a" * 40: {"x": torch.ones(3)}}, {})
    loaded, started = loaded_and_started(tmp_path, "cache", "verify", "cache")
    assert set(loaded) <= {"numpy", "ssl"} and started == []


@pytest.mark.slow
def test_the_second_plan_and_the_census_of_caches_start_nothing(demo: Path) -> None:
    loaded_and_started(demo, "plan")  # asks PyTorch and the probes, and keeps their answers
    for words in (
        ("plan",),
        ("cache", "info"),
        ("cache", "prune"),
        ("inspect", "models/sd3.5-medium"),
    ):
        loaded, started = loaded_and_started(demo, *words)
        assert set(loaded) <= {"ssl"} and started == [], words


def test_before_a_model_is_loaded_python_looks_for_unused_objects_as_usual() -> None:
    garbage.look_seldom()
    quiet_libraries()
    gc.unfreeze()  # these tests' own objects
    assert gc.get_threshold() == garbage.USUAL
