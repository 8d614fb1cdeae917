"""What is in the images, and what must not be."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import sd3tune
from tests.docker.conftest import ROOT, Start, build, docker


def config(image: str) -> dict[str, object]:
    return dict(json.loads(docker("image", "inspect", image).out)[0]["Config"])


def inside(image: str, script: str) -> str:
    answer = docker("run", "--rm", "--network", "none", "--entrypoint", "bash", image, "-c", script)
    assert answer.code == 0, answer.err
    return answer.out


def test_labels_init_health_and_volume_are_stated(image: str) -> None:
    found = config(image)
    labels = found["Labels"]
    assert isinstance(labels, dict)
    for name in ("title", "description", "version", "revision", "licenses", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"] not in ("", "unknown")
    assert labels["org.opencontainers.image.version"] == sd3tune.__version__
    assert found["Entrypoint"] == ["tini", "--", "sd3tune-entrypoint"]
    assert found["StopSignal"] == "SIGTERM" and found["Volumes"] == {"/workspace": {}}
    assert found["Healthcheck"]["Test"] == ["CMD", "sd3tune-health"]  # type: ignore[index]


def test_no_private_host_key_and_no_secret_is_baked_in(image: str) -> None:
    assert inside(image, "ls /etc/ssh/ | grep -c host_key || true").strip() == "0"
    assert inside(image, "find /root/.ssh /run/secrets -type f 2>/dev/null || true").strip() == ""
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).out
    assert "sd3tune-entrypoint" in history and "http://127.0.0.1" not in history  # secret `links`
    assert not config(image).get("ExposedPorts")
    variables = config(image)["Env"]
    assert isinstance(variables, list)
    for word in ("TOKEN", "PASSWORD", "SECRET", "_KEY"):
        assert word not in history and not any(word in variable for variable in variables)


def test_the_bill_of_materials_names_every_installed_package(image: str) -> None:
    bill = json.loads(inside(image, "cat /usr/share/sd3tune/sbom.json"))
    listed = {(c["name"], c["version"]) for c in bill["components"]}
    script = "from importlib.metadata import distributions as all"
    script += "; print(*(f'{d.name}=={d.version}' for d in all()))"
    installed = inside(image, f'/opt/venv/bin/python -c "{script}"').split()
    missing = (
        {tuple(p.split("==")) for p in installed} - listed - {("sd3tune", sd3tune.__version__)}
    )
    assert bill["bomFormat"] == "CycloneDX" and len(listed) > 50 and not missing


def test_python_starts_without_compiling_anything(image: str) -> None:
    said = inside(image, "cd /tmp && python -v -c 'import click, torch, sd3tune.cli' 2>&1")
    assert "matches" in said and "bytecode is stale" not in said and "wrote" not in said


def test_amd_management_library_is_out_of_pytorchs_sight(images: dict[str, str]) -> None:
    seen = "python -c 'import importlib.util as u; print(u.find_spec(\"amdsmi\"))'"
    assert inside(images["rocm"], seen).strip() == "None"
    assert "ModuleSpec" in inside(images["rocm"], f'PYTHONPATH="$SD3TUNE_AMDSMI" {seen}')


def test_a_compiler_is_there_for_kernels_made_at_run_time(image: str) -> None:
    script = (
        'printf "#include <Python.h>\\nint main(){return 0;}" > /tmp/a.c'
        " && gcc $(python3-config --includes) -o /tmp/a /tmp/a.c && /tmp/a && echo built"
    )
    assert inside(image, script).strip() == "built"


@pytest.mark.parametrize("kind", ["cuda", "rocm"])
def test_a_change_of_the_code_rebuilds_in_seconds(
    kind: str, images: dict[str, str], tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    for name in ("docker", "sd3tune"):  # with what is not committed yet
        shutil.copytree(ROOT / name, clone / name, dirs_exist_ok=True)
    module = clone / "sd3tune" / "__init__.py"
    module.write_text(module.read_text() + f"\nCHANGED = {time.time()!r}\n")
    started = time.monotonic()
    answer = build(kind, f"sd3tune-test:{kind}-changed", clone)
    seconds = time.monotonic() - started
    print(f"{kind}: rebuilt in {seconds:.1f} s")
    assert answer.code == 0, answer.err[-2000:]
    layers = [
        json.loads(docker("image", "inspect", tag).out)[0]["RootFS"]["Layers"]
        for tag in (images[kind], f"sd3tune-test:{kind}-changed")
    ]
    docker("rmi", f"sd3tune-test:{kind}-changed")
    assert layers[0][:-1] == layers[1][:-1] and layers[0] != layers[1]


def test_a_waiting_container_stops_at_once(image: str, start: Start) -> None:
    one = start("-e", "RUNPOD_POD_ID=1", image)
    one.until_said("sd3tune: waiting")
    docker("stop", "-t", "60", one.number)  # killed after that, which is exit code 137
    assert one.code() == 143
