"""The two Dockerfiles are one but for the vendor, hold nothing that moves or is secret, and take in
only what .dockerignore lets through; the locks are hashed and within pyproject's ranges.

hadolint and shellcheck come with the `dev` extra. No engine is needed.
"""

import difflib
import re
import subprocess
import sys
from fnmatch import translate
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KINDS = ("cuda", "rocm")
LOCKS = sorted(p.stem for p in (DOCKER / "locks").glob("*.txt"))


def dockerfile(kind: str) -> str:
    return (DOCKER / f"{kind}.Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest), with continued lines in one and without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(w, rest) for w, _, rest in (x.partition(" ") for x in joined.splitlines() if x)]


# The difference is the vendor

COMMENT = r"(?:#.*\n)+"
ALLOWED = [  # (cuda.Dockerfile, rocm.Dockerfile), in order; nothing else may differ
    (COMMENT, COMMENT),
    (r"ARG LOCK=cuda\n", r"ARG LOCK=rocm\n"),
    (
        r"",
        r"\n?" + COMMENT + r"COPY docker/locks/amdsmi.txt /locks/\nRUN (?:.*\\\n)+"
        r" +--require-hashes --target /opt/amdsmi --requirement /locks/amdsmi.txt\n{1,2}",
    ),
    (
        r"ENV SD3TUNE_IMAGE=cuda \\\n    NVIDIA_VISIBLE_DEVICES=all \\\n"
        r"    NVIDIA_DRIVER_CAPABILITIES=compute,utility \\\n",
        r"ENV SD3TUNE_IMAGE=rocm \\\n    SD3TUNE_AMDSMI=/opt/amdsmi \\\n",
    ),
    (r" +\S+description=\".* on NVIDIA GPUs\" \\\n", r" +\S+description=\".* on AMD GPUs\" \\\n"),
]


def differences(cuda: str, rocm: str) -> list[tuple[str, str]]:
    a, b = cuda.splitlines(keepends=True), rocm.splitlines(keepends=True)
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [("".join(a[i:j]), "".join(b[k:m])) for tag, i, j, k, m in blocks if tag != "equal"]


def only_the_vendor(cuda: str, rocm: str) -> bool:
    found = differences(cuda, rocm)
    return len(found) == len(ALLOWED) and all(
        re.fullmatch(pattern, text)
        for allowed, block in zip(ALLOWED, found, strict=True)
        for pattern, text in zip(allowed, block, strict=True)
    )


def test_the_dockerfiles_differ_in_the_vendor_alone() -> None:
    cuda, rocm = dockerfile("cuda"), dockerfile("rocm")
    assert only_the_vendor(cuda, rocm), differences(cuda, rocm)


@pytest.mark.parametrize(
    "old, new",
    [
        ("VOLUME [", "EXPOSE 22\nVOLUME ["),
        ("python3-dev", "python3-dev git"),
        ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=all HF_HOME=/x"),
        ("ARG LOCK=cuda", "ARG LOCK=cpu"),
        ("STOPSIGNAL SIGTERM\n", ""),
        ("SD3TUNE_IMAGE=cuda", "SD3TUNE_IMAGE=rocm"),
        ("on NVIDIA GPUs", "on GPUs"),
        ("FROM packages AS materials", "FROM base AS materials"),
        ("ARG LOCK", "# Only here.\nARG LOCK"),
    ],
)
def test_any_other_difference_is_found(old: str, new: str) -> None:
    changed = dockerfile("cuda").replace(old, new, 1)
    assert changed != dockerfile("cuda") and not only_the_vendor(changed, dockerfile("rocm"))


def test_they_have_the_same_stages_in_the_same_order() -> None:
    cuda, rocm = (
        [rest.partition(" AS ") for word, rest in instructions(dockerfile(kind)) if word == "FROM"]
        for kind in KINDS
    )
    assert cuda == rocm and [name for *_, name in cuda] == [
        "base", "tools", "packages", "application", "materials", "runtime"
    ]  # fmt: skip
    known = {"${BASE_IMAGE}"}
    for parent, _, name in cuda:  # nothing comes from a registry but the base
        assert parent in known
        known.add(name)


# What moves, and what is secret

PINNED = r"^ARG BASE_IMAGE=[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$"
FAULTS = {
    "syntax line": r"(?im)^#\s*syntax\s*=",
    "heredoc": r"<<-?[\"']?\w",
    "latest": r"(?i)\blatest\b",
    "COPY of a newer builder": r"(?m)^(?:COPY|ADD)\b.*--(?:link|exclude|parents)\b",
    "ADD": r"(?m)^ADD\b",
    "EXPOSE": r"(?m)^EXPOSE\b",  # some platforms publish such ports without being asked
    "address as an argument": r"(?m)^ARG \w*(?:LINKS|INDEX|URL|PROXY)\b",  # it may hold a password
}


def faults(text: str) -> list[str]:
    found = [name for name, pattern in FAULTS.items() if re.search(pattern, text)]
    found += [] if re.search(PINNED, text, re.M) else ["base without a digest"]
    stated = [rest for word, rest in instructions(text) if word in ("ARG", "ENV")]
    names = [w.partition("=")[0] for rest in stated for w in rest.split()]
    return found + ["secret" for n in names if re.search("TOKEN|KEY|PASSWORD|SECRET", n, re.I)]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_moves_and_nothing_is_secret(kind: str) -> None:
    assert faults(dockerfile(kind)) == []


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ("# sd3tune for", "# syntax=docker/dockerfile:1\n# sd3tune for", "syntax line"),
        ("CMD []", "RUN cat <<EOF\nEOF\nCMD []", "heredoc"),
        ("ARG BASE_IMAGE=ubuntu:24.04", "ARG BASE_IMAGE=ubuntu:latest", "latest"),
        ("COPY sd3tune", "COPY --link sd3tune", "COPY of a newer builder"),
        ("COPY sd3tune", "COPY --exclude=*.md sd3tune", "COPY of a newer builder"),
        ("COPY sd3tune", "ADD sd3tune", "ADD"),
        ("STOPSIGNAL", "EXPOSE 22 8888\nSTOPSIGNAL", "EXPOSE"),
        ("ARG LOCK", "ARG FIND_LINKS=x\nARG LOCK", "address as an argument"),
        ("ARG VERSION", "ARG HF_TOKEN\nARG VERSION", "secret"),
        ("ARG VERSION", "ENV JUPYTER_PASSWORD=x\nARG VERSION", "secret"),
        ("    HF_HOME=", "    API_KEY=1 \\\n    HF_HOME=", "secret"),
        ("ARG VERSION", "ARG AWS_SECRET_ACCESS=\nARG VERSION", "secret"),
        ("@sha256:0", "@sha256:", "base without a digest"),
    ],
)
def test_what_moves_or_is_secret_would_be_found(old: str, new: str, fault: str) -> None:
    changed = dockerfile("cuda").replace(old, new, 1)
    assert changed != dockerfile("cuda") and fault in faults(changed)


