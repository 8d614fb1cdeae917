# ruff: noqa: E501  (tables: one case a line)
"""Syntax: JSON documents, config.env, command-line words; nothing escapes but ConfigError."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd3tune.config.config import TEXTS, Config, read
from sd3tune.config.files import env_file
from sd3tune.config.files.reading import (
    literal,
    project_folder,
    read_json,
    read_words,
    without_dashes,
)
from sd3tune.config.problems import Problems
from sd3tune.errors import ConfigError


def read_env(path: Path, texts: Any = ()) -> dict[str, Any]:
    """The settings of an env file. Raises ConfigError."""
    problems = Problems()
    written = env_file.read_env(path, problems, texts)
    problems.raise_any()
    return written.values


def words(*words: str, texts: Any = ()) -> dict[str, Any]:
    return read_words(words, Problems(), texts).values


DEMO = "`sd3tune config example` writes an example of every file, `sd3tune demo DIR` a whole run"
BAD_JSON: list[tuple[bytes | None, str, str]] = [
    (None, "no such thing: `c.json`", DEMO),
    (b"", "`c.json` is empty", DEMO),
    (b" \n", "`c.json` is empty", DEMO),
    (b'{"a": "\xff"}', "`c.json` is not UTF-8 at byte 7", "save it as UTF-8"),
    (b'{\n "a": 1,\n\nb: 2}', "`c.json:4:1` is not JSON: Expecting property name enclosed in double quotes, at `b: 2}`", "JSON has double quotes, no comments, and no comma after the last entry"),
    (b'{"a\xe2\x80\xa8": 1,\n "b" 2}', "`c.json:2:6` is not JSON: Expecting ':' delimiter, at `\"b\" 2}`", "JSON has double quotes, no comments, and no comma after the last entry"),
    (b'{"a": {"b": 1, "b": 1}}', "`c.json` sets `b` twice", "remove one of the two"),
    (b"[1]", "`c.json` must hold an object { }, it holds a list", DEMO),
    (b"1", "`c.json` must hold an object { }, it holds a number or null", DEMO),
    (b'{"a": ' + b"9" * 5000 + b"}", "`c.json` holds a number that is too long", "shorten it"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_JSON, ids=lambda case: case[1][-40:])
def test_a_bad_document_is_refused_in_these_words(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message, hint = case
    if content is not None:
        Path("c.json").write_bytes(content)
    with pytest.raises(ConfigError) as e:
        read_json(Path("c.json"), dict, "thing")
    assert (str(e.value), e.value.hint) == (message, hint)


def test_a_folder_is_no_document_and_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, a thing is needed"):
        read_json(tmp_path, dict, "thing")
    (tmp_path / "c.json").write_text('\ufeff{"a": 1}')
    assert read_json(tmp_path / "c.json", dict, "thing") == {"a": 1}


QUICKSTART_ENV = """
# choices: int8-quanto, int4-quanto, int2-quanto, fp8-quanto
export TRAINER_EXTRA_ARGS="--base_model_precision=int8-quanto"

