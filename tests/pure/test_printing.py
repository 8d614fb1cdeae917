"""Words of strangers on a terminal: no name of a file and no caption moves the cursor, sets a
title, makes a line of its own or turns the direction of reading."""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune.escaping import one_line, printable, sentence
from sd3tune.report.progress import say, stage
from tests import safetensors_files
from tests.commands import exit_code

TITLE, CLIPBOARD, CLEAR = "\x1b]0;owned\x07", "\x1b]52;c;Zm9v\x07", "\x1b[2J"
BIDI = "\u202egpj.exe\u2066\u200f"
NAMES = {
    "escape": "a\x1b[31mred",
    "title": f"a{TITLE}",
    "eight-bit control": "a\x9b31m",
    "delete": "a\x7f\x08b",
    "turned around": BIDI,
    "invisible": "a\u200b\ufeff\u2060b",
    "other line ends": "a\u2028b\u2029c\x85d\x0be",
    "return": "good\rerror: evil",
    "line": "a\nerror: evil",
    "half a character": os.fsdecode(b"a\xffb"),
    "tags": "a\U000e0041b",
    "joiners that join nothing": "a\u200db\u200c",
}


def controls(text: str) -> set[str]:
    """What a terminal would obey; line ends are the lines of the page itself."""
    harmless = {"\n", "\u200c", "\u200d"}
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {c for c in text if unicodedata.category(c) in kinds} - harmless


@pytest.mark.parametrize("name", NAMES)
def test_what_a_terminal_obeys_is_escaped(name: str) -> None:
    shown = one_line(NAMES[name])
    assert not controls(shown) and "\n" not in shown and "\\" in shown
    assert "\u200d" not in shown and "\u200c" not in shown
    assert not controls(printable(NAMES[name]))


