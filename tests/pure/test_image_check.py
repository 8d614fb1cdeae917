"""`sd3tune image check` on engines that answer, refuse or are not there; and its document."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import sd3tune
from tests.fakes.engine import TAG, Engine
from tests.pure.conftest import Say, Start

ROOT = Path(__file__).parents[2]
FINDINGS = [
    {"status": "ok", "name": "python", "fact": "3.12", "fix": ""},
    {"status": "warn", "name": "disk", "fact": "9 GiB free", "fix": "free some"},
]
FAILED = {"status": "FAIL", "name": "driver", "fact": "too old", "fix": "update"}
LABELS = {"org.opencontainers.image.version": sd3tune.__version__}
TOOLKIT: dict[str, Any] = {"Runtimes": {"nvidia": {}}}
CDI = {"DiscoveredDevices": [{"ID": "nvidia.com/gpu=all"}], "SecurityOptions": ["name=rootless"]}
CHECK = ("check", "--vendor", "cuda")


def doctor(*findings: dict[str, str]) -> bytes:
    return json.dumps({"findings": findings}).encode()


@pytest.fixture
def checked(say: Say, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`image check --json` with this engine and no `docker` command: exit code, lines by name."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def ask(one: Engine, *words: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
        start(one)
        code, out, _ = say(*(words or CHECK), "--json")
        document = json.loads(out)
        assert document["can_train"] == (code == 0)
        return code, {line["name"]: line for line in document["lines"]}, document

    return ask


def test_a_host_that_could_train_is_told_so(checked: Any, say: Say) -> None:
    one = Engine(TOOLKIT, {TAG: LABELS}, out=doctor(*FINDINGS))
    code, lines, _ = checked(one)
    assert code == 0 and lines["inside"]["status"] == "ok"
    assert lines["image"]["status"] == lines["NVIDIA toolkit"]["status"] == "ok"
    assert lines["builder"]["status"] == "warn" and "docker-buildx" in lines["builder"]["fix"]
    assert lines["inside, disk"] == FINDINGS[1] | {"name": "inside, disk"}
    assert one.created[0]["Cmd"] == ["doctor", "--json", "--quick"]
    _, out, _ = say(*CHECK)
    assert out.endswith("\na container can train here\n") and "\n      fix: free some\n" in out


def test_check_starts_what_run_starts(checked: Any) -> None:
    one = Engine(CDI, {TAG: LABELS}, out=doctor())
    _, lines, _ = checked(one)
    (body,) = one.created
    (request,) = body["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("cdi", ["nvidia.com/gpu=all"])
    assert "User" not in body and lines["engine"]["fact"].endswith(", rootless")


CHECKED: dict[str, tuple[Engine, str, str, str]] = {
    # name: (engine, which line, its fact, its fix)
    "no toolkit": (Engine(), "NVIDIA toolkit", "neither a runtime nor CDI devices", "nvidia-ctk"),
    "no image": (Engine(TOOLKIT, {}), "image", f"there is no `{TAG}` here", "image build"),
    "no name": (Engine(TOOLKIT, refuses={"/images": (400, "invalid reference format")}),
        "image", f"`{TAG}` is not a valid name of an image", "lower case"),
    "refused": (Engine(TOOLKIT, refuses={"/start": (500, "unable to find user x: no")}),
        "container", "the image has no user `x`", "--user"),
    "failed inside": (Engine(TOOLKIT, out=doctor(FAILED), ends=1),
        "inside, driver", "too old", "update"),
    "not ours": (Engine(TOOLKIT, out=b"hello\n"),
        "container", "doctor did not answer: hello", "run"),
    "a number": (Engine(TOOLKIT, out=b"5"), "container", "doctor did not answer: 5", "run"),
    "silent": (Engine(TOOLKIT, ends=127), "container", "exit code 127 and no word", "run"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKED)
def test_what_is_missing_is_a_line_with_its_fix(case: str, checked: Any) -> None:
    one, name, fact, fix = CHECKED[case]
    code, lines, _ = checked(one)
    assert code == 1 and lines[name]["status"] == "FAIL" and "inside" not in lines
    assert fact in lines[name]["fact"] and fix in lines[name]["fix"]


def test_an_image_of_another_version_is_a_warning(checked: Any) -> None:
    code, lines, _ = checked(Engine(TOOLKIT, {TAG: {}}, out=doctor()))
    assert code == 0 and lines["image"]["status"] == "warn"
    assert (
        f"sd3tune unknown, revision unknown; this is {sd3tune.__version__}"
        in lines["image"]["fact"]
    )


def test_a_host_without_amds_driver_is_a_line_too(checked: Any) -> None:
    if Path("/dev/kfd").exists():
        pytest.skip("this host has AMD's driver")
    words = ("check", "--vendor", "rocm")
    code, lines, _ = checked(Engine(images={"sd3tune:rocm": LABELS}), *words)
    assert code == 1 and "this host has no /dev/kfd" in lines["container"]["fact"]
    assert "NVIDIA toolkit" not in lines and lines["image"]["status"] == "ok"
    code, lines, _ = checked(Engine(images={"sd3tune:rocm": LABELS}, out=doctor()), *words, "--cpu")
    assert code == 0 and list(lines) == ["engine", "builder", "image", "inside"]


def test_without_an_engine_check_has_one_line(silent: str, say: Say, monkeypatch: Any) -> None:
    monkeypatch.setenv("DOCKER_HOST", silent)
    code, out, _ = say(*CHECK, "--json")
    (line,) = json.loads(out)["lines"]
    assert code == 1 and line["name"] == "engine" and "systemctl start docker" in line["fix"]


def test_the_reference_names_every_field_of_the_document(checked: Any) -> None:
    _, _, document = checked(Engine(TOOLKIT, {TAG: LABELS}, out=doctor(*FINDINGS)))
    text = (ROOT / "docs" / "reference" / "json.md").read_text()
    section = re.search(r"## `sd3tune image check --json`\n(.*?)\n## ", text, re.S)
    assert section
    rows = re.findall(r"^\| (`[^|]+`) \| (.*) \|$", section[1], re.M)
    fields = {name for row, _ in rows for name in re.findall(r"`([^`]+)`", row)}
    assert fields == {f"{k}[]" if isinstance(v, list) else k for k, v in document.items()}
    (about,) = [meaning for row, meaning in rows if row == "`lines[]`"]
    named = set(re.findall(r"`(\w+)`", about))
    assert named >= {key for line in document["lines"] for key in line}
