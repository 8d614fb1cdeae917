"""The page beside a run that trains: it stops it after saving, and changes nothing in it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Open, keep, until
from tests.commands import sd3tune
from tests.live_runs import served

SETTINGS = ("max_train_steps=4000", "lr_scheduler=constant", "lr_warmup_steps=0",
            "checkpoint_step_interval=2000", "validation_disable=true")  # fmt: skip

STEP = "Number(document.querySelector('.progress').textContent.match(/step (\\d+)/)?.[1])"


@pytest.mark.slow
def test_the_button_stops_a_run_which_saves_and_has_the_losses_of_a_run_alone(
    tmp_path: Path, browse: Open
) -> None:
    assert sd3tune("demo", str(tmp_path), "--model", "sd3.5-medium").returncode == 0
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    words = [sys.executable, "-m", "sd3tune", "train", "config/config.json", *SETTINGS]
    with subprocess.Popen([*words, f"output_dir={watched}"], cwd=tmp_path, stderr=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as run:  # fmt: skip
        watched.mkdir(exist_ok=True)
        with served(watched) as site:
            page = browse(site.url)
            page.wait_for_selector(".state.running")
            until(page, f"{STEP} >= 12")
            page.wait_for_selector("#plan-body tbody tr")
            keep(page, "real-run")
            page.click(".run .stop")
            page.click("#confirm .stop")
            run.communicate()
            assert run.returncode == 143
            page.wait_for_selector(".state.stopped")
            page.wait_for_selector("#checkpoints b:has-text('checkpoint-')")
            assert not page.query_selector(".run .stop")
            keep(page, "stopped-run", whole=True)
            with page.expect_download() as download:
                page.click("#checkpoints a[aria-label^='Download checkpoint']")
            assert download.value.path().stat().st_size > 1000
            page.close()
    losses = rows(watched)
    assert list(watched.glob(f"checkpoint-{len(losses)}/manifest.json"))
    command = [f"max_train_steps={len(losses)}", f"output_dir={alone}"]
    done = sd3tune("train", "config/config.json", *SETTINGS, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(alone) == losses


def rows(output: Path) -> list[tuple[Any, ...]]:
    """Loss and gradient norm of every step."""
    for _ in range(50):
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        if lines:
            break
        time.sleep(0.1)
    return [(row["step"], row["loss"], row["grad_norm"]) for row in lines]
