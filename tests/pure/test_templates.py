"""The templates of docker/templates are what their platforms read, hold no secret, and name only
what the image knows.

The schemas of tests/schemas say in "$comment" where they come from. What no schema can say is
checked here: the driver filter, the environment's names, the commands. Nothing asks a platform.
"""

import argparse
import copy
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.schemas import SCHEMAS, checker, schema

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "docker" / "templates"
CLUSTER = ROOT / "examples" / "cluster"
READ = {".json", ".yaml", ".sh"}
FILES = sorted(p for d in (TEMPLATES, CLUSTER) for p in d.rglob("*") if p.suffix in READ)
IMAGES = {f"registry.example.com/sd3tune:{tag}" for tag in ("cuda", "rocm")}
CUDA = 13.0  # of the wheels in docker/locks/cuda.txt
DRIVER = 580  # the first whose driver runs CUDA 13
# What the image reads, and what compose.yaml and vast/commands.sh ask of the shell that runs them.
KNOWN = set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", (ROOT / "docker" / "entrypoint.sh").read_text()))
KNOWN |= {"HF_TOKEN", "HF_HOME"}
ASKED = {"OFFER", "KEY", "VOLUME", "HOME", "SD3TUNE_PROJECT", "SD3TUNE_USER", "RENDER_GID"}


def read(name: str) -> Any:
    text = (TEMPLATES / name).read_text()
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


RUNPOD = {
    "runpod/template-nvidia.json": "CreateTemplateRequest",
    "runpod/template-amd.json": "CreateTemplateRequest",
    "runpod/pod-nvidia.json": "CreatePodRequest",
    "runpod/pod-amd.json": "CreatePodRequest",
}
VAST_SH = "vast/commands.sh"
VAST = dict.fromkeys(("vast/template-train.json", "vast/template-ssh.json"), "template")
SCHEMA_OF = {
    **{name: ("runpod-v2", part) for name, part in RUNPOD.items()},
    **dict.fromkeys(VAST, ("vast-template", None)),
    "tensordock/instance.json": ("tensordock-instance", None),
    "compose.yaml": ("compose-spec", None),
}


@pytest.mark.parametrize("name", SCHEMA_OF)
def test_a_template_is_what_its_platform_reads(name: str) -> None:
    checker(*SCHEMA_OF[name]).validate(read(name))


def test_every_template_has_a_schema() -> None:
    found = {p.relative_to(TEMPLATES).as_posix() for p in TEMPLATES.rglob("*") if p.is_file()}
    assert found - {"README.md", "vast/commands.sh"} == set(SCHEMA_OF)


def put(*path: Any) -> Callable[[Any], None]:
    """A change: everything but the last word leads to a place, the last is written there."""
    *way, key, value = path

    def change(document: Any) -> None:
        for step in way:
            document = document[step]
        if value is None:
            del document[key]
        else:
            document[key] = value

    return change


ATTRIBUTES = ("data", "attributes")
BROKEN = [
    ("runpod/template-nvidia.json", put("imageName", "x")),  # the word of API v1
    ("runpod/template-nvidia.json", put("allowedCudaVersions", ["13"])),
    ("runpod/template-nvidia.json", put("mounts", {"network": []})),
    ("runpod/template-amd.json", put("category", "ROCM")),
    ("runpod/template-amd.json", put("image", None)),
    ("runpod/template-amd.json", put("env", {"SD3TUNE_STOP_POD": True})),
    ("runpod/pod-nvidia.json", put("gpu", "allowedCudaVersions", ["13.0"])),  # beside a floor
    ("runpod/pod-nvidia.json", put("gpu", "gpuTypeIds", ["x"])),
    ("runpod/pod-nvidia.json", put("gpu", None)),
    ("runpod/pod-nvidia.json", put("cloud", "CHEAP")),
    ("runpod/pod-amd.json", put("interruptible", True)),
    ("runpod/pod-amd.json", put("mounts", "network", 0, "path", None)),
    ("vast/template-ssh.json", put("runtype", "sshd")),
    ("vast/template-ssh.json", put("docker_login_repo", None)),
    (
        "vast/template-train.json",
        put("env", {"HF_TOKEN": "x"}),
    ),  # of an instance
    ("vast/template-train.json", put("extra_filters", {"cuda": {"gte": 13.0}})),
    ("vast/template-train.json", put("extra_filters", {"cuda_max_good": {">=": 13.0}})),
    ("tensordock/instance.json", put(*ATTRIBUTES, "resources", "storage_gb", 99)),
    ("tensordock/instance.json", put(*ATTRIBUTES, "ssh_key", None)),
    ("tensordock/instance.json", put(*ATTRIBUTES, "hostnode_id", "both")),
    ("tensordock/instance.json", put(*ATTRIBUTES, "cloud_init", "#cloud-config")),
    ("tensordock/instance.json", put(*ATTRIBUTES, "cloud_init", "run_cmd", ["x"])),
    ("compose.yaml", put("services", "cuda", "shm", "16gb")),
    ("compose.yaml", put("services", "cuda", "profiles", "cuda")),
    ("compose.yaml", put("services", "rocm", "group_add", "render")),
]


