"""The manifests of examples/cluster are what their schedulers read, and every command in them and
in the guide is one that sd3tune and torchrun take.

Kubernetes: its own schemas, strict, as the package kubernetes-validate carries them. SkyPilot
cannot be installed beside sd3tune (it pins click below 8.2): its own schema is recorded in
tests/schemas. Examples that `sd3tune cloud write` writes are compared with it in test_cloud.py.
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
from sd3tune.config.config import Config
from tests.schemas import checker

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
TEMPLATES = ROOT / "docker" / "templates"
GUIDE = ROOT / "docs" / "guides" / "devices.md"
CLOUDS = ROOT / "docs" / "guides" / "clouds.md"
# Kubeflow's is checked with its own models in test_cloud.py.
MANIFESTS = sorted(p for p in (CLUSTER / "kubernetes").glob("*.yaml") if p.stem != "kubeflow")
# Words before a command: the shell's, and the image's entrypoint, which takes the words of sd3tune.
LEADING = ("exec", "sudo", "sd3tune-entrypoint")
KUBERNETES = ("1.31", "1.37")  # podFailurePolicy is stable since 1.31
SKYPILOT = "skypilot-task-0.14.1"
TASKS = sorted(CLUSTER.glob("skypilot*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(path: Path) -> list[dict[str, Any]]:
    return [d["spec"]["template"]["spec"] for d in documents(path) if d["kind"] == "Job"]


def in_manifests() -> list[list[str]]:
    return [pod["containers"][0]["args"] for path in MANIFESTS for pod in pods(path)]


def in_text(text: str) -> list[list[str]]:
    """Shell commands that start sd3tune; comments and leading words of the shell are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$\([^()]*\([^()]*\)[^()]*\)|\$\((?:[^()]|\(\([^()]*\)\))*\)", "0", line)
        words = shlex.split(line, comments=True)
        while words and (words[0] in LEADING or re.match(r"[A-Z_0-9]+=|--preserve-env=", words[0])):
            words.pop(0)
        if words and words[0] in ("sd3tune", "torchrun", "accelerate", "train"):
            found.append(words)
    return found


def in_guide(path: Path = GUIDE) -> list[list[str]]:
    return in_text("\n".join(re.findall(r"```(?:bash)?\n(.*?)```", path.read_text(), re.S)))


def in_skypilot() -> list[list[str]]:
    return [w for path in TASKS for w in in_text(yaml.safe_load(path.read_text())["run"])]


def ours(words: list[str]) -> list[str]:
    """What sd3tune gets: after its name in a launcher's words; all of it after the entrypoint."""
    return words[words.index("sd3tune") + 1 :] if "sd3tune" in words else words


COMMANDS = [*in_manifests(), *in_skypilot(), *in_guide(), *in_guide(CLOUDS)]


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


@pytest.mark.parametrize("path", TASKS, ids=lambda p: p.stem)
def test_a_task_is_what_skypilot_reads(path: Path) -> None:
    task = yaml.safe_load(path.read_text())
    checker(SKYPILOT).validate(task)
    for words in (task.get("setup", ""), task["run"]):
        assert subprocess.run(["bash", "-n"], input=words, text=True).returncode == 0
    assert task["secrets"] == {"HF_TOKEN": None}


