"""Tests that need a card: `pytest tests/device` on a machine with one, nothing else to set up.

Each names the hardware that it needs and is skipped elsewhere. SD3TUNE_TEST_DEVICE=cpu runs on the
CPU what does not depend on a card, so that the tests themselves are tested where there is none.
Everything goes through the command line, as a user has it.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.observe import this_machine
from tests.commands import sd3tune

CARDS = ("cuda", "rocm", "mps")
NAMES = {"cuda": "an NVIDIA GPU", "rocm": "an AMD GPU", "mps": "an Apple GPU", "cpu": "the CPU"}
ASKED = os.environ.get("SD3TUNE_TEST_DEVICE")
SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SHORT = ("validation_disable=true", "lr_warmup_steps=0", "lr_scheduler=constant", "seed=42",
         "train_batch_size=1", "optimizer=adamw")  # fmt: skip


def vendor_here() -> str:
    """What trains on this machine, asked without torch: cuda, rocm, mps or cpu."""
    if ASKED:
        return ASKED
    machine, torch, _ = this_machine.observe(import_torch=False)
    return this_machine.choose(machine, torch, {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs other hardware, by its name. A test without `needs` runs on every card; on
    the CPU runs what does not leave it out, and only where SD3TUNE_TEST_DEVICE asks for that."""
    here, folder = vendor_here(), Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            mark = item.get_closest_marker("needs")
            wanted = mark.args if mark else (*CARDS, "cpu")
            if here not in wanted or (here == "cpu" and not ASKED):
                names = " or ".join(NAMES[vendor] for vendor in wanted if vendor != "cpu")
                reason = f"needs {names}; this machine trains on {NAMES[here]}"
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Run:
    """One finished training run."""

    rows: list[dict[str, Any]]  # metrics.jsonl, a row a step
    noise: str  # digest of every random number, as it was printed
    peak_bytes: int  # as the line of the last step has it
    log: str

    def values(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


@dataclass(frozen=True)
class Demo:
    """The demo's tiny models, on the device that the tests are about."""

    folder: Path
    vendor: str

    def command(self, *words: str) -> tuple[int, str, str]:
        done = sd3tune(*words, cwd=self.folder, SD3TUNE_BACKEND=self.vendor)
        return done.returncode, done.stdout, done.stderr

    def plan(self, *words: str) -> dict[str, Any]:
        code, out, err = self.command("plan", "config/config.json", "--json", *SHORT, *words)
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    def value(self, axis: str, *words: str) -> Any:
        """What the plan decides on one axis."""
        return self.plan(*words)["decisions"][axis]["value"]

    def train(self, name: str, *words: str) -> Run:
        """Trains into output/NAME; a run that is there goes on."""
        output = self.folder / "output" / name
        words = (*SHORT, *words, f"output_dir={output}")
        code, out, err = self.command("train", "config/config.json", *words)
        assert code == 0, err
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        noise = re.search(r"^noise\s+([0-9a-f]{16})", out, re.MULTILINE)
        sizes = re.findall(r"s/step  ([\d.]+) (KiB|MiB|GiB)", err)
        assert noise is not None and sizes, err
        number, unit = sizes[-1]
        rows = [json.loads(line) for line in lines]
        return Run(rows, noise.group(1), int(float(number) * SIZES[unit]), err)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("device") / "demo"
    done = sd3tune("demo", str(folder), "--model", "sd3.5-medium")
    assert done.returncode == 0, done.stderr
    return Demo(folder, vendor_here())