@pytest.mark.parametrize(("name", "change"), BROKEN)
def test_a_broken_field_is_refused(name: str, change: Callable[[Any], None]) -> None:
    document = copy.deepcopy(read(name))
    change(document)
    with pytest.raises(jsonschema.ValidationError):
        checker(*SCHEMA_OF[name]).validate(document)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda p: p.name)
def test_a_recorded_schema_says_where_it_is_from_and_stays_small(path: Path) -> None:
    text = path.read_text()
    document = json.loads(text)
    assert "2026-" in document["$comment"] and len(text) < 300_000
    assert text == json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# What the container is told


def environment(name: str) -> dict[str, str]:
    document = read(name)
    found = document.get("env", {})
    if isinstance(found, str):
        words = shlex.split(found)
        flags = zip(words[::2], words[1::2], strict=True)
        found = dict(value.split("=", 1) for flag, value in flags if flag == "-e")
    return dict(found)


@pytest.mark.parametrize("name", [*RUNPOD, *VAST])
def test_the_image_knows_every_name_of_the_environment(name: str) -> None:
    found = environment(name)
    assert set(found) <= KNOWN, set(found) - KNOWN
    assert found.get("SD3TUNE_STOP_POD", "never") in {"never", "success", "always"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_names_of_images_and_variables_are_ones_that_exist(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"registry\.example\.com/[\w/-]+(?::[\w.-]+)?", text)
    tagged = {i for i in named if ":" in i.split("/")[-1]}
    assert tagged <= IMAGES
    variables = set(re.findall(r"\bSD3TUNE_[A-Z_]+", text))
    assert variables <= KNOWN | ASKED, variables - KNOWN - ASKED


SECRET = re.compile(
    r"hf_[A-Za-z0-9]{8,}|rpa_[A-Z0-9]{8,}|ssh-(?:rsa|ed25519) [A-Za-z0-9+/]{16,}|PRIVATE KEY"
    r"|(?:TOKEN|PASSWORD|API_KEY|SECRET)[\"']?\s*[:=]\s*[\"']?"
    r"(?!\s|null|\"|\$?\{\{ (?:RUNPOD_SECRET_|secrets\.)|$)[^\s\"']+"
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_template_holds_a_secret(path: Path) -> None:
    assert not SECRET.findall(path.read_text())


def test_a_secret_would_be_found() -> None:
    token = "hf_" + "a" * 20
    for text in (f'"HF_TOKEN": "{token}"', "HF_TOKEN=abc", "JUPYTER_PASSWORD: hunter2"):
        assert SECRET.search(text), text
    for text in (
        '"HF_TOKEN": "{{ RUNPOD_SECRET_huggingface_token }}"',
        "HF_TOKEN: null",
        "- HF_TOKEN",
    ):
        assert not SECRET.search(text), text


def commands() -> list[list[str]]:
    """What the image is started with, wherever a template says it."""
    found = [
        shlex.split(read(n)["args"]) for n in ("runpod/pod-nvidia.json", "runpod/pod-amd.json")
    ]
    found.append(shlex.split(read("vast/template-train.json")["args_str"]))
    found += [s["command"] for s in read("compose.yaml")["services"].values()]
    found += [a.args for a in vast_lines("create instance") if a.args and a.args != [""]]
    return found


def test_every_command_is_one_of_sd3tune() -> None:
    from sd3tune.cli import cli
    from sd3tune.config.config import Config

    for name, *rest in commands():
        context = cli.commands[name].make_context(name, list(rest))
        settings = [w.split("=")[0] for w in context.params["arguments"] if "=" in w]
        assert set(settings) <= set(Config.model_fields)


# Who can connect, and as whom it runs


@pytest.mark.parametrize("name", RUNPOD)
def test_runpod_publishes_the_port_of_a_service_that_is_asked_for_and_no_other(name: str) -> None:
    document = read(name)
    assert document["ports"] == (["22/tcp"] if document["startSsh"] else [])
    assert document["startJupyter"] is False and "JUPYTER_PASSWORD" not in document["env"]
    assert document["startSsh"] is name.startswith("runpod/template-")  # a pod with a shell


def test_vast_publishes_the_port_of_ssh_where_a_key_is_given_and_no_other() -> None:
    given = [a.env for a in vast_lines("create instance") if a.env]
    for env in (*given, read("vast/template-train.json")["env"]):
        words = shlex.split(env)
        ports = [value for flag, value in zip(words[::2], words[1::2], strict=True) if flag == "-p"]
        assert ports == (["22:22"] if "SSH_PUBLIC_KEY=" in env else [])
    assert len(given) == 2 and not re.search(r"8888|JUPYTER", (TEMPLATES / VAST_SH).read_text())


def test_own_machines_run_it_without_root_and_privileges() -> None:
    for service in read("compose.yaml")["services"].values():
        assert service["user"] == "${SD3TUNE_USER:-1000:1000}" and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and "ports" not in service
    files = read("tensordock/instance.json")["data"]["attributes"]["cloud_init"]["write_files"]
    texts = [f["content"].replace("\\\n", " ") for f in files]
    runs = [line for text in texts for line in text.splitlines() if "docker run " in line]
    assert len(runs) == 2
    for line in runs:
        words = shlex.split(line)
        assert words[words.index("--cap-drop") + 1] == "ALL" and "--user" in words
        assert words[words.index("--security-opt") + 1] == "no-new-privileges"
        assert not {"-p", "--publish", "-P", "--privileged"} & set(words)


# The driver


def test_runpod_places_cuda_pods_on_cuda_13_only() -> None:
    versions = read("runpod/template-nvidia.json")["allowedCudaVersions"]
    assert versions and min(float(v) for v in versions) >= CUDA
    assert float(read("runpod/pod-nvidia.json")["gpu"]["minCudaVersion"]) >= CUDA
    amd = json.dumps([read("runpod/template-amd.json"), read("runpod/pod-amd.json")])
    assert "Cuda" not in amd and ":rocm" in amd


def test_vast_offers_only_machines_whose_driver_knows_cuda_13() -> None:
    for name in VAST:
        assert read(name)["extra_filters"]["cuda_max_good"]["gte"] >= CUDA
    searches = [" ".join(a.query) for a in vast_lines("search offers")]
    searches += [a.search_params for a in vast_lines("create template")]
    assert len(searches) == 4
    for query in searches:
        wanted = {field: (op, value) for field, op, value in comparisons(query)}
        if wanted.get("gpu_arch") != ("=", "amd"):
            op, value = wanted["cuda_max_good"]
            assert op == ">=" and float(value) >= CUDA


def test_tensordock_checks_the_driver_before_it_installs_anything() -> None:
    setup = read("tensordock/instance.json")["data"]["attributes"]["cloud_init"]["write_files"][0]
    before, _, after = setup["content"].partition("exit 1")
    assert f"-lt {DRIVER} " in before and "nvidia-smi" in before
    assert "apt-get" not in before and "docker pull" in after


@pytest.mark.parametrize(("driver", "code"), [("575.57.08", 1), ("580.65.06", 99), (None, 1)])
def test_an_old_driver_ends_the_setup(driver: str | None, code: int, tmp_path: Path) -> None:
    """Run with an nvidia-smi of ours; past the check, the first command after it exits with 99."""
    files = read("tensordock/instance.json")["data"]["attributes"]["cloud_init"]["write_files"]
    tool = "exit 127" if driver is None else f"echo {driver}"
    for name, body in {"nvidia-smi": tool, "curl": "exit 99", "gpg": "cat"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    answer = subprocess.run(
        ["bash"],
        input=files[0]["content"],
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
    )
    assert answer.returncode == code
    assert (f"needs {DRIVER} or newer" in answer.stderr) == (code == 1)


def test_tensordock_names_the_token_and_never_its_value() -> None:
    cloud_init = read("tensordock/instance.json")["data"]["attributes"]["cloud_init"]
    for file in cloud_init["write_files"]:
        assert subprocess.run(["bash", "-n"], input=file["content"], text=True).returncode == 0
    (run,) = [f["content"] for f in cloud_init["write_files"] if f["path"].endswith("bin/sd3tune")]
    words = shlex.split(run.replace("\\\n", " "), comments=True)
    assert words[words.index("--env") + 1] == "HF_TOKEN"
    assert int(words[words.index("--stop-timeout") + 1]) > 600
    assert {"--gpus", "--shm-size", "--rm"} <= set(words)


# Compose


def test_compose_gives_each_vendor_its_devices_and_the_time_to_save() -> None:
    services = read("compose.yaml")["services"]
    (device,) = services["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["rocm"]["devices"] == ["/dev/kfd", "/dev/dri"]
    assert services["rocm"]["group_add"][0].startswith("${RENDER_GID")
    for service in services.values():
        assert int(service["stop_grace_period"].rstrip("s")) > 600 and service["init"] is False
        assert service["environment"] == ["HF_TOKEN"]  # by name: no value
        assert "env_file" not in service
        assert ("shm_size" in service) != (service.get("ipc") == "host")


# Vast.ai's own command line


class Refused(Exception):
    pass


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise Refused(message)


KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}


def parser(command: str) -> Parser:
    """Vast's parser for this command, put together from what was recorded of it."""
    found = Parser(command, allow_abbrev=False, add_help=False)
    for record in schema("vastai-1.9.1")["commands"][command]:
        options = {k: v for k, v in record.items() if k not in ("names", "type")}
        if "type" in record:
            options["type"] = KINDS[record["type"]]
        found.add_argument(*record["names"], **options)
    return found


def vast_lines(command: str, text: str | None = None) -> list[argparse.Namespace]:
    text = text or (TEMPLATES / "vast" / "commands.sh").read_text()
    text = re.sub(r"\$\(cat \"\$KEY\"\)", "ssh-ed25519 AAAA= me@home", text)
    text = re.sub(r"\"\$(OFFER)\"|\"\$\{VOLUME:\?[^}]*\}\"", "123", text)
    found = []
    for line in text.splitlines():
        if line.startswith(f"vastai {command} "):
            words = shlex.split(line, comments=True)
            found.append(parser(command).parse_args(words[3:]))
    return found


def comparisons(query: str) -> list[tuple[str, str, str]]:
    """Refuses what Vast's parser refuses or warns of: rests, unknown operators, unknown fields."""
    recorded = schema("vastai-1.9.1")
    one = r"(\w+)(?: *(>=|<=|!=|==|=|>|<)| +(in|notin) +) *(\[[^\]]+\]|\"[^\"]+\"|[^ =<>]+)"
    if not re.fullmatch(f"{one}(?: +{one})*", query):
        raise Refused(query)
    found = [(f, sign or word, value) for f, sign, word, value in re.findall(one, query)]
    known = {*recorded["fields"], *recorded["alias"]}
    if unknown := {field for field, _, _ in found} - known:
        raise Refused(f"{query}: {unknown}")
    return found


def test_vast_takes_the_commands() -> None:
    instances = vast_lines("create instance")
    assert len(instances) == 4 and len(vast_lines("search offers")) == 3
    text = (TEMPLATES / "vast" / "commands.sh").read_text()
    assert len(re.findall(r"^vastai ", text, re.M)) == 8  # none went by unread
    for a in instances:
        assert a.image in IMAGES and a.disk >= 60
        assert bool(a.ssh) == (a.args is None)  # --ssh takes the place of the ENTRYPOINT
        assert (a.link_volume is None) == (a.mount_path is None)


def test_vast_takes_what_the_guide_says() -> None:
    text = (ROOT / "docs" / "guides" / "clouds.md").read_text()
    (search,), (instance,) = (vast_lines(c, text) for c in ("search offers", "create instance"))
    assert ("cuda_max_good", ">=", "13.0") in comparisons(" ".join(search.query))
    assert instance.ssh and instance.image in IMAGES


def test_vast_takes_the_searches() -> None:
    for a in vast_lines("search offers"):
        assert comparisons(" ".join(a.query))
        (field,) = a.order.split(",")
        assert field.strip("+-") in schema("vastai-1.9.1")["fields"]
    for name in VAST:
        assert set(read(name)["extra_filters"]) <= set(schema("vastai-1.9.1")["fields"])


def test_vast_would_refuse_these() -> None:
    for line in ("--imag x", "--disk many", "--ssh yes"):
        with pytest.raises(Refused):
            vast_lines("create instance", f"vastai create instance 1 {line}")
    for query in ("cuda_max_god>=13.0", "cuda_max_good=>13.0", "cuda_max_good>=", "num_gpus"):
        with pytest.raises(Refused):
            comparisons(query)


@pytest.mark.parametrize("env", [a.env for a in vast_lines("create instance") if a.env])
def test_vast_keeps_every_word_of_the_docker_options(env: str) -> None:
    """It drops a word that it does not understand, and says nothing."""
    recorded, words = schema("vastai-1.9.1"), shlex.split(env)
    for flag, value in zip(words[::2], words[1::2], strict=True):
        assert flag in recorded["env_flags"]
        if flag == "-p":
            assert set(value) <= set(recorded["port_characters"])
        if flag == "-e":
            assert value.partition("=")[0] in KNOWN and value.partition("=")[2]
