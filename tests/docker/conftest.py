"""Both images, built by the real command and run on the engine that scripts/test-images brings.

Containers have no network but their own loopback: nothing reaches, or is reached from, outside.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("cuda", "rocm")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
WHEELS = os.environ.get("SD3TUNE_TEST_WHEELS")  # where the images' PyTorch for CPUs is served


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def said(words: list[str], seconds: float, **more: object) -> Said:
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, **more)  # type: ignore[call-overload]
    return Said(done.returncode, done.stdout, done.stderr)


def docker(*words: str, seconds: float = 300) -> Said:
    return said(["docker", *words], seconds)


def sd3tune(*words: str, seconds: float = 600, cwd: Path = ROOT) -> Said:
    """The command on the host."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return said([sys.executable, "-m", "sd3tune", *words], seconds, cwd=cwd, env=environ)


def build(kind: str, tag: str, source: Path = ROOT) -> Said:
    words = ["image", "build", "--vendor", kind, "--image", tag, "--network", "host"]
    with tempfile.NamedTemporaryFile("w") as links:
        links.write(f"{WHEELS}\n")
        links.flush()
        words += ["--build-arg", "LOCK=cpu", "--secret", f"id=links,src={links.name}"]
        return _build(words, source)


def _build(words: list[str], source: Path) -> Said:
    if base := os.environ.get("SD3TUNE_TEST_BASE"):
        words += ["--base-image", base]
    if CERTIFICATES.exists():  # of a proxy, where there is one
        words += ["--secret", f"id=ca,src={CERTIFICATES}"]
    return sd3tune(*words, seconds=1800, cwd=source)


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The tags of both."""
    if not WHEELS:
        pytest.skip("skipped: no engine (bash scripts/test-images brings one)")
    tags = {}
    for kind in KINDS:
        tags[kind], started = f"sd3tune-test:{kind}", time.monotonic()
        answer = build(kind, tags[kind])
        assert answer.code == 0, answer.err[-4000:] + answer.out[-1000:]
        print(f"{answer.out.strip()}, in {time.monotonic() - started:.0f} s")
    return tags


@pytest.fixture(params=KINDS)
def image(request: pytest.FixtureRequest, images: dict[str, str]) -> str:
    """Each of the two."""
    return images[request.param]


class Container:
    """One that was started in the background."""

    def __init__(self, number: str) -> None:
        self.number = number

    def run(self, *words: str, seconds: float = 300, user: str = "0") -> Said:
        return docker("exec", "--user", user, self.number, *words, seconds=seconds)

    def logs(self) -> str:
        answer = docker("logs", self.number)
        return answer.out + answer.err

    def running(self) -> bool:
        return docker("inspect", "-f", "{{.State.Running}}", self.number).out.strip() == "true"

    def code(self, seconds: float = 300) -> int:
        """When it has ended."""
        return int(docker("wait", self.number, seconds=seconds).out)

    def until(self, true: Callable[[], object], what: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"{what}: not within {seconds} s\n{self.logs()[-3000:]}"
            time.sleep(0.2)

    def until_said(self, words: str, seconds: float = 300) -> None:
        self.until(lambda: words in self.logs(), words, seconds)


Start = Callable[..., Container]


@pytest.fixture
def start() -> Iterator[Start]:
    """`docker run -d`, and gone at the end of the test."""
    started: list[Container] = []

    def go(*words: str) -> Container:
        answer = docker("run", "-d", "--network", "none", *words)
        assert answer.code == 0, answer.err
        started.append(Container(answer.out.strip()))
        return started[-1]

    yield go
    for one in started:
        docker("rm", "-f", "-v", one.number)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert sd3tune("demo", str(folder), "--model", "sd3.5-medium").code == 0
    return folder


@pytest.fixture
def workspace(written: Path, tmp_path: Path) -> Path:
    """A project with tiny models, for /workspace."""
    folder = tmp_path / "work space"  # a blank, as people have them
    subprocess.run(["cp", "-r", str(written), str(folder)], check=True)
    return folder


def steps(workspace: Path) -> list[int]:
    """Those that are in the log of the run, as it goes."""
    log = workspace / "output" / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record["step"] for record in records if "loss" in record]