def unhashed(text: str) -> list[str]:
    """Installations of packages that no hash was stated for. sd3tune itself comes from a COPY."""
    commands = [c for word, rest in instructions(text) if word == "RUN" for c in rest.split(" && ")]
    found = [
        c for c in commands if re.search(r"\b(?:pip|uv|pipx|conda|npm)\b.* (?:install|add)\b", c)
    ]
    assert found or "install" not in text
    ours = "--offline", "--no-deps", "--no-build-isolation", " /source"
    return [c for c in found if "--require-hashes" not in c and not all(w in c for w in ours)]


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*Dockerfile")), ids=lambda p: p.name)
def test_every_package_is_installed_by_its_hash(path: Path) -> None:
    text = path.read_text()
    assert unhashed(text) == []
    assert unhashed(f"{text}RUN /opt/uv/bin/uv pip install --no-deps ninja==1.13.0\n")
    assert unhashed(text.replace("--require-hashes", ""))


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_secret_is_a_secret_of_the_build(kind: str) -> None:
    """Arguments are in `docker history` of every stage that the image is made of."""
    arguments = {r.partition("=")[0] for word, r in instructions(dockerfile(kind)) if word == "ARG"}
    assert arguments == {"BASE_IMAGE", "LOCK", "VERSION", "REVISION"}
    assert (
        re.findall(r"type=secret,id=(\w+),target=/run/secrets/", dockerfile(kind)).count("links")
        == 1
    )