@pytest.mark.parametrize(
    "text", ["café Ünïcode", "हिन्दी में क्‍ष", "می‌خواهم", "👩‍👩‍👧 🏳️‍🌈", "日本語 — „…“", "C:\\x [bold]"]
)
def test_letters_of_every_script_stay_as_they_are(text: str) -> None:
    assert one_line(text) == text and printable(f"{text}\n\t{text}") == f"{text}\n\t{text}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images whose names and captions are hostile."""
    monkeypatch.chdir(tmp_path)
    for folder in ("config", "photos"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(NAMES.values()):
        path = tmp_path / "photos" / f"{number}{name}.png"
        Image.new("RGB", (640, 480)).save(path)
        path.with_suffix(".txt").write_text(f"caption {CLIPBOARD}{CLEAR}{BIDI} of {number}")
    (tmp_path / "photos" / f"no picture{TITLE}\nerror: evil.png").write_bytes(b"")
    Path("config/config.json").write_text(json.dumps({
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium",
        "output_dir": f"out{TITLE}", "max_train_steps": 1}))  # fmt: skip
    Path("config/multidatabackend.json").write_text(json.dumps([
        {"id": "photos", "type": "local", "instance_data_dir": "photos",
         "caption_strategy": "textfile", "cache_dir_vae": "cache"},
        {"id": "text", "dataset_type": "text_embeds", "default": True}]))  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("words", [["dataset"], ["plan", "--on", "rtx4090"]])
def test_names_and_captions_of_a_dataset_are_printed_without_their_controls(
    words: list[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(words, monkeypatch) == 0
    shown = "".join(capsys.readouterr())
    assert "no picture\\x1b]0;owned\\x07" in shown or "caption \\x1b]52" in shown
    assert not controls(shown) and not any(x.startswith("error") for x in shown.splitlines())


def test_json_stays_json_and_keeps_the_names(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["dataset", "--json"], monkeypatch) == 0
    out = capsys.readouterr().out
    assert not controls(out) and out.isascii()
    assert any(TITLE in text for text in texts(json.loads(out)))


def texts(value: Any) -> Iterator[str]:
    """Every string of a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def test_metadata_of_an_adapter_makes_no_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"transformer.transformer_blocks.0.attn.to_q.lora_{{}}.weight{TITLE}"
    file = safetensors_files.write(
        tmp_path / f"a{TITLE}\nread by.safetensors",
        {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": [4, 1536],
         "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": [1536, 4],
         key.format("A"): [1]},
        metadata={f"x{CLEAR}\n  sd3tune: yes": BIDI, "base_model": f"a{CLEAR}\nerror: evil"},
    )  # fmt: skip
    assert exit_code(["inspect", str(file)], monkeypatch) == 0
    out = capsys.readouterr().out
    assert not controls(out) and "x\\x1b[2J" in out and "a\\x1b[2J" in out
    assert not [x for x in out.splitlines() if x.startswith("error")]
    assert out.splitlines().count("read by") == 1


@pytest.mark.parametrize(
    "words",
    [
        [f"no{TITLE}\nhint: evil.json"],
        ["--on", f"x{CLEAR}\nhint: evil"],
        [f"max_train_steps={BIDI}{CLEAR}"],
    ],
)
def test_errors_are_two_lines_whatever_they_quote(
    words: list[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(["plan", *words], monkeypatch) == 1
    err = capsys.readouterr().err.removeprefix("configuration: config/config.json\n")
    assert not controls(err)
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


def test_a_misspelt_option_is_escaped_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["plan", f"--{CLEAR}\nhint: evil"], monkeypatch) == 1
    err = capsys.readouterr().err
    assert not controls(err) and len(err.splitlines()) == 2


def test_a_word_that_no_file_can_be_named_is_cut_and_paths_are_not(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key or a value of a million letters, wherever it was written."""
    long, name = "k" * 1_000_000, "config/config.json"
    settings = json.loads((project / name).read_text())
    entries = json.loads((project / "config/multidatabackend.json").read_text())
    changes: list[dict[str, Any]] = [{long: 1}, {f"--{long}": long}]
    changes += [{"peft_lora_target_modules": [long]}]
    changes += [{key: long} for key in ("optimizer_config", "validation_resolution", "revision")]
    for change in changes:
        (project / name).write_text(json.dumps(settings | change))
        cut_short(["plan", "--on", "h100"], monkeypatch, capsys)
    (project / name).write_text(json.dumps(settings))
    cut_short(["plan", f"{long}=1"], monkeypatch, capsys)
    cut_short(["plan", f"--{long}"], monkeypatch, capsys)
    (project / "config/multidatabackend.json").write_text(json.dumps([entries[0] | {long: 1}]))
    cut_short(["plan"], monkeypatch, capsys)
    path = "/".join(["d" * 255] * 4)
    assert sentence(f"`{path}` and `{long}` end") == f"`{path}` and `{'k' * 79}…` end"


def cut_short(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the command is refused in a few lines, each with its beginning and its end."""
    assert exit_code(words, monkeypatch) == 1
    err = capsys.readouterr().err
    assert "kkk" in err and "…" in err and len(err) < 800 and "hint: " in err, err[:2000]


def test_lines_of_a_run_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"begins   with 3 layers of a{TITLE}\nhint: evil", "second")
    with stage(f"look at {CLEAR}\nhint: evil", 1) as bar:
        bar.advance(words=f"x{CLEAR}\nhint: evil")
    err = capsys.readouterr().err
    assert not controls(err) and len(err.splitlines()) == 3


def test_bars_take_brackets_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with stage(f"look at [bold]x[/bold][link=http://evil]y {TITLE}", 1) as bar:
        bar.advance(words=f"[red]z{CLIPBOARD}")
    err = capsys.readouterr().err
    assert "[bold]x[/bold][link=http://evil]y \\x1b]0;owned\\x07" in err
    assert "[red]z\\x1b]52" in err and TITLE not in err and CLIPBOARD not in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_gets_escapes(encoding: str, tmp_path: Path) -> None:
    file = safetensors_files.write(
        tmp_path / "क.safetensors",
        {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": [4, 1536],
         "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": [1536, 4]},
        metadata={"modelspec.title": "日本 …"},
    )  # fmt: skip
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
    command = [sys.executable, "-m", "sd3tune", "inspect", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u0915.safetensors" in done.stdout and b"\\u65e5\\u672c" in done.stdout


def test_a_traceback_that_a_library_logs_is_escaped() -> None:
    code = (
        "import logging; from sd3tune import escaping; escaping.prepare()\n"
        f"try: raise ValueError({TITLE!r})\n"
        "except ValueError: logging.getLogger('x').exception('seen', stack_info=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ValueError: \\x1b]0;owned" in done.stderr and "Stack (most recent" in done.stderr
    assert not controls(done.stderr)


def test_what_libraries_warn_of_and_log_is_escaped() -> None:
    code = (
        "import logging, warnings; from sd3tune import escaping; escaping.prepare();"
        f"warnings.warn({CLEAR!r} + 'seen'); logging.getLogger('x').error('%s', {TITLE!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\\x1b[2Jseen" in done.stderr and "\\x1b]0;owned" in done.stderr
    assert not controls(done.stderr)
