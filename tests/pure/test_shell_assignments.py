"""A config.env means what bash makes of it, runs nothing, and has all its problems reported."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sd3tune.config.config import Config, read
from sd3tune.config.files.shell_assignments import Assignments, read_assignments
from sd3tune.config.problems import Problems

ENVIRON = {"SET": "set value", "EMPTY": "", "HOME": "/home/u"}
AS_BASH = r"""
A1=plain A2="two  words"   A3='$SET "x"'
export B1=1 B2=$A1 B3="$A1$B2" # B2 as it was before the line
export UNUSED
C1=${SET} C2=$SET C3=${NO:-a b} C4=${EMPTY:-x} C5=${EMPTY-x} C6=${NO-}
D1=${SET:+yes} D2=${NO:+yes} D3=${EMPTY:+yes} D4=${EMPTY+yes}
E1=${E2:=new} E3=$E2 E4=${SET:=other} E5=${EMPTY=other}
F1="${NO:-"quoted word"} '${NO:-'single'}'" F2=${NO:-'a b'"c d"} F3="${NO:-}}"
G1=a\
b G2="c\
d" G3='e
f'
G4=g # comment \
G5=h
H1+=new H1+=" more" H2="a"
H3=a#b H4="a # b" H5=it\'s\ \$5 H6="cost \$5 \\ \" \x" H7=$ H8="$ x$" H9=$/x
I1=${NO:-${SET:-deep}} I2="${I3:=${A1:+nested}}" I4=${A1:+${I5:=not}} I6=${SET:+${I7:=set}}
J1=ü K1=é"日本"
  export  L1=blanks
M1="a
b"M2
N1=--key=value N2="x=y" N3=a=b
TRAINER="--one"
TRAINER="${TRAINER} --two"
"""


def assignments(text: str) -> tuple[Assignments, list[str]]:
    problems = Problems()
    found = read_assignments(text, "c.env", ENVIRON, problems)
    return found, [problem.message for problem in problems.ordered()]


def bash(text: str, folder: Path) -> dict[str, str]:
    """The variables that bash has after it read the text."""
    (folder / "c.env").write_text(text)
    program = "import os, json; print(json.dumps(dict(os.environ)))"
    script = f". {folder}/c.env; {sys.executable} -c '{program}'"
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-ac", script],
        env=ENVIRON, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def test_values_are_those_of_bash(tmp_path: Path) -> None:
    found, problems = assignments(AS_BASH)
    assert problems == []
    expected = bash(AS_BASH, tmp_path)
    assert len(found.values) == 53
    assert found.values == {name: expected[name] for name in found.values}


PIECES = ["x", "'a  b'", '"c $S"', "$S", "${S}", "${N:-d e}", "${N-f}", "${S:+g}", "${N+h}",
          "${O:=i}", '"${N:-"j k"}"', "\\ ", "\\$", '"\\$"', "#", "=", '"\\\n"', "'\n'", '"\'"',
          "${E:-l}", "${E-m}", '"${S:+$O}"', "${N:-'}'}", "é"]  # fmt: skip


def test_random_assignments_are_those_of_bash(tmp_path: Path) -> None:
    draw = random.Random(3)
    lines = ["S='s  t'", "E="]
    for number in range(400):
        value = "".join(draw.choices(PIECES, k=draw.randint(1, 4)))
        plus = draw.choice(["", "", "+"])
        lines.append(f"{draw.choice(['', 'export '])}V{number % 150}{plus}=x{value}")
    text = "\n".join(lines)
    found, problems = assignments(text)
    expected = bash(text, tmp_path)
    assert problems == [] and found.values == {name: expected[name] for name in found.values}


def test_every_line_that_a_shell_would_run_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "A=$(touch ran)", "B=`touch ran`", "C=1; touch ran", "D=1 && touch ran", "E=1 | touch ran",
        "F=1 > ran", "G=1 < x", "(touch ran)", "touch ran", ". ./other.env", "source other.env",
        'H="$(touch ran)"', "I=${X:-`touch ran`}", "J=$((1+1))", "if true", "K=1 &", "export -f x",
        "L=<(touch ran)", "unset M", "N=$'a'", "O=$1", "P=${!A}", "function f", "Q=1\\", "eval X=1",
    ]  # fmt: skip
    text = "GOOD=1\n" + "\n".join(lines[:-2]) + "\nLAST=2\n" + "\n".join(lines[-1:])
    found, problems = assignments(text)
    refused = [int(message.split("`")[1].split(":")[1]) for message in problems]
    assert refused == [*range(2, len(lines)), len(lines) + 1]
    assert found.values["GOOD"] == "1" and found.values["LAST"] == "2"
    (tmp_path / "c.env").write_text(text)
    monkeypatch.chdir(tmp_path)
    read(tmp_path / "c.env")
    assert not (tmp_path / "ran").exists()


def test_a_setting_that_another_line_uses_is_still_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_text(
        "export BASE_DIR=/data\nexport RESOLUTION=512\nexport MINIMUM_RESOLUTION=$RESOLUTION\n"
        'export OUTPUT_DIR="${BASE_DIR}/out"\nexport MAX_NUM_STEPS=5\n'
    )
    config = Config.load(path)
    assert (config.resolution, config.minimum_image_size) == (512, 512)
    assert config.output_dir == Path("/data/out")
    assert config.source("output_dir").line == 4


def test_a_variable_that_nobody_sets_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_text(
        "OUTPUT_DIR=$NO_SUCH_DIR/out\nMAX_NUM_STEPS=5\n"
        'TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --seed=1"\nVALIDATION_PROMPT="${NO_PROMPT:-a}"'
    )
    assert [n for n in Config.load(path).notes if "NO_SUCH_DIR is empty in line 1" in n]
    assert not [n for n in Config.load(path).notes if "EXTRA" in n or "NO_PROMPT" in n]


def test_no_secret_of_the_environment_is_inserted_in_any_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = tmp_path / "config.env"
    for form in (
        "$HF_TOKEN",
        "${HF_TOKEN:-x}",
        "${HF_TOKEN-x}",
        "${NO:-$HF_TOKEN}",
        '"${HF_TOKEN:=x}"',
    ):
        path.write_text(f"OUTPUT_DIR={form}\nMAX_NUM_STEPS=5")
        assert any("looks like a secret" in p.message for p in read(path).problems), form
