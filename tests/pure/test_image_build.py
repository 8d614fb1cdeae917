"""`sd3tune image build` without an engine: where the sources are, which `docker` can build, and the
words it is given. Programs called `docker` are scripts of ours on PATH.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sd3tune
from sd3tune.containers import build
from sd3tune.containers.build import Build
from sd3tune.errors import ContainerError
from tests.fakes.engine import TAG, Engine
from tests.pure.conftest import Say, Start

ROOT = Path(__file__).parents[2]
OLD = "Docker version 20.10.24+dfsg1, build 297e128"
NEW = "Docker version 28.3.2, build 578ccf6"
BUILDX = "github.com/docker/buildx v0.25.0 faaea65"


def program(folder: Path, version: str, buildx: str | None, then: str = "exit 99") -> Path:
    """A `docker` command."""
    folder.mkdir(exist_ok=True)
    path = folder / "docker"
    plugin = f"echo '{buildx}'" if buildx else "echo \"docker: 'buildx' is no command\" >&2; exit 1"
    path.write_text(f"""#!/bin/sh
case "$1" in
  --version) echo '{version}' ;;
  buildx) {plugin} ;;
  *) {then} ;;
esac
""")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "programs, found",
    [
        ([(NEW, BUILDX)], 0),
        ([(OLD, BUILDX)], 0),
        ([(OLD, None)], 0),  # BuildKit was part of it
        ([(NEW, None), (OLD, BUILDX)], 1),
        ([(NEW, None), (OLD, None)], 1),
        ([(OLD, None), (NEW, BUILDX)], 1),  # the plugin before the old one
        ([("podman version 5.4.0", None), (NEW, BUILDX)], 1),
    ],
)
def test_a_docker_that_can_build_is_chosen(
    programs: list[tuple[str, str | None]],
    found: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [program(tmp_path / str(i), *p) for i, p in enumerate(programs)]
    folders = [str(tmp_path / "none"), "", *(str(p.parent) for p in paths)]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    assert build.builder() == str(paths[found])


@pytest.mark.parametrize("version", [NEW, "Docker version 23.0.6, build 1", "podman version 5.4.0"])
def test_a_docker_that_cannot_build_names_the_plugin(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path, version, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ContainerError, match=f"`{path}` has no BuildKit") as e:
        build.builder()
    assert "docker-buildx-plugin" in e.value.hint


def test_no_docker_at_all_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ContainerError, match="`docker` was not found") as e:
        build.builder()
    assert "docker-buildx" in e.value.hint


def test_the_words_of_a_build() -> None:
    asked = Build("rocm", "me/x:1", ROOT, ("LOCK=cpu", "A=b c"), ("id=ca,src=/x",), "host")
    words = build.command_of(asked, "/bin/docker")
    arguments = [words[i + 1] for i, w in enumerate(words) if w == "--build-arg"]
    assert words[:4] == ["/bin/docker", "build", "--file", "docker/rocm.Dockerfile"]
    assert arguments[0] == f"VERSION={sd3tune.__version__}" and arguments[2:] == [
        "LOCK=cpu",
        "A=b c",
    ]
    assert arguments[1].startswith("REVISION=") and arguments[1] != "REVISION="
    assert words[words.index("--tag") + 1] == "me/x:1" and words[-1] == "."
    assert words[words.index("--network") + 1] == "host"
    assert words[words.index("--secret") + 1] == "id=ca,src=/x"
    assert "--network" not in build.command_of(Build("cuda", "x", ROOT), "docker")


@pytest.mark.parametrize(
    "word",
    [
        "HF_TOKEN=x",
        "A=https://me:pass@host/simple",
        "MY_PASSWORD=x",
        "X=hf_abcdefghijkl",
        "api_key=",
    ],
)
def test_a_secret_in_an_argument_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(ContainerError, match=f"--build-arg {word.partition('=')[0]}: ") as e:
        build.arguments(["LOCK=cpu", word])
    assert "--secret id=" in e.value.hint and "me:pass" not in str(e.value)
    assert build.arguments(["A=https://host/simple", "B=me@host"])


def test_what_the_build_names_is_an_argument_of_the_dockerfiles() -> None:
    for kind in ("cuda", "rocm"):
        text = (ROOT / "docker" / f"{kind}.Dockerfile").read_text()
        for name in ("VERSION", "REVISION", "BASE_IMAGE", "LOCK"):
            assert f"ARG {name}" in text
        assert "type=secret,id=ca," in text


def test_the_revision_is_gits_and_unknown_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.revision(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert build.revision(tmp_path) == head and len(head) == 40
    subprocess.run([*git, "tag", "-a", "v1", "-m", "x"], check=True)  # says less than the commit
    (tmp_path / "x").touch()
    subprocess.run([*git, "add", "x"], check=True)
    assert build.revision(tmp_path) == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert build.revision(tmp_path) == "unknown"


def test_sources_are_found_from_a_folder_of_the_repository_and_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "clone"
    (other / "docker").mkdir(parents=True)
    (other / "docker" / "cuda.Dockerfile").touch()
    (other / "a" / "b").mkdir(parents=True)
    for folder, found in ((other / "a" / "b", other), (ROOT / "docs", ROOT), (tmp_path, ROOT)):
        monkeypatch.chdir(folder)
        assert build.sources() == found


def test_a_package_without_its_repository_says_where_images_are_built(tmp_path: Path) -> None:
    (tmp_path / "sd3tune").symlink_to(ROOT / "sd3tune")
    command = [sys.executable, "-m", "sd3tune", "image", "build", "--vendor", "cuda"]
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 1
    assert error == f"error: no docker/cuda.Dockerfile in {tmp_path} or above"
    assert hint.startswith("hint: ") and "clone" in hint


def test_a_build_runs_docker_in_the_repository_and_says_the_size(
    start: Start, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    program(tmp_path, NEW, BUILDX, f'pwd >{log}; printf "%s\\n" "$DOCKER_BUILDKIT" "$@" >>{log}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    start(Engine())
    code, out, _ = say(
        "build", "--vendor", "cuda", "--base-image", "debian:x", "--build-arg", "A=1"
    )
    assert (code, out) == (0, f"built {TAG}, 7.52 GB unpacked\n")
    folder, kit, *words = log.read_text().splitlines()
    assert Path(folder) == ROOT and kit == "1" and words[0] == "build" and words[-1] == "."
    assert words.index("BASE_IMAGE=debian:x") < words.index("A=1")


def test_a_build_that_fails_is_an_error_after_the_builders_own_words(
    start: Start, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, NEW, BUILDX, "echo 'ERROR: failed to solve' >&2; exit 17")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    start(Engine())
    code, out, err = say("build", "--vendor", "rocm")
    assert (code, out) == (1, "")
    assert err.splitlines()[1:3] == [
        "ERROR: failed to solve", "error: building sd3tune:rocm failed with exit code 17"
    ]  # fmt: skip
    assert err.splitlines()[3].startswith("hint: the lines above say why")


def test_arguments_are_names_with_values() -> None:
    assert build.arguments(["A=", "B=c=d"]) == ("A=", "B=c=d")
    for word in ("A", "=x", "", "="):
        with pytest.raises(ContainerError, match=f"--build-arg {word}") as e:
            build.arguments(["OK=1", word])
        assert "LOCK=cpu" in e.value.hint