# What goes in


def sources(kind: str) -> set[str]:
    """What COPY takes from the repository."""
    found: set[str] = set()
    for word, rest in instructions(dockerfile(kind)):
        flags = [w for w in rest.split() if w.startswith("--")]
        if word == "COPY" and not any(f.startswith("--from") for f in flags):
            names = [w for w in rest.split() if w not in flags][:-1]
            for name in names:
                found |= {name.replace("${LOCK}", lock) for lock in ("cuda", "rocm", "cpu")}
    return found


def enters(name: str, rules: str | None = None) -> bool:
    """.dockerignore, as the builder reads it: the last line that fits a file, or a folder around
    it, decides."""
    inside, path = True, Path(name)
    for line in (rules or (ROOT / ".dockerignore").read_text()).splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            depth = None if pattern.startswith("**/") else pattern.count("/") + 1
            expression = translate(pattern.removeprefix("**/"))
            for folder in (path, *path.parents[:-1]):
                parts = folder.parts
                shown = "/".join(parts) if depth else parts[-1]
                if (depth in (None, len(parts))) and re.fullmatch(expression, shown):
                    inside = line.startswith("!")
    return inside


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_exists_and_passes_dockerignore(kind: str) -> None:
    found = sources(kind)
    assert {"sd3tune", "docker/entrypoint.sh", f"docker/locks/{kind}.txt"} <= found
    for name in found:
        assert (ROOT / name).exists() and enters(name), name


def test_nothing_enters_a_build_that_no_image_copies() -> None:
    copied = sources("cuda") | sources("rocm")
    shown = [p for p in ROOT.iterdir() if not p.name.startswith(".")]  # .venv, .git: below
    files = [p.relative_to(ROOT) for d in shown for p in (d, *d.rglob("*")) if p.is_file()]
    sent = [p for p in files if enters(p.as_posix())]
    assert Path("sd3tune/cli/__init__.py") in sent and len(sent) < len(files)
    for path in sent:
        assert {p.as_posix() for p in (path, *path.parents)} & copied, path


@pytest.mark.parametrize(
    "name",
    [
        ".git/config", ".env", "tests/pure/test_plan.py", "datasets/photos/a.png", "id_rsa",
        "config/config.json", "output/metrics.jsonl", "docker/templates/compose.yaml",
        ".venv/bin/pip", "docker/locks/tools.in", "docker/locks/nvcc.txt", "docs/guides/images.md",
        "sd3tune/__pycache__/cli.cpython-311.pyc",
    ],
)  # fmt: skip
def test_what_is_private_or_made_stays_out(name: str) -> None:
    assert not enters(name)
    assert enters(name, "nothing-of-that-name")


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_the_code_installs_no_package_again(kind: str) -> None:
    """Everything from the first COPY of sd3tune on is made again, and so are stages behind it."""
    found = instructions(dockerfile(kind))
    stage, stages = "", {}
    for word, rest in found:
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
            stages[stage] = [rest.split()[0]]
        elif stage:
            stages[stage].append(f"{word} {rest}")
    changes = {s for s, lines in stages.items() if any(x.startswith("COPY sd3tune") for x in lines)}
    assert changes == {"application"}
    assert not any(lines[0] in changes for lines in stages.values())
    (last,) = [i for i, x in enumerate(stages["runtime"]) if "--from=application" in x]
    assert not any(x.startswith(("RUN", "COPY", "WORKDIR")) for x in stages["runtime"][last + 1 :])
    (packages,) = [s for s, lines in stages.items() if any("/locks/packages.txt \\" in x or
                   "--requirement /locks/packages.txt" in x for x in lines)]  # fmt: skip
    assert packages == stages["application"][0] == stages["runtime"][0]


