"""`sd3tune image run`: what the caller says, and a container as words and for docker's SDK."""

import csv
import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune.containers import run_options
from sd3tune.containers.container_spec import Container, Port, docker_command, sdk_arguments
from sd3tune.containers.host_image import Access
from sd3tune.errors import ContainerError
from tests.nobody import NOBODY, as_nobody

# What the caller says


def test_variables_are_passed_by_name_and_values_only_where_they_were_stated() -> None:
    outer = {"HF_TOKEN": "secret", "A": "1", "EMPTY": "", "HTTP_PROXY": ""}
    asked = ["A", "B=2", "C=x=y", "EMPTY"]
    found, inherited = run_options.environment(run_options.FORWARDED, asked, outer)
    assert found == {"HF_TOKEN": "secret", "A": "1", "B": "2", "C": "x=y", "EMPTY": ""}
    assert inherited == {"HF_TOKEN", "A", "EMPTY"}


@pytest.mark.parametrize(
    "given, value, by_name",
    [
        (["A=1", "A"], "outer", True),
        (["A", "A=1"], "1", False),
        (["HF_TOKEN=x"], "x", False),
        (["HF_TOKEN=x", "HF_TOKEN"], "hf", True),
    ],
)
def test_the_last_word_about_a_variable_decides(
    given: list[str], value: str, by_name: bool
) -> None:
    outer = {"A": "outer", "HF_TOKEN": "hf"}
    found, inherited = run_options.environment(["HF_TOKEN"], given, outer)
    name = given[0].partition("=")[0]
    assert found[name] == value and (name in inherited) == by_name


def test_folders_are_mounted_once_each_and_one_folder_may_be_at_two_places(tmp_path: Path) -> None:
    odd = tmp_path / "a b:c"
    odd.mkdir()
    found = run_options.folders([f"{odd}:/x", f"{odd}:/y/", f"{tmp_path}:/x/z"])
    assert found == {"/x": odd, "/y": odd, "/x/z": tmp_path}
    for word in (
        "",
        "x",
        f"{tmp_path}:",
        f"{tmp_path}:x",
        f"{tmp_path}/no:/x",
        f"{tmp_path}:/x:ro",
    ):
        with pytest.raises(ContainerError, match="--mount ") as e:
            run_options.folders([word])
        assert "--mount /data/images:/images" in e.value.hint
    for inner in ("/y", "/workspace", "/huggingface/", "/y/../workspace", "/huggingface/hub"):
        with pytest.raises(ContainerError, match="is taken") as e:
            run_options.folders([f"{tmp_path}:/y/.", f"{odd}:{inner}"])
        assert "--workspace" in e.value.hint


def test_hugging_faces_folder_is_made_and_is_a_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for said, folder in ((None, "me/.cache/huggingface"), ("", "me/.cache/huggingface"),
                         ("~/hub", "me/hub"), ("hub/x", "hub/x")):  # fmt: skip
        found = run_options.shared_hub({} if said is None else {"HF_HOME": said})
        assert found == tmp_path / folder and (found / "hub").is_dir() and (found / "xet").is_dir()
    (tmp_path / "file").touch()
    for said in ("file", "file/hub", "/proc/hub", "~no_such_user_here/hub"):
        with pytest.raises(ContainerError, match=f"`{said}` cannot be created") as e:
            run_options.shared_hub({"HF_HOME": said})
        assert "HF_HOME" in e.value.hint


def test_sizes_are_those_docker_knows() -> None:
    from docker.utils import parse_bytes

    for word in ("16g", "512m", "1G", "64mb", "1048576", "8Gb"):
        assert parse_bytes(run_options.memory(word)) > 0
    for word in ("", "0", "g", "16x", "16 g", "-1g", "16gg", "lots", "0g", "²g"):
        with pytest.raises(ContainerError, match="--shm-size"):
            run_options.memory(word)


