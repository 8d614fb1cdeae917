"""What commands print, word for word, on a terminal of 80 and of 120 columns: tests/golden/cli.

`pytest --update-golden tests/pure/test_cli_output.py` writes the files anew.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest

from sd3tune import __version__
from sd3tune.cli import cli
from tests import safetensors_files
from tests.commands import exit_code
from tests.projects import Project

GOLDEN = Path(__file__).parents[1] / "golden" / "cli"
WIDTHS = (80, 120)
ADAPTER = "transformer.transformer_blocks.3.attn.to_q"
DECLARED = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})}
SHOWN = {
    "doctor-rtx4090": [["doctor", "--on", "rtx4090"]],
    "doctor-m3-max": [["doctor", "--on", "m3-max"]],
    "plan-rtx4090": [["plan", "--on", "rtx4090"]],
    "plan-mi300x-verbose": [["plan", "-v", "--on", "mi300x", "lora_rank=64"]],
    "dataset": [["dataset", "--sheet", "sheet.png"]],
    "inspect": [["inspect", "adapter.safetensors"]],
    "errors": [
        [],
        ["trian"],
        ["train", "--nproc", "0"],
        ["plan", "-v", "-q"],
        ["plan", "nowhere.json"],
        ["plan", "learning_rat=1"],
        ["plan", "max_train_steps=-1"],
        ["plan", "base_model_precision=fp8-quanto", "--on", "m3-max"],
        ["plan", "--on", "rtx5000"],
        ["plan", "data_backend_config=config/none.json"],
        ["doctor", "--on", "rtx4090", "--report"],
        ["inspect", "none.safetensors"],
        ["inspect", "photos"],
        ["export", "adapter.safetensors", "--to", "a1111"],
        ["image", "run", "--vendor", "cuda", "--print", "--gpus", "1,1", "doctor"],
        ["image", "run", "--vendor", "rocm", "--print", "--gpus", "0:1", "doctor"],
    ],
}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[list[str]]:
    """Every command, as its help is asked for."""
    asked = [[*path, "--help"]]
    for name, command in group.commands.items():
        below = (*path, name)
        asked += commands(command, below) if isinstance(command, click.Group) else [
            [*below, "--help"]]  # fmt: skip
    return asked


CASES = {"help": commands(cli)} | SHOWN


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: a configuration, one image, one broken file and an adapter. Its path
    has the same length in every run, because long lines are broken."""
    with TemporaryDirectory(prefix="sd3tune-", dir="/tmp") as name:
        folder = Path(name)
        monkeypatch.chdir(folder)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", name)  # nothing is there
        Project(folder).write("photos/broken.png", b"")
        shapes = {f"{ADAPTER}.lora_A.weight": [8, 1536], f"{ADAPTER}.lora_B.weight": [1536, 8]}
        safetensors_files.write(folder / "adapter.safetensors", shapes, metadata=DECLARED)
        yield folder


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", CASES)
def test_commands_print_what_they_printed_before(
    case: str, width: int, project: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    blocks = []
    for words in CASES[case]:
        code = exit_code(words, monkeypatch)
        out, err = capsys.readouterr()
        ended = [f"[exit code {code}]"] if code else []
        blocks.append(
            "\n".join([f"$ sd3tune {' '.join(words)}", neutral(err + out, project), *ended])
        )
    shown = "\n\n".join(blocks) + "\n"
    path = GOLDEN / f"{case}-{width}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown)
    assert shown == path.read_text(), "if it is meant: pytest --update-golden"


def neutral(text: str, project: Path) -> str:
    """Without what differs from run to run."""
    text = text.replace(str(project), "/tmp/sd3tune-project_").replace(__version__, "VERSION")
    lines = text.rstrip("\n").split("\n")
    return "\n".join("debug: planned in N s" if "planned in" in line else line for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_are_as_wide_as_the_terminal_at_most(width: int) -> None:
    for path in GOLDEN.glob(f"*-{width}.txt"):
        for line in path.read_text().splitlines():
            one_word = " " not in line.strip()
            assert len(line) <= width or one_word or line.startswith("$ "), f"{path.name}: {line}"


def test_every_command_is_shown() -> None:
    assert {words[0] for words in CASES["help"]} >= set(cli.commands)