export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --text_encoder_1_precision=no_change --text_encoder_2_precision=no_change"
export OPTIMIZER="adamw_bf16"
ALLOW_TF32=true
OUTPUT_DIR=out
MAX_NUM_STEPS=10
"""


def test_the_quickstarts_env_block_loads_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.env").write_text(QUICKSTART_ENV)
    config = Config.load(tmp_path / "config")
    assert config.base_model_precision == "int8-quanto" and config.optimizer == "adamw_bf16"
    assert config.text_encoder_1_precision == config.text_encoder_2_precision == "no_change"
    assert config.output_dir == tmp_path / "out" and config.max_train_steps == 10
    assert Config.load(tmp_path / "config", ["optimizer=adamw"]).optimizer == "adamw"


ENV = {
    'K="a # b" # c': "a # b",
    "K=a#b": "a#b",
    "K=two   words": "two words",
    'K="two  words"': "two  words",
    "K='$SHELL_WORD'": "$SHELL_WORD",
    "K=\"$SHELL_WORD\"'$SHELL_WORD'": "word$SHELL_WORD",
    "K=${SHELL_WORD}s": "words",
    'K="cost \\$5"': "cost $5",
    'K="it\'s"': "it's",
    'A=\'x"y\'\nK="$A"': 'x"y',
    "K=a\nK+=b": "ab",
    "  export K=a\r": "a",
    "K=5": "5",
}


@pytest.mark.parametrize("text", ENV)
def test_env_values_are_read_as_a_shell_reads_them(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL_WORD", "word")
    path = tmp_path / "config.env"
    path.write_text(text)
    assert read_env(path, {"k"}) == {"k": ENV[text]}


@pytest.mark.parametrize("line", ["K= #", "K= # words", "export K=  #", 'K="" # words', "K="])
def test_a_comment_after_no_value_leaves_the_setting_out(line: str, tmp_path: Path) -> None:
    (tmp_path / "config.env").write_text(f"{line}\nL=1 #")
    assert read_env(tmp_path / "config.env") == {"l": 1}


def test_extra_arguments_take_a_value_after_a_blank_or_none(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_text("TRAINER_EXTRA_ARGS=\"--lora_rank 8 --use_ema --validation_prompt='x y'\"")
    assert read_env(path) == {"lora_rank": 8, "use_ema": True, "validation_prompt": "x y"}


def test_an_export_without_a_value_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.env").write_text("export NOW\nexport SEED=3")
    assert read_env(tmp_path / "config.env") == {"seed": 3}


def test_arguments_for_debugging_are_arguments(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_text("DEBUG_EXTRA_ARGS=--report_to=wandb\nTRAINER_EXTRA_ARGS=--seed=3")
    assert read_env(path) == {"report_to": "wandb", "seed": 3}


def test_a_key_that_stands_twice_hides_no_other_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text('{"seed": 1, "--seed": 2, "seed": 3, "lr": 1e-4, "output_dir": "o"}')
    messages = " ".join(problem.message for problem in read(Path("c.json")).problems)
    assert "sets `seed` twice" in messages and "`lr=0.0001`" in messages


LITERAL = "write the value itself, or put it between single quotes"
NO_COMMAND = "and sd3tune runs no command of this file"
BAD_ENV = [
    ("set -e", "`c.env:1` is not an assignment: `set -e`", "write export NAME=value; sd3tune runs no command of this file"),
    ("\nK='a", "`c.env:2`: no closing quotation, or a backslash at the end: `'a`", "close the quotes, or remove the backslash at the end"),
    ("K=$(date)", f"`c.env:1`: `$(` is a command to a shell, {NO_COMMAND}: `$(date)`", LITERAL),
    ("K=a; rm x", f"`c.env:1`: `;` is a second command to a shell, {NO_COMMAND}: `; rm x`", LITERAL),
    ("K=a && b", f"`c.env:1`: `&` is a second command to a shell, {NO_COMMAND}: `&& b`", LITERAL),
    ("K=a | b", f"`c.env:1`: `|` is a pipe to a shell, {NO_COMMAND}: `| b`", LITERAL),
    ("K=a > b", f"`c.env:1`: `>` is writing a file to a shell, {NO_COMMAND}: `> b`", LITERAL),
    ("K=(a b)", f"`c.env:1`: `(` is a subshell or a list to a shell, {NO_COMMAND}: `(a b)`", LITERAL),
    ('K="`date`"', f"`c.env:1`: ``` is a command to a shell, {NO_COMMAND}: ``date`\"`", LITERAL),
    ('A=1\nK="\n${A:-$(date)}"', f"`c.env:3`: `$(` is a command to a shell, {NO_COMMAND}: `$(date)}}\"`", LITERAL),
    ("K=${A%x}", "`c.env:1`: `${A%x}` is not supported; of `${NAME…}`, sd3tune knows `:-`, `-`, `:=`, `=`, `:+`, `+`, `:?` and `?`", LITERAL),
    ("K=${A:?no A}", "`c.env:1`: A is not set: no A", "export A in the shell that starts sd3tune, or write it in the file"),
    ('A="b\nexport B=c', "`c.env:1`: no closing quotation, or a backslash at the end: `\"b`", "close the quotes, or remove the backslash at the end"),
    ("HF_TOKEN=secret", "`c.env`: HF_TOKEN is read from the environment, not from this file", "export HF_TOKEN in the shell that starts sd3tune"),
    ("MAX_NUM_STEPS=1\nMAX_TRAIN_STEPS=2", "`c.env`: two variables set `max_train_steps`, the second is MAX_TRAIN_STEPS", "remove one of the two"),
    ("TRAINER_EXTRA_ARGS=\"--a 'b\"", "`c.env`: TRAINER_EXTRA_ARGS has an open quote: `--a 'b`", "close the quote"),
    ('TRAINER_EXTRA_ARGS="--a=1 2"', "`c.env`: TRAINER_EXTRA_ARGS: `2` belongs to no --setting", "write --name=value"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_ENV, ids=lambda case: case[0][:20])
def test_a_bad_env_file_is_refused_in_these_words(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.env").write_text(case[0])
    with pytest.raises(ConfigError) as e:
        read_env(Path("c.env"))
    assert (str(e.value), e.value.hint) == case[1:]


def test_a_project_is_the_parent_of_the_nearest_config_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_folder(Path("/a/config/b/config/c/x.json")) == Path("/a/config/b")
    assert project_folder(Path("config/x.json")) == tmp_path
    assert project_folder(Path("elsewhere/x.json")) == tmp_path


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_single_quotes_keep_any_line_as_it_is(tmp_path_factory: Any, text: str) -> None:
    text = "".join(c for c in text if c not in "'\0\r\n")
    path = tmp_path_factory.mktemp("env") / "c.env"
    path.write_text(f"K={shlex.quote(text)}", newline="")
    value = literal(text)  # null leaves a setting out, and "x" is x, in words as in JSON
    kept = value if value is None or isinstance(value, str) else text
    assert read_env(path, {"k"}) == ({"k": kept} if text else {})


SOUP = st.lists(
    st.sampled_from(["K", "=", "+=", "'", '"', "\\", "$", "${", "}", "#", " ", "\n", "export ",
                     "TRAINER_EXTRA_ARGS", "--", "`", "(", "lora_rank", "8", "é", "\t", "\r"]),
    max_size=30,
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(SOUP)
def test_an_env_file_of_anything_is_read_or_refused(tmp_path_factory: Any, text: str) -> None:
    path = tmp_path_factory.mktemp("env") / "c.env"
    path.write_text(text, newline="")
    try:
        Config.load(path)
    except ConfigError as e:
        assert "\n" not in f"{e}{e.hint}"


NAMES = st.sampled_from(sorted(Config.model_fields)) | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(NAMES, JSON.map(json.dumps) | st.text(max_size=20))
def test_any_word_is_read_or_refused(tmp_path_factory: Any, name: str, value: str) -> None:
    path = tmp_path_factory.mktemp("c") / "config.json"
    path.write_text('{"output_dir": "o", "max_train_steps": 9}')
    try:
        Config.load(path, [f"{name}={value}"]).to_json()
    except ConfigError as e:
        assert "\n" not in f"{e}{e.hint}"


@settings(max_examples=400, deadline=None)
@given(NAMES, JSON)
def test_any_file_is_read_or_refused(tmp_path_factory: Any, name: str, value: Any) -> None:
    path = tmp_path_factory.mktemp("c") / "config.json"
    path.write_text(json.dumps({"output_dir": "o", "max_train_steps": 9, name: value}))
    try:
        Config.load(path).to_json()
    except ConfigError as e:
        assert "\n" not in f"{e}{e.hint}"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_words_of_a_text_setting_arrive_unchanged(text: str) -> None:
    got = words(f"revision={text}", texts=TEXTS)["revision"]
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = text
    assert got == (parsed if parsed is None or isinstance(parsed, str) else text)


def test_dashes_are_one_name_however_written() -> None:
    written = without_dashes({"--lora-rank": 1}, Path("c"), Problems())
    assert (written.values, written.keys) == ({"lora_rank": 1}, {"lora_rank": "--lora-rank"})
    assert words("--lora-rank=1") == {"lora_rank": 1}
