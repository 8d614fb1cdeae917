"""Every sd3tune command in the documents runs, on the demo's model, in a folder that has what the
pages speak of. What would train runs up to its plan: the guides that train are run to their end
below and in test_dreambooth_guide.py."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import exit_code, sd3tune
from tests.document_pages import PAGES, ROOT, blocks, commands, named

pytestmark = pytest.mark.slow

# Page whose commands need each other -> the test that follows it in order.
FOLLOWED = {
    "docs/guides/dreambooth.md": "tests/cpu/test_dreambooth_guide.py",
    "docs/guides/style.md": "below",
    "docs/guides/demo.md": "tests/cpu/test_demo_script.py: scripts/demo has its commands",
    "docs/guides/from-other-trainers.md": "tests/pure/test_import_guide.py",
    "docs/guides/queue.md": "tests/cpu/test_queues.py",
    "docs/guides/configuration.md": "tests/pure/test_configuration_guide.py",
    "docs/quickstart.md": "tests/cpu/test_quickstart.py",
    "docs/quickstart.hi.md": "tests/cpu/test_quickstart.py: the blocks of quickstart.md",
}
# Beginning of a command -> why no test here runs it as it stands.
NOT_RUN = {
    "doctor --report": "minutes of probes; tests/cpu/test_doctor.py runs it",
    "doctor --json": "minutes of probes; tests/cpu/test_doctor.py runs it",
    "image": "needs a container engine; tests/docker runs them",
    "watch": "serves until it is stopped; tests/browser opens it. --export runs",
    "publish OUTPUT_DIR": "needs a hub, as tests/cpu/test_published_run.py has; --dry-run runs",
    "train push_to_hub": "needs a hub, as above",
    "train config/config.json --nproc": "needs several devices; two processes are in "
    "tests/cpu/test_processes.py, and settings are read in tests/pure/test_document_blocks.py",
    "train my-project/config/config.json --nproc": "as above",
    "train config/config.json report_to": "test_run_with_trackers.py",
    "reproduce": "draws, and needs pictures of runs of the pages; tests/cpu/test_reproduction.py",
    "export output --to comfyui --model": "loads a released model; tests/cpu/test_dialects.py",
    "export MODEL_FOLDER": "a whole model is written in tests/cpu/test_single_file.py",
    "export output/pipeline": "as above",
    "plan --on sd3tune-report.json": "needs a report; tests/cpu/test_doctor.py",
    "plan --on FILE": "as above",
    "sample --json": "names an option; it has no source",
    "dataset --losses": "names an option; `dataset … --losses output` runs",
    "inspect --json": "names an option; `inspect FILE` runs",
    "demo DIR": "`demo try` runs",
    "configure": "asks; tests/cpu/test_quickstart.py answers. `configure --yes` runs there too",
}
# The same for whole commands.
NOT_RUN_WHOLE = {
    "cloud write": "is only named",
    "config example": "is only named",
    "config import": "is only named",
    "publish output": "needs a hub, as above",
    "publish output --to my-style": "as above",
}
# What the page says that it refuses.
REFUSED = ("plan try/config/config.json base_model_precision=fp8-quanto --on m3-max",)
# Words that a command gets here: nothing is trained, written over or compared with the run before.
MORE = {
    "train": ("--dry-run", "output_dir=fresh"),
    "sample": ("--dry-run",),
    "export": ("--force",),
    "demo": ("--force",),
}
# A word of a page that stands for a user's own file -> the file here.
FILES = {
    "FILE": "output/pytorch_lora_weights.safetensors",
    "SOURCE": "output",
    "OUTPUT_DIR": "output",
    "CONFIG": "config/config.json",
    "DIR": "cache",
    "NAME": "t4",
    "output/checkpoint-500": "output/checkpoint-2",
    "my-project/output": "output",
}
PROJECT = re.compile(r"^(my-project|try|my|/workspace/my-project)/config(/config)?\.json$")


def here(words: list[str]) -> list[str]:
    """A command of a page with the files of this test's project, and without training."""
    own = ["config/config.json" if PROJECT.match(w) else FILES.get(w, w) for w in words]
    more = ("--dry-run",) if "--resume" in words else MORE.get(words[0], ())
    return own + [word for word in more if word not in own]


def typed() -> dict[str, list[str]]:
    """Every command of a page with what is run for it, each thing that runs once. A command
    without further words is only named on a page."""
    pages = [page for page in PAGES if named(page) not in FOLLOWED]
    every = {shlex.join(words): words for page in pages for words in commands(page) if words[1:]}
    kept = {line: words for line, words in sorted(every.items()) if line not in NOT_RUN_WHOLE
            and not any(map(line.startswith, NOT_RUN))}  # fmt: skip
    once = {shlex.join(here(words)): line for line, words in kept.items()}
    return {line: here(kept[line]) for line in once.values()}


@pytest.fixture(scope="module")
def project(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a finished run of two steps in `output`."""
    folder = tmp_path_factory.mktemp("pages")
    for part in ("config", "photos", "models/sd3.5-medium"):
        shutil.copytree(demo / part, folder / part)
    steps = ("max_train_steps=2", "lr_warmup_steps=0", "validation_disable=true")
    done = sd3tune("train", "config/config.json", *steps, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("line, words", typed().items())
def test_a_command_of_a_page_runs(
    line: str, words: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert exit_code(words, monkeypatch) == (line in REFUSED)


def test_every_reason_is_of_a_command_that_is_there() -> None:
    every = [shlex.join(words) for page in PAGES for words in commands(page)]
    assert [b for b in NOT_RUN if not any(line.startswith(b) for line in every)] == []
    assert {*NOT_RUN_WHOLE, *REFUSED} <= set(every)
    assert all((ROOT / page).exists() for page in FOLLOWED)


def test_the_guide_of_style_runs_as_it_is_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "guides" / "style.md"
    written = re.findall(
        r"^`(try/config/\S+)`[^`]*?\n\n```json\n(.*?)^```", page.read_text(), re.M | re.S
    )
    first, *others = blocks(page, "bash")
    bash(first, tmp_path)
    assert len(written) == 3
    for name, content in written:
        (tmp_path / name).write_text(content)
    for script in others:
        bash(script, tmp_path)
    output = tmp_path / "try" / "style-output"
    assert (output / "pytorch_lora_weights.safetensors").exists()
    drawn = {path.name.split("_")[2] for path in (output / "validation_images").glob("step_60_*")}
    assert {"lighthouse", "portrait", "without"} <= drawn


def bash(script: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=True, timeout=900)
