"""What the entrypoint starts under each platform's variables, and where secrets must not be."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.docker.conftest import Container, Start, docker, steps

TOKEN, PASSWORD, KEY = "hf_verysecrettoken123", "aVerySecretPassw0rd", "rpa_anotherSecretKey"
SERVER = "http://127.0.0.1:8000"
WRITTEN = "/etc /root /tmp /run /var /home /workspace /dev/shm /opt/jupyter /opt/sd3tune"
LOGIN = """
import http.cookiejar, sys, urllib.error, urllib.parse, urllib.request
password, base = sys.stdin.read(), "http://127.0.0.1:8888"
jar = http.cookiejar.CookieJar()
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
def code(path, data=None):
    try:
        return browser.open(base + path, data).status
    except urllib.error.HTTPError as e:
        return e.code
print(code("/api/contents"))
browser.open(base + "/login").read()
token = next(c.value for c in jar if c.name == "_xsrf")
form = urllib.parse.urlencode({"_xsrf": token, "password": password}).encode()
print(code("/login", form), code("/api/contents"))
"""


@pytest.fixture(scope="session")
def keys(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of keys, made by the image's own ssh-keygen."""
    folder = tmp_path_factory.mktemp("keys")
    answer = docker("run", "--rm", "--network", "none", "-v", f"{folder}:/k", images["cuda"],
                    "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/k/id")  # fmt: skip
    assert answer.code == 0, answer.err
    return folder


def listens(one: Container, port: int) -> bool:
    return one.run("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}").code == 0


def ssh(one: Container, command: str) -> str:
    quiet = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-q")
    answer = one.run(
        "ssh", "-i", "/home/k/id", *quiet, "-o", "BatchMode=yes", "root@127.0.0.1", command
    )
    assert answer.code == 0, answer.err + one.logs()
    return answer.out


def nowhere(one: Container, secret: str) -> None:
    """Not in a file, a command line or the log; each place that was written to was searched."""
    found = one.run("bash", "-c", f"grep -rlsF -e {secret} {WRITTEN} || true")
    assert found.out == ""
    lines = one.run("bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "tini" in lines.out and secret not in lines.out
    assert secret not in one.logs()
    changed = {line.split()[1] for line in docker("diff", one.number).out.splitlines()}
    places = tuple(WRITTEN.split())
    assert not [path for path in changed if not path.startswith(places)]


def test_without_variables_nothing_listens_and_nothing_stays(image: str) -> None:
    answer = docker("run", "--rm", "--network", "none", image)
    assert answer.code == 1  # doctor's: no card
    assert "no command was given" in answer.err and "SSH" not in answer.err
    script = "sleep 1; cat /proc/net/tcp /proc/net/tcp6 | grep -c ' 0A ' || true"  # 0A: listening
    assert docker("run", "--rm", "--network", "none", image, "bash", "-c", script).out == "0\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"RUNPOD_POD_ID": "abc123", "RUNPOD_POD_HOSTNAME": "abc123-1", "PUBLIC_KEY": "KEY"},
        {"VAST_CONTAINERLABEL": "C.1234", "CONTAINER_ID": "1234", "SSH_PUBLIC_KEY": "KEY"},
    ],
    ids=["RunPod", "Vast.ai"],
)
def test_a_key_lets_its_owner_in_with_the_containers_environment(
    image: str, keys: Path, variables: dict[str, str], start: Start
) -> None:
    public = (keys / "id.pub").read_text().strip()
    words = [f"{k}={public if v == 'KEY' else v}" for k, v in variables.items()]
    secret = [f"RUNPOD_API_KEY={KEY}", f"CONTAINER_API_KEY={KEY}"]
    given = [w for word in [*words, *secret, f"HF_TOKEN={TOKEN}"] for w in ("-e", word)]
    one = start("-v", f"{keys}:/home/k:ro", *given, image)
    one.until_said("sd3tune: waiting")
    assert "SSH on port 22 for 1 key(s)" in one.logs() and not listens(one, 8888)
    inside = dict(line.partition("=")[::2] for line in ssh(one, "env").splitlines())
    assert inside["HF_TOKEN"] == TOKEN and inside["HF_HOME"] == "/workspace/.cache/huggingface"
    assert not {"RUNPOD_API_KEY", "CONTAINER_API_KEY"} & inside.keys()
    assert inside["SD3TUNE_IMAGE"] in image and inside["HOME"] == "/root"
    assert "sd3tune" in ssh(one, "sd3tune --version")
    assert ssh(one, "python -c 'import torch; print(6 * 7)'") == "42\n"
    nowhere(one, TOKEN)