# Locks


def locked(name: str) -> dict[str, list[tuple[Version, list[str]]]]:
    """Package -> its versions (by platform) and their hashes."""
    text = (DOCKER / "locks" / f"{name}.txt").read_text()
    found: dict[str, list[tuple[Version, list[str]]]] = {}
    for entry in re.sub(r"\\\n\s*", " ", text).splitlines():
        if entry.startswith("#"):
            continue
        stated, *hashes = entry.split(" --hash=")
        requirement = Requirement(stated)
        if requirement.url:
            version = parse_wheel_filename(unquote(requirement.url.rpartition("/")[2]))[1]
        else:
            (one,) = requirement.specifier
            assert one.operator == "==", stated
            version = Version(one.version)
        found.setdefault(canonicalize_name(requirement.name), []).append((version, hashes))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_version_and_hashes(name: str) -> None:
    found = locked(name)
    assert found
    for package, versions in found.items():
        for _, hashes in versions:
            assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64} *", h) for h in hashes), (
                package
            )


def wanted(*extras: str) -> list[Requirement]:
    """pyproject's requirements of an installation with these extras."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, waiting = [Requirement(r) for r in project["dependencies"]], list(extras)
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            requirement = Requirement(line)
            if requirement.name == "sd3tune":
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("name", ["cuda", "rocm", "cpu"])
def test_locked_packages_are_in_the_ranges_of_pyproject(name: str) -> None:
    have = locked(name)
    requirements = wanted(name, "image")
    assert {"torch", "jupyterlab", "s3fs"} <= {r.name for r in requirements}
    for requirement in requirements:
        for version, _ in have[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}"


def test_each_lock_has_its_vendor_and_no_other() -> None:
    assert "nvidia-cublas" in locked("cuda") and locked("rocm")["torch"][0][0].local == "rocm7.2"
    for name in ("rocm", "cpu"):
        assert not [p for p in locked(name) if p.startswith(("nvidia-", "cuda-"))]
    # Where PyTorch can import it, it counts devices with it (docker/README.md).
    assert not any("amdsmi" in locked(name) for name in ("cuda", "rocm", "cpu"))
    assert list(locked("amdsmi")) == ["amdsmi"]


@pytest.mark.parametrize("name", ["tools", "amdsmi", "nvcc"])
def test_what_is_asked_by_name_is_what_is_locked(name: str) -> None:
    have = locked(name)
    for line in (DOCKER / "locks" / f"{name}.in").read_text().splitlines():
        package, _, version = line.partition("==")
        assert [str(v) for v, _ in have[canonicalize_name(package)]] == [version]


# Linters


def lint(tool: str, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(tool)), *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*Dockerfile")), ids=lambda p: p.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    done = lint("hadolint", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def shell_scripts() -> list[Path]:
    folders = ("docker", "scripts", ".ci", "examples")
    files = [p for name in folders for p in (ROOT / name).rglob("*") if p.is_file()]
    shebang = re.compile(rb"#!\s*/\S*(?:/env )?\b(?:ba)?sh\b|# shellcheck shell=")
    return sorted(p for p in files if shebang.match(p.read_bytes()))


def test_shellcheck_has_nothing_to_say() -> None:
    names = [str(p.relative_to(ROOT)) for p in shell_scripts()]
    assert {"docker/entrypoint.sh", "docker/environment.sh", "docker/health.sh", "scripts/setup",
            "scripts/test-images", "docker/templates/vast/commands.sh"} <= set(names)  # fmt: skip
    done = lint("shellcheck", *names)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linters_find_what_is_wrong() -> None:
    done = lint("hadolint", "-", text="FROM debian:latest\n")
    assert done.returncode == 1 and "DL3007" in done.stdout
    done = lint("shellcheck", "-", text="#!/bin/sh\nrm $1\n")
    assert done.returncode == 1 and "SC2086" in done.stdout
