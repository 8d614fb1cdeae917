"""Every example in the documents is one that sd3tune accepts: configurations, settings on a command
line, datasets. tests/cpu/test_document_commands.py runs the commands."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import Config
from sd3tune.config.names import ALIASES
from sd3tune.config.run_files import load_run
from sd3tune.config.settings.all_settings import AllSettings
from tests.document_pages import PAGES, ROOT, blocks, commands, named
from tests.projects import IMAGES, TEXT, Project

# A block with another language would be looked at by no test.
LANGUAGES = {"", "bash", "sh", "json", "toml", "yaml", "python", "text"}
# JSON that is not read by sd3tune: (page, first key) -> why it is left out.
NOT_READ = {
    (
        "docs/reference/webhooks.md",
        "version",
    ): "what receivers get, by its schema",
}
# Page -> why its blocks are not read here.
PAGES_NOT_READ = {
    "docs/guides/from-other-trainers.md": "other trainers' files; see test_import_guide.py",
}


def examples() -> Iterator[tuple[Path, Any]]:
    """Every JSON and TOML block that sd3tune would read, with its page."""
    for page in (page for page in PAGES if named(page) not in PAGES_NOT_READ):
        for language, load in (("json", json.loads), ("toml", tomllib.loads)):
            for example in map(load, blocks(page, language)):
                if (named(page), first_key(example)) not in NOT_READ:
                    yield page, example


def first_key(example: Any) -> str:
    """ "": it is a list."""
    return str(next(iter(example))) if isinstance(example, dict) else ""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def read(project: Project, *words: str) -> Config:
    return load_run(project.root / "config/config.json", words)[0]


def files_of(project: Project, entry: dict[str, Any]) -> None:
    """The folder and the table that a dataset of an example speaks of."""
    if folder := entry.get("instance_data_dir"):
        (project.root / folder).mkdir(parents=True, exist_ok=True)
    if table := entry.get("parquet") or entry.get("csv"):
        project.write(table["path"], "")


def accepted(example: Any, project: Project) -> None:
    """Reads an example as the file that it belongs to. Raises ConfigError where it is wrong."""
    names = {key.removeprefix("--") for key in example} if isinstance(example, dict) else set()
    if isinstance(example, list):
        for entry in example:
            files_of(project, entry)
        project.datasets(*example)
    elif names & {"instance_data_dir", "dataset_type", "parquet"}:
        files_of(project, example)
        kind = example.get("dataset_type", "image")
        entry = ({} if kind == "text_embeds" else IMAGES) | {"id": "of-the-page"} | example
        training = [IMAGES] if kind != "image" else []
        project.datasets(entry, *training, *([TEXT] if kind != "text_embeds" else []))
    elif "webhook_type" in names:
        project.config(webhook_config=example)
    elif names & {*AllSettings.model_fields, *ALIASES}:
        files = dict.fromkeys(("data_backend_config", "user_prompt_library"), ...)
        project.config(**example | files)
    else:  # a library of prompts
        project.write("config/prompts.json", json.dumps(example))
        project.config(user_prompt_library="config/prompts.json")
    read(project)


@pytest.mark.parametrize("page, example", list(examples()))
def test_an_example_of_a_page_is_accepted(
    page: Path, example: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\{env:(\w+)\}", json.dumps(example)):  # which the page tells to set
        monkeypatch.setenv(name, "https://discord.com/api/webhooks/1/x" if "HOOK" in name else "x")
    accepted(example, project)


def test_every_reason_is_of_a_block_that_is_there() -> None:
    for name, key in NOT_READ:
        shown = [json.loads(block) for block in blocks(ROOT / name, "json")]
        assert key in map(first_key, shown)


def test_an_example_with_a_wrong_name_or_value_is_refused(project: Project) -> None:
    wrong: list[Any] = [
        {"learning_rate": 1e-4, "lora_ranc": "4"},
        {"learning_rate": "fast"},
        [IMAGES | {"crop": "maybe"}, TEXT],
        {"dataset_type": "novel"},
        {"webhook_type": "pigeon"},
    ]
    for example in wrong:
        with pytest.raises(Exception, match=r"lora_ranc|learning_rate|crop|dataset_t|webhook_t"):
            accepted(example, project)


def settings_of(words: list[str]) -> list[str]:
    """The `key=value` words of a command that reads a configuration."""
    reading = words and words[0] in ("train", "plan", "dataset", "cache")
    before = ["", *words]  # --price takes `card=price`
    settings = [w for w, b in zip(words, before, strict=False) if "=" in w and b != "--price"]
    return [w for w in settings if reading and not w.startswith("-")]


def test_settings_on_a_command_line_of_a_page_are_accepted(project: Project) -> None:
    """Settings that stand in running text as `name=value` are named there, and not always whole
    (`train_batch_size=…`), so the words of commands alone are read."""
    seen = 0
    for page in PAGES:
        for words in commands(page):
            if given := settings_of(words):
                seen += 1
                read(project, *given)
    assert seen > 12


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_code_block_has_a_language_that_some_test_reads(page: Path) -> None:
    fences = [line.strip() for line in page.read_text().splitlines() if line.lstrip()[:3] == "```"]
    assert len(fences) % 2 == 0
    assert {fence.removeprefix("```").split(" ")[0] for fence in fences[::2]} <= LANGUAGES


def test_python_on_a_page_is_python() -> None:
    shown = [block for page in PAGES for block in blocks(page, "python")]
    assert shown
    for block in shown:
        compile(block, "a page", "exec")


def test_bash_on_a_page_is_bash() -> None:
    """Read, not run: `bash -n`. Words in capitals such as ADDRESS stand for a reader's own."""
    for page in PAGES:
        script = "\n".join(blocks(page, "bash"))
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, f"{page}: {done.stderr}"