def test_a_stranger_with_another_key_or_a_password_is_not_let_in(
    images: dict[str, str], keys: Path, start: Start
) -> None:
    other = (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb3u9FpHBsCnRl9LzKn2mVqzq7J8m0lq0d1d3Yyq1aB nobody"
    )
    one = start("-v", f"{keys}:/home/k:ro", "-e", f"PUBLIC_KEY={other}", images["cuda"])
    one.until_said("sd3tune: waiting")
    words = ("-i", "/home/k/id", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no")
    answer = one.run("ssh", *words, "root@127.0.0.1", "true")
    assert answer.code == 255 and "Permission denied (publickey)." in answer.err


def test_two_containers_have_different_host_keys(
    images: dict[str, str], keys: Path, start: Start
) -> None:
    public = (keys / "id.pub").read_text().strip()
    seen = set()
    for _ in range(2):
        one = start("-e", f"PUBLIC_KEY={public}", images["cuda"])
        one.until_said("SSH on port 22")
        seen.add(one.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").out)
    assert len(seen) == 2 and all(seen)


def test_an_unprivileged_user_is_told_that_ssh_needs_root(image: str) -> None:
    words = ("--user", "1000:1000", "-e", "PUBLIC_KEY=ssh-ed25519 AAAA x")
    answer = docker("run", "--rm", "--network", "none", *words, image, "sd3tune", "--version")
    assert answer.code == 0 and "SSH was asked for and needs root: not started" in answer.err


def test_jupyter_runs_for_its_password_alone(images: dict[str, str], start: Start) -> None:
    words = ("-e", f"JUPYTER_PASSWORD={PASSWORD}", "-e", f"HF_TOKEN={TOKEN}", images["cuda"])
    one = start(*words)
    one.until_said("sd3tune: waiting")
    assert "JupyterLab on port 8888" in one.logs() and not listens(one, 22)
    one.until(lambda: listens(one, 8888), "JupyterLab")
    for password, codes in (("wrong", "403\n401 403\n"), (PASSWORD, "403\n200 200\n")):
        done = subprocess.run(
            ["docker", "exec", "-i", one.number, "python", "-c", LOGIN],
            input=password, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout == codes, done.stderr + one.run("cat", "/tmp/jupyter.log").out
    nowhere(one, PASSWORD)
    nowhere(one, TOKEN)


def test_a_short_password_starts_no_jupyter(images: dict[str, str]) -> None:
    answer = docker("run", "--rm", "--network", "none", "-e", "JUPYTER_PASSWORD=elevenchars",
                    images["cuda"])  # fmt: skip
    assert answer.code == 1  # doctor's, at once: nothing is served
    assert "shorter than 12 characters: JupyterLab not started" in answer.err


def test_a_file_with_the_name_of_a_module_in_the_workspace_is_only_a_file(
    image: str, tmp_path: Path, start: Start
) -> None:
    for name in ("tokenize", "platform", "json", "jupyter_core"):
        (tmp_path / f"{name}.py").write_text("print('PLANTED', flush=True)\nraise SystemExit(9)\n")
    words = ("-v", f"{tmp_path}:/workspace", "-e", f"JUPYTER_PASSWORD={PASSWORD}", image)
    one = start(*words)
    one.until(lambda: listens(one, 8888), "JupyterLab")
    assert "PLANTED" not in one.logs() + one.run("cat", "/tmp/jupyter.log").out
    assert one.run("python", "-m", "json.tool", "--help").code == 0
    answer = one.run("sd3tune", "doctor")
    assert "PLANTED" not in answer.out and "cannot be imported" not in answer.out


def test_a_second_start_in_the_same_container_brings_no_second_service(
    images: dict[str, str], keys: Path, start: Start
) -> None:
    public = (keys / "id.pub").read_text().strip()
    words = ("-e", f"JUPYTER_PASSWORD={PASSWORD}", "-e", f"PUBLIC_KEY={public}", images["rocm"])
    one = start(*words)
    one.until(lambda: listens(one, 8888) and listens(one, 22), "both services")
    again = one.run("sd3tune-entrypoint", "sd3tune", "--version")
    assert again.code == 0 and again.out.startswith("sd3tune")
    assert "sshd not started" in again.err and "JupyterLab not started" in again.err


class TestStopping:
    """SD3TUNE_STOP_POD, against a server on the container's own loopback."""

    RUNPOD = (
        ("RUNPOD_POD_ID=pod77", f"RUNPOD_API_KEY={KEY}", f"RUNPOD_REST_URL={SERVER}/v2"),
        f'POST /v2/pods/pod77/action Bearer {KEY} {{"action": "stop"}}\n',
    )
    VAST = (
        ("VAST_CONTAINERLABEL=C.99", f"CONTAINER_API_KEY={KEY}", f"VAST_URL={SERVER}"),
        f'PUT /api/v0/instances/99/ Bearer {KEY} {{"state": "stopped"}}\n',
    )

    @pytest.fixture
    def platform(self, images: dict[str, str], start: Start) -> Container:
        server = Path(__file__).with_name("stop_server.py")
        one = start("-v", f"{server}:/server.py:ro", images["cuda"], "python", "/server.py")
        one.until_said("listening")
        return one

    def train(
        self, image: str, platform: Container, variables: tuple[str, ...], workspace: Path
    ) -> list[str]:
        given = [w for v in ("SD3TUNE_BACKEND=cpu", *variables) for w in ("-e", v)]
        words = ["--network", f"container:{platform.number}", "-v", f"{workspace}:/workspace"]
        return [*words, *given, image, "train", "config/config.json", "validation_disable=true"]

    @pytest.mark.parametrize(
        "mode, who", [("success", RUNPOD), ("always", VAST)], ids=["RunPod", "Vast.ai"]
    )
    def test_a_run_that_ended_stops_its_machine_once(
        self, mode: str, who: tuple[tuple[str, ...], str], images: dict[str, str],
        platform: Container, workspace: Path,
    ) -> None:  # fmt: skip
        variables, request = who
        words = self.train(
            images["cuda"], platform, (*variables, f"SD3TUNE_STOP_POD={mode}"), workspace
        )
        answer = docker("run", "--rm", *words, "max_train_steps=12")
        assert answer.code == 0 and "asked " in answer.err, answer.err[-2000:]
        assert platform.logs() == "listening\n" + request
        assert KEY not in answer.err + answer.out

    @pytest.mark.parametrize("mode", ["success", "always"])
    def test_a_run_that_failed_stops_it_only_with_always(
        self, mode: str, images: dict[str, str], platform: Container, workspace: Path
    ) -> None:
        variables, request = self.RUNPOD
        words = self.train(
            images["cuda"], platform, (*variables, f"SD3TUNE_STOP_POD={mode}"), workspace
        )
        answer = docker("run", "--rm", *words, "no_such_setting=1")
        assert answer.code == 1
        assert platform.logs() == "listening\n" + (request if mode == "always" else "")

    def test_a_run_that_was_stopped_from_outside_asks_nobody(
        self, images: dict[str, str], platform: Container, workspace: Path, start: Start
    ) -> None:
        words = self.train(
            images["cuda"], platform, (*self.RUNPOD[0], "SD3TUNE_STOP_POD=always"), workspace
        )
        answer = docker("run", "-d", *words)
        one = Container(answer.out.strip())
        try:
            one.until(lambda: len(steps(workspace)) >= 3, "three steps")
            docker("stop", "-t", "60", one.number)
            assert one.code() == 143 and list((workspace / "output").glob("checkpoint-*"))
        finally:
            docker("rm", "-f", one.number)
        assert platform.logs() == "listening\n"


def test_health_is_that_of_the_run(images: dict[str, str], start: Start) -> None:
    """Healthy without a run and while one moves, unhealthy when it has stood still."""
    often = ("--health-interval", "1s", "--health-retries", "1")
    one = start(*often, "-e", "SD3TUNE_HEARTBEAT_SECONDS=3", images["cuda"], "sleep", "600")

    def health(wanted: str) -> None:
        ask = ("inspect", "-f", "{{.State.Health.Status}}", one.number)
        one.until(lambda: docker(*ask).out.strip() == wanted, wanted)

    health("healthy")
    one.run("touch", "-d", "1 minute ago", "/tmp/sd3tune-heartbeat")
    health("unhealthy")
    one.run("touch", "/tmp/sd3tune-heartbeat")
    health("healthy")


def test_a_run_beats_while_it_moves_and_not_after(
    images: dict[str, str], workspace: Path, start: Start
) -> None:
    words = ("-v", f"{workspace}:/workspace", "-e", "SD3TUNE_BACKEND=cpu", images["cuda"])
    one = start(*words, "bash", "-c", "sd3tune train config/config.json validation_disable=true"
                " max_train_steps=100; sleep 1200")  # fmt: skip
    one.until(lambda: len(steps(workspace)) >= 3, "three steps")
    age = "expr $(date +%s) - $(stat -c %Y /tmp/sd3tune-heartbeat)"
    time.sleep(2)
    assert int(one.run("bash", "-c", age).out) <= 10
    one.until_said("result   /", 900)
    gone = ("bash", "-c", "test ! -e /tmp/sd3tune-heartbeat")
    one.until(lambda: one.run(*gone).code == 0, "the end of the heartbeat")