def test_ports_are_numbers_and_an_address_is_one() -> None:
    assert run_options.port("8888:88") == Port("", 8888, 88)
    assert run_options.port("127.0.0.1:2222:22") == Port("127.0.0.1", 2222, 22)
    assert run_options.port("[::1]:2222:22") == Port("::1", 2222, 22)
    wrong = "22 :22 22: a:b 0:22 22:65536 -1:22 localhost:2222:22 1.2.3:2222:22 22:22/udp"
    for word in ("", *wrong.split(), "8000-8010:8000", "²:22", "127.0.0.1::22"):
        with pytest.raises(ContainerError, match="--publish") as e:
            run_options.port(word)
        assert "--publish 8888:8888" in e.value.hint


def test_files_belong_to_who_asked() -> None:
    uid, gid = (NOBODY, NOBODY) if os.getuid() == 0 else (os.getuid(), os.getgid())
    assert as_nobody(lambda: run_options.caller({})) == f"{uid}:{gid}"
    assert as_nobody(lambda: run_options.caller({"SecurityOptions": None})) == f"{uid}:{gid}"
    rootless = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}
    assert as_nobody(lambda: run_options.caller(rootless)) is None
    if os.getuid() == 0:
        assert run_options.caller({}) is None


def test_a_container_keeps_no_privilege_but_what_its_user_needs() -> None:
    one = Container("i", ("x",), Access(), environment={"PUBLIC_KEY": "ssh-ed25519 A"})
    for user in (None, "0", "0:0", "root:1000"):
        assert {"DAC_OVERRIDE", "SETUID"} < set(replace(one, user=user).capabilities)
        without = replace(one, user=user, environment={"PUBLIC_KEY": ""})
        assert set(without.capabilities) == {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
    for user in ("1000:1000", "1000", "me"):
        assert replace(one, user=user).capabilities == ()
    for c in (one, replace(one, user="1000:1000")):
        asked = sdk_arguments(c)
        assert asked["cap_drop"] == ["ALL"] and "no-new-privileges" in asked["security_opt"]


# The same container in two languages

OUTER = {"HF_TOKEN": "hf_secret secret", "A": "outer"}
AMD = Access(devices=("/dev/kfd", "/dev/dri"), groups=("109", "44"), host_ipc=True, seccomp="x")
FULL = Container(
    "i:tag",
    ("plan",),
    Access(),
    mounts={"/workspace": Path("/a b"), "/x": Path("/a b")},
    environment={"HF_TOKEN": OUTER["HF_TOKEN"], "A": 'it\'s "x" $HOME `id`', "E": ""},
    outer=frozenset({"HF_TOKEN"}),
    user="1000:1000",
    network="none",
    ports=(Port("", 1, 2), Port("", 3, 2), Port("::1", 4, 5), Port("127.0.0.1", 6, 7)),
    shm="512m",
    terminal=True,
    entrypoint="bash",
)
ODD = {"/w": Path('/2026-11-25T10:00/a,"b"'), "/c:d": Path("/tmp")}
CONTAINERS = {
    "nvidia": Container("i", ("train", "c.json"), Access(gpus=())),
    "two of nvidia's": Container("i", ("doctor",), Access(gpus=("0", "MIG-1/2"))),
    "by device interface": Container("i", ("doctor",), Access(gpus=(), cdi=True)),
    "two by it": Container("i", ("doctor",), Access(gpus=("0", "2"), cdi=True)),
    "amd": Container("i", ("doctor",), AMD, shm="1g"),
    "everything": FULL,
    "with a hub": Container("i", ("x",), Access(), {"/huggingface/hub": Path("/h/hub")}),
    "as root, with a key": Container("i", ("x",), Access(), environment={"PUBLIC_KEY": "ssh-x y"}),
    "odd folders": Container("i", ("x",), Access(), ODD),
    "odd words": Container(
        "i", ("bash", "-c", "echo 'a  b' \"$X\"; # \\ é\n*", "", "-e"), Access()
    ),
}


def understood(words: list[str], outer: dict[str, str]) -> dict[str, Any]:
    """What docker's command makes of its words, as the body its SDK would send."""
    assert words[:3] == ["docker", "run", "--rm"]
    words = words[3:]
    found: dict[str, Any] = {"tty": False, "environment": {}, "mounts": set(), "ports": {},
                             "devices": [], "group_add": [], "device_requests": []}  # fmt: skip
    cdi = []
    while words[0].startswith("-"):
        flag = words.pop(0)
        if flag == "-it":
            found["tty"] = True
            continue
        value = words.pop(0)
        if flag == "-e":
            name, equals, stated = value.partition("=")
            found["environment"][name] = stated if equals else outer[name]
        elif flag == "-v":
            found["mounts"].add(tuple(value.split(":")))
        elif flag == "--mount":
            (fields,) = csv.reader([value])
            parts = dict(f.split("=", 1) for f in fields)
            assert parts.pop("type") == "bind"
            found["mounts"].add((parts["src"], parts["dst"]))
        elif flag == "-p":
            rest, _, inner = value.rpartition(":")
            address, _, number = rest.rpartition(":")
            found["ports"].setdefault(f"{inner}/tcp", []).append((address.strip("[]"), int(number)))
        elif flag == "--device" and value.startswith("nvidia.com/gpu="):
            cdi.append(value)
        elif flag == "--device":
            found["devices"].append(f"{value}:{value}:rwm")
        elif flag == "--gpus":
            ids = value.strip('"').removeprefix("device=").split(",") if value != "all" else None
            found["device_requests"].append(("", 0 if ids else -1, ids, [["gpu"]]))
        elif flag in ("--group-add", "--cap-add", "--cap-drop", "--security-opt"):
            found.setdefault(flag[2:].replace("-", "_"), []).append(value)
        elif flag == "--tmpfs":
            found["tmpfs"] = dict([value.split(":")])
        else:
            key = {"--ipc": "ipc_mode"}.get(flag, flag.removeprefix("--").replace("-", "_"))
            found[key] = value
    if cdi:
        found["device_requests"].append(("cdi", 0, cdi, None))
    return found | {"image": words[0], "command": words[1:]}


@pytest.mark.parametrize("case", CONTAINERS)
def test_the_printed_command_asks_for_what_the_sdk_asks(case: str) -> None:
    c = CONTAINERS[case]
    asked = sdk_arguments(c)
    asked["mounts"] = {(m["Source"], m["Target"]) for m in asked["mounts"]}
    asked["device_requests"] = [
        (r["Driver"], r["Count"], r["DeviceIDs"] or None, r["Capabilities"] or None)
        for r in asked["device_requests"]
    ]
    printed = understood(shlex.split(docker_command(c)), OUTER)
    assert {k: v for k, v in asked.items() if v} == {k: v for k, v in printed.items() if v}
    assert "hf_secret" not in docker_command(c)


@pytest.mark.parametrize("case", CONTAINERS)
def test_a_shell_reads_the_printed_command_as_it_was_meant(case: str, tmp_path: Path) -> None:
    line = docker_command(CONTAINERS[case])
    script = 'docker() { printf "%s\\0" docker "$@"; }; eval "$(cat)"'
    done = subprocess.run(["bash", "-c", script], input=line, capture_output=True, text=True)
    assert done.stdout.split("\0")[:-1] == shlex.split(line) and done.stderr == ""
    assert done.stdout.split("\0")[:-1][-len(CONTAINERS[case].words) :] == list(
        CONTAINERS[case].words
    )


def test_what_is_described_can_be_sent() -> None:
    """docker's SDK makes a body of it without asking anybody."""
    from docker.models.containers import _create_container_args

    for c in CONTAINERS.values():
        body = _create_container_args(sdk_arguments(c) | {"version": "1.41"})
        assert json.dumps(body["host_config"])
