"""The manifests of examples/cluster are what their schedulers read, and every command in them and
in the guide is one that sd3tune and torchrun take.

Kubernetes: its own schemas, strict, as the package kubernetes-validate carries them. SkyPilot
cannot be installed beside sd3tune (it pins click below 8.2), so its file is checked against the
part of the schema of its release 0.14.1 (sky/utils/schemas.py) that the file uses, written down
here: what is not named here is refused.
"""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from sd3tune.cli import cli
from sd3tune.config.settings import Config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
GUIDE = ROOT / "docs" / "guides" / "devices.md"
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
KUBERNETES = ("1.31", "1.37")  # podFailurePolicy is stable since 1.31
WORDS = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
SKYPILOT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "num_nodes": {"type": "integer"},
        "workdir": {"type": "string"},
        "envs": WORDS,
        "secrets": WORDS,
        "setup": {"type": "string"},
        "run": {"type": "string"},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "accelerators": {"type": "string", "pattern": r"^[\w-]+:\d+$"},
                "use_spot": {"type": "boolean"},
                "disk_size": {"type": "integer"},
                "job_recovery": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "strategy": {"enum": ["EAGER_NEXT_REGION", "FAILOVER"]},
                        "max_restarts_on_errors": {"type": "integer", "minimum": 0},
                    },
                },
            },
        },
        "file_mounts": {
            "type": "object",
            "additionalProperties": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "mode": {"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
                        },
                    },
                ]
            },
        },
    },
}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(path: Path) -> list[dict[str, Any]]:
    return [d["spec"]["template"]["spec"] for d in documents(path) if d["kind"] == "Job"]


def in_manifests() -> list[list[str]]:
    return [pod["containers"][0]["command"] for path in MANIFESTS for pod in pods(path)]


def in_text(text: str) -> list[list[str]]:
    """Shell commands that start sd3tune; comments and leading words of the shell are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$\([^()]*\([^()]*\)[^()]*\)|\$\((?:[^()]|\(\([^()]*\)\))*\)", "0", line)
        words = [w for w in shlex.split(line, comments=True) if w != "exec"]
        if words and words[0] in ("sd3tune", "torchrun", "accelerate"):
            found.append(words)
    return found


def in_guide() -> list[list[str]]:
    return in_text("\n".join(re.findall(r"```(?:bash)?\n(.*?)```", GUIDE.read_text(), re.S)))


def in_skypilot() -> list[list[str]]:
    return in_text(yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())["run"])


def ours(words: list[str]) -> list[str]:
    """What sd3tune gets: after `-m sd3tune` of a launcher."""
    return words[1:] if words[0] == "sd3tune" else words[words.index("sd3tune") + 1 :]


COMMANDS = [*in_manifests(), *in_skypilot(), *in_guide()]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_are_what_kubernetes_reads(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    job = next(d for d in documents(MANIFESTS[-1]) if d["kind"] == "Job")
    job["spec"]["template"]["spec"]["restartPolice"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError, match="restartPolice"):
        kubernetes_validate.validate(job, KUBERNETES[0], strict=True)


def test_the_task_is_what_skypilot_reads() -> None:
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    jsonschema.validate(task, SKYPILOT)
    for words in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=words, text=True).returncode == 0
    with pytest.raises(jsonschema.ValidationError, match="use_spots"):
        jsonschema.validate(task | {"resources": {"use_spots": True}}, SKYPILOT)


@pytest.mark.parametrize("path", [p for p in MANIFESTS if pods(p)], ids=lambda p: p.stem)
def test_pods_get_the_time_the_memory_and_the_names_that_a_run_needs(path: Path) -> None:
    from sd3tune.train.launch import SAVE_SECONDS

    (pod,) = pods(path)
    container, claims = pod["containers"][0], documents(CLUSTER / "kubernetes" / "claims.yaml")
    assert pod["terminationGracePeriodSeconds"] > SAVE_SECONDS
    volumes = {v["name"]: v for v in pod["volumes"]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    name = mounts["/project"]["persistentVolumeClaim"]["claimName"]
    assert [(c["metadata"]["name"], c["spec"]["accessModes"]) for c in claims] == [
        (name, ["ReadWriteMany"])
    ]
    count = re.search(r"--nproc(?:-per-node)?=(\d+)", " ".join(container["command"]))
    limits = container["resources"]["limits"]
    (gpus,) = [n for key, n in limits.items() if key.endswith("/gpu")]
    assert count is not None and int(count[1]) == gpus


@pytest.mark.parametrize("vendor", ["nvidia", "amd"])
def test_two_pods_meet_at_the_name_that_the_service_gives(vendor: str) -> None:
    service, job = documents(CLUSTER / "kubernetes" / f"two-nodes-{vendor}.yaml")
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert service["spec"]["clusterIP"] == "None" and job["spec"]["completionMode"] == "Indexed"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    command = pod["containers"][0]["command"]
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:{port}" in command
    assert f"--nnodes={job['spec']['completions']}" in command
    assert job["spec"]["completions"] == job["spec"]["parallelism"]


def test_the_guide_shows_every_way_to_start() -> None:
    assert {words[0] for words in in_guide()} == {"sd3tune", "torchrun", "accelerate"}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda w: " ".join(w)[:60])
def test_sd3tune_takes_the_command(words: list[str]) -> None:
    name, *rest = ours(words)
    command = cli.commands[name]
    context = command.make_context(name, [w.replace("$", "") for w in rest])
    for word in context.params.get("words", ()):
        assert isinstance(command, click.Command)
        if "=" in word:
            assert word.split("=")[0] in Config.model_fields, word


@pytest.mark.parametrize(
    "words", [w for w in COMMANDS if w[0] == "torchrun"], ids=lambda w: " ".join(w)[:60]
)
def test_torchrun_has_the_options(words: list[str]) -> None:
    """Read from its source: importing it would load torch."""
    from importlib.util import find_spec

    package = find_spec("torch")
    assert package is not None and package.origin is not None
    source = (Path(package.origin).parent / "distributed" / "run.py").read_text()
    for option in (w.split("=")[0] for w in words[: words.index("-m")] if w.startswith("--")):
        assert f'"{option}"' in source, option


def test_settings_named_in_the_guide_exist() -> None:
    named = set(re.findall(r"`([a-z]\w*_\w+)(?:=[\w.-]+)?`", GUIDE.read_text()))
    known = set(Config.model_fields) | {"cache_dir", "cache_dir_vae"}  # those two of datasets
    assert named and named <= known, named - known
