"""Inside a container: what doctor says is missing, who may run it, and what is refused."""

import json
import subprocess
from pathlib import Path
from typing import Any

from sd3tune.containers.host_image import KINDS
from tests.docker.conftest import Said, docker, sd3tune

NONE = ("run", "--rm", "--network", "none")
UNPRIVILEGED = ("--user", "1000:1000", "--read-only", "--tmpfs", "/tmp")
FLAGS = {
    "cuda": "docker run --gpus all --shm-size=16g …",
    "rocm": "docker run --device=/dev/kfd --device=/dev/dri --group-add video --group-add render "
    "--ipc=host …",
}


def kind_of(image: str) -> str:
    return image.partition(":")[2]


def findings(answer: Said) -> dict[str, Any]:
    return {f["id"]: f for f in json.loads(answer.out)["findings"]}


def test_doctor_names_the_missing_words_of_docker_run(image: str) -> None:
    answer = docker(*NONE, image, "doctor", "--json")
    found = findings(answer)
    assert answer.code == 1
    name = {"cuda": "container.no-nvidia", "rocm": "container.no-amd"}[kind_of(image)]
    assert found[name]["status"] == "FAIL" and found[name]["fix"] == FLAGS[kind_of(image)]
    assert found["container.shm"]["status"] == "warn"


def test_an_unprivileged_user_on_a_root_nobody_writes_to_gets_the_same(image: str) -> None:
    root = findings(docker(*NONE, image, "doctor", "--json"))
    other = findings(docker(*NONE, *UNPRIVILEGED, image, "doctor", "--json"))
    assert other.keys() == root.keys()
    assert {k: f["status"] for k, f in other.items()} == {k: f["status"] for k, f in root.items()}


def test_enough_shared_memory_is_fine(image: str) -> None:
    answer = docker(*NONE, "--shm-size", "2g", image, "doctor", "--json", "--quick")
    assert findings(answer)["container.shm"]["status"] == "ok"


def test_device_files_of_amd_are_recognised_and_the_rest_is_told(images: dict[str, str]) -> None:
    files = ("--device", "/dev/null:/dev/kfd", "--device", "/dev/zero:/dev/dri/renderD128")
    answer = docker(*NONE, *files, images["rocm"], "doctor", "--json", "--quick")
    found = findings(answer)
    assert answer.code == 1 and "container.no-amd" not in found
    assert [name for name, f in found.items() if f["status"] == "FAIL"] == ["device.none"]


def test_a_user_who_may_not_open_amds_device_files_is_given_the_groups(
    images: dict[str, str], tmp_path: Path
) -> None:
    for name in ("kfd", "renderD128"):
        (tmp_path / name).touch(0o660)
    mounts = ("-v", f"{tmp_path}/kfd:/dev/kfd", "-v", f"{tmp_path}/renderD128:/dev/dri/renderD128")
    answer = docker(*NONE, *UNPRIVILEGED, *mounts, images["rocm"], "doctor", "--json", "--quick")
    group = (tmp_path / "kfd").stat().st_gid
    assert f"--group-add {group}" in findings(answer)["container.amd-permission"]["fix"]


def test_training_on_the_cpu_by_accident_is_refused(image: str, workspace: Path) -> None:
    answer = docker(*NONE, "-v", f"{workspace}:/workspace", image, "train", "config/config.json")
    kind = kind_of(image)
    last = answer.err.strip().splitlines()[-2:]
    assert answer.code == 1 and not (workspace / "output").exists()
    assert last[0].startswith("error: ") and last[1].startswith("hint: docker run --")
    assert {"cuda": "--gpus all", "rocm": "--device=/dev/kfd"}[kind] in last[1]


def test_an_unprivileged_user_trains_on_a_root_nobody_writes_to(
    image: str, workspace: Path
) -> None:
    subprocess.run(["chown", "-R", "1000:1000", str(workspace)], check=True)
    words = ("-v", f"{workspace}:/workspace", "-e", "SD3TUNE_BACKEND=cpu", image)
    less = ("max_train_steps=12", "validation_disable=true")
    answer = docker(*NONE, *UNPRIVILEGED, *words, "train", "config/config.json", *less)
    result = workspace / "output" / "pytorch_lora_weights.safetensors"
    assert answer.code == 0, answer.err[-2000:]
    assert result.stat().st_uid == 1000


def test_another_program_and_sd3tune_by_its_name_run_as_well(image: str) -> None:
    assert docker(*NONE, image, "python", "-c", "print(6 * 7)").out == "42\n"
    assert docker(*NONE, image, "--version").out == docker(*NONE, image, "sd3tune", "--version").out


def test_a_platform_that_replaces_the_entrypoint_finds_the_command(image: str) -> None:
    answer = docker(
        *NONE, "--entrypoint", "/bin/sh", image, "-c", "sd3tune --version; echo $HF_HOME"
    )
    assert answer.out.splitlines()[1:] == ["/workspace/.cache/huggingface"] and answer.code == 0


def test_check_tells_what_a_container_would_lack(images: dict[str, str]) -> None:
    for kind in KINDS:
        answer = sd3tune("image", "check", "--vendor", kind, "--image", images[kind], "--cpu",
                         "--network", "none", "--json")  # fmt: skip
        document = json.loads(answer.out)
        lines = {line["name"]: line for line in document["lines"]}
        assert answer.code == 0 and document["can_train"], answer.out
        assert lines["image"]["status"] == "ok" and images[kind] in lines["image"]["fact"]
        assert lines["builder"]["status"] == "ok" and lines["inside"]["status"] == "ok"


def test_image_run_leaves_no_capability_but_those_for_files(images: dict[str, str]) -> None:
    words = ["image", "run", "--vendor", "cuda", "--image", images["cuda"], "--cpu", "--network",
             "none"]  # fmt: skip
    command = [
        "bash",
        "-c",
        "grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status; ls /huggingface",
    ]
    said = sd3tune(*words, "--user", "1000:1000", *command).out.split()
    assert said == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "hub", "xet"]
    said = sd3tune(*words, "--user", "0:0", *command).out.split()
    assert said[1] == said[3] == f"{0b1011:016x}"  # CHOWN, DAC_OVERRIDE, FOWNER


def test_an_image_that_is_not_there_is_one_error_and_one_hint(images: dict[str, str]) -> None:
    words = ("image", "run", "--vendor", "cuda", "--cpu", "--image", "no/such:image", "doctor")
    answer = sd3tune(*words)
    assert answer.code == 1 and answer.out == ""
    assert answer.err.splitlines()[-2:] == [
        "error: there is no image `no/such:image` here",
        "hint: sd3tune image build, or docker pull it",
    ]


def test_the_printed_command_does_what_image_run_does(
    images: dict[str, str], workspace: Path
) -> None:
    script = "import os; print(os.environ['A'], os.environ['HF_HOME'], os.getcwd())"
    words = ["image", "run", "--print", "--vendor", "cuda", "--image", images["cuda"], "--cpu",
             "--network", "none", "--workspace", str(workspace), "--env", "A=b c",
             "python", "-c", script]  # fmt: skip
    line = sd3tune(*words).out
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout == "b c /huggingface /workspace\n", done.stderr
    assert sd3tune(*[w for w in words if w != "--print"]).out == done.stdout