@pytest.mark.parametrize(
    "change",
    [
        {"resources": {"use_spots": True}},
        {"resources": {"accelerators": ["A100:1"], "disk_size": "big"}},
        {"resources": {"infra": "moon"}},
        {"file_mounts": {"/a": {"name": "b", "mode": "MOUNTED"}}},
        {"num_nodes": "two"},
        {"environment": {}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_broken_task_is_refused(change: dict[str, Any]) -> None:
    task = yaml.safe_load(TASKS[0].read_text())
    with pytest.raises(jsonschema.ValidationError):
        checker(SKYPILOT).validate(task | change)


@pytest.mark.parametrize("path", [p for p in MANIFESTS if pods(p)], ids=lambda p: p.stem)
def test_pods_get_the_time_the_memory_and_the_names_that_a_run_needs(path: Path) -> None:
    from sd3tune.processes.environment import SAVE_SECONDS

    (pod,) = pods(path)
    container, claims = pod["containers"][0], documents(CLUSTER / "kubernetes" / "claims.yaml")
    assert pod["terminationGracePeriodSeconds"] > SAVE_SECONDS
    volumes = {v["name"]: v for v in pod["volumes"]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    name = mounts["/workspace"]["persistentVolumeClaim"]["claimName"]
    assert [(c["metadata"]["name"], c["spec"]["accessModes"]) for c in claims] == [
        (name, ["ReadWriteMany"])
    ]
    words = " ".join([*container["args"], "num_processes=1"])  # where nothing is given
    count = re.search(r"(?:--nproc-per-node|num_processes)=(\d+)", words)
    limits = container["resources"]["limits"]
    (gpus,) = [n for key, n in limits.items() if key.endswith("/gpu")]
    assert count is not None and int(count[1]) == gpus
    assert "command" not in container  # would take the place of the image's ENTRYPOINT
    tag = {"nvidia.com/gpu": "cuda", "amd.com/gpu": "rocm"}
    assert [container["image"].split(":")[1]] == [tag[k] for k in limits if k in tag]


@pytest.mark.parametrize("path", [p for p in MANIFESTS if pods(p)], ids=lambda p: p.stem)
def test_a_pod_has_no_privilege_and_what_it_takes_to_have_none(path: Path) -> None:
    (pod,) = pods(path)
    assert pod["automountServiceAccountToken"] is False  # the cluster's own token
    (container,), security = pod["containers"], pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == security["fsGroup"] == 1000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    if "amd" in path.stem:
        assert 44 in security["supplementalGroups"]  # and the group render, whose number differs
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (tmp,) = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/tmp"]
    assert any(v["name"] == tmp and "emptyDir" in v for v in pod["volumes"])


@pytest.mark.parametrize("path", [p for p in MANIFESTS if pods(p)], ids=lambda p: p.stem)
def test_only_pods_of_the_same_job_may_connect_to_a_pod(path: Path) -> None:
    (policy,) = [d["spec"] for d in documents(path) if d["kind"] == "NetworkPolicy"]
    (job,) = [d for d in documents(path) if d["kind"] == "Job"]
    own = {"matchLabels": {"batch.kubernetes.io/job-name": job["metadata"]["name"]}}
    assert policy["podSelector"] == own and policy["policyTypes"] == ["Ingress"]
    peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
    assert peers == ([{"podSelector": own}] if job["spec"].get("completions") == 2 else [])


@pytest.mark.parametrize("vendor", ["nvidia", "amd"])
def test_two_pods_meet_at_the_name_that_the_service_gives(vendor: str) -> None:
    service, _, job = documents(CLUSTER / "kubernetes" / f"two-nodes-{vendor}.yaml")
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert service["spec"]["clusterIP"] == "None" and job["spec"]["completionMode"] == "Indexed"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    command = pod["containers"][0]["args"]
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:{port}" in command
    assert f"--nnodes={job['spec']['completions']}" in command
    assert job["spec"]["completions"] == job["spec"]["parallelism"]


def test_the_guide_shows_every_way_to_start() -> None:
    assert {words[0] for words in in_guide()} == {"sd3tune", "torchrun", "accelerate"}


@pytest.mark.parametrize(
    "words", [w for w in COMMANDS if w[0] in ("torchrun", "accelerate")], ids=lambda w: w[0]
)
def test_a_launcher_starts_the_installed_command(words: list[str]) -> None:
    """`-m sd3tune` would import from the working directory first."""
    before = words[: words.index("sd3tune")]
    assert "-m" not in before and before[-1] in ("--no-python", "--no_python")


@pytest.mark.parametrize("words", COMMANDS, ids=lambda w: " ".join(w)[:60])
def test_sd3tune_takes_the_command(words: list[str]) -> None:
    name, *rest = ours(words)
    command = cli.commands[name]
    context = command.make_context(name, [w.replace("$", "") for w in rest])
    for word in context.params.get("arguments", ()):
        assert isinstance(command, click.Command)
        if "=" in word:
            assert word.split("=")[0] in Config.model_fields, word


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    "words", [w for w in COMMANDS if w[0] == "torchrun"], ids=lambda w: " ".join(w)[:60]
)
def test_torchrun_has_the_options(words: list[str]) -> None:
    """Read from its source: importing it would load torch."""
    from importlib.util import find_spec

    package = find_spec("torch")
    assert package is not None and package.origin is not None
    source = (Path(package.origin).parent / "distributed" / "run.py").read_text()
    for option in (w.split("=")[0] for w in words[: words.index("sd3tune")] if w.startswith("--")):
        assert f'"{option}"' in source, option


def test_the_guide_to_clouds_shows_a_run_on_each_and_says_that_nobody_tried() -> None:
    text = CLOUDS.read_text()
    assert "**Untested on the platforms**" in text.split("##")[0]
    assert len([w for w in in_guide(CLOUDS) if "train" in w]) >= 2
    headings = set(re.findall(r"^## (.*)", text, re.M))
    assert {"RunPod", "Vast.ai", "TensorDock"} <= headings
    assert {"SkyPilot", "Kubernetes"} <= set(re.findall(r"^### (.*)", text, re.M))


@pytest.mark.parametrize("path", [CLOUDS, TEMPLATES / "README.md"], ids=lambda p: p.name)
def test_links_and_files_named_in_commands_exist(path: Path) -> None:
    text = path.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links and not [x for x in links if not (path.parent / x).exists()]
    named = re.findall(r"(?<![\w/.])(?:docker|examples)/[\w/.-]+\.(?:yaml|json|sh|md)\b", text)
    assert not [x for x in named if not (ROOT / x).exists()]


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.stem)
def test_no_line_of_a_guide_starts_a_module_from_the_working_directory(path: Path) -> None:
    """Lines for users. `python -m sd3tune.…` and `tests.…` write documents of this repository."""
    blocks = re.findall(r"```(?:bash)?\n(.*?)```", path.read_text(), re.S)
    found = re.findall(r"python[\d.]* (?!-I )-[cm] .*|.* -m sd3tune.*", "\n".join(blocks))
    assert found == []


def test_guides_say_that_several_machines_need_a_private_network() -> None:
    for text in (GUIDE.read_text(), (CLUSTER / "skypilot.yaml").read_text()):
        assert "private network only" in text.lower()


def test_settings_named_in_the_guide_exist() -> None:
    named = set(re.findall(r"`([a-z]\w*_\w+)(?:=[\w.-]+)?`", GUIDE.read_text()))
    known = set(Config.model_fields) | {"cache_dir", "cache_dir_vae"}  # those two of datasets
    assert named and named <= known, named - known
