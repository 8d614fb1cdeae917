"""Who gets what from the page's server, and who does not."""

import fcntl
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd3tune.live.serving import Address
from tests.live_runs import TOKEN, Served, checkpoint, picture, run_folder, served

LOCK = ".sd3tune.lock"
ASSETS = Path(__file__).parents[2] / "sd3tune" / "live" / "assets"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a secret beside its folder and links that lead to it."""
    top = tmp_path_factory.mktemp("runs")
    (top / "secret.json").write_text("the secret")
    folder = run_folder(top / "output")
    (folder / "validation_images" / "step_9_evil_0_64x64.png").symlink_to(top / "secret.json")
    (folder / "checkpoint-100" / "link.json").symlink_to(top / "secret.json")
    (folder / "linked").symlink_to(top)
    (folder / "config.json").write_text("{}")
    (folder / ".hidden.json").write_text("hidden")
    return folder


def test_the_page_is_served_with_headers_that_bind_its_scripts(run: Path) -> None:
    with served(run) as page:
        for path in ("/", "/assets/main.js", "/hello", "/nothing", "/assets/..%2f..%2fserving.py"):
            headers = page.ask(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "server" not in headers and "access-control-allow-origin" not in headers
        assert page.ask("/").status == 200 and page.ask("/nothing").status == 404


def test_pictures_and_checkpoints_of_the_run_can_be_had(run: Path) -> None:
    path = "validation_images/step_50_cat_0_128x128.png"
    with served(run) as page:
        image = page.ask(f"/runs/0/image/{path}")
        assert image.status == 200 and image.body == (run / path).read_bytes()
        assert image.headers["content-type"] == "image/png"
        file = page.ask("/runs/0/file/checkpoint-100/trained.safetensors")
        assert file.body == b"weights"
        assert file.headers["content-disposition"] == 'attachment; filename="trained.safetensors"'
        whole = page.ask("/runs/0/zip/checkpoint-100.zip")
    with zipfile.ZipFile(io.BytesIO(whole.body)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            "checkpoint-100/manifest.json",
            "checkpoint-100/plan.json",
            "checkpoint-100/trained.safetensors",
        ]
        assert archive.read("checkpoint-100/trained.safetensors") == b"weights"


@pytest.mark.parametrize(
    "path",
    [
        "/runs/0/image/../secret.json",
        "/runs/0/image/..%2fsecret.json",
        "/runs/0/image/%2e%2e/secret.json",
        "/runs/0/image//etc/passwd",
        "/runs/0/image/validation_images/step_9_evil_0_64x64.png",
        "/runs/0/image/linked/output/validation_images/step_50_cat_0_128x128.png",
        "/runs/0/image/config.json",
        "/runs/0/file/checkpoint-100/link.json",
        "/runs/0/file/checkpoint-100/..%2f..%2fsecret.json",
        "/runs/0/file/linked/secret.json",
        "/runs/0/file/metrics.jsonl",
        "/runs/0/file/.hidden.json",
        "/runs/0/file/.sd3tune.lock",
        "/runs/0/zip/..%2f..zip",
        "/runs/0/zip/linked.zip",
        "/runs/7/image/validation_images/step_50_cat_0_128x128.png",
        "/runs/%00/file/config.json",
        "/runs/0/file/a%00b",
        "/runs/0/image/%ff%fe.png",
        "/assets/..%2findex.html",
    ],
)
def test_no_path_leads_out_of_the_run(run: Path, path: str, page_of_run: Served) -> None:
    answer = page_of_run.ask(path)
    assert answer.status == 404 and b"secret" not in answer.body


@pytest.fixture(scope="module")
def page_of_run(run: Path) -> Iterator[Served]:
    with served(run) as page:
        yield page


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1", 200),
        ("localhost:9", 200),
        ("[::1]:9", 200),
        ("LOCALHOST.", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("", 421),
        ("10.0.0.1", 421),
        ("[::1", 421),
    ],
)
def test_a_name_that_was_made_to_lead_here_is_refused(
    run: Path, host: str, status: int, page_of_run: Served
) -> None:
    assert page_of_run.ask("/hello", host=host).status == status


def test_beyond_the_loopback_every_answer_about_a_run_needs_the_token(run: Path) -> None:
    with served(run, address=Address("0.0.0.0", 0, token=TOKEN)) as page:
        assert page.ask("/").status == page.ask("/assets/main.js").status == 200
        for path in (
            "/hello",
            "/live",
            "/runs/0/file/config.json",
            "/runs/0/zip/checkpoint-100.zip",
        ):
            assert page.ask(path).status == 401, path
        for token in ("", "wrong", TOKEN + "x", TOKEN[:-1], "ü"):
            wrong = page.ask(
                "/enter",
                "POST",
                origin=f"http://{page.host}",
                authorization=f"Bearer {token}".encode().decode("latin-1"),
            )
            assert wrong.status == 401 and "set-cookie" not in wrong.headers
        cookie = page.cookie()
        assert page.ask("/hello", cookie=cookie).json == {"may_stop": True, "receives": False}
        assert page.ask("/hello", cookie=cookie, host="evil.example").status == 421


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(run: Path) -> None:
    with served(run) as page:
        sent = page.ask(
            "/enter", "POST", origin=f"http://{page.host}", authorization=f"Bearer {TOKEN}"
        )
        flags = sent.headers["set-cookie"].lower()
        assert "httponly" in flags and "samesite=strict" in flags
        assert f"sd3tune-watch-{page.port}=" in flags, "another server on this host has another one"


def test_a_random_token_is_made_for_every_server(run: Path) -> None:
    tokens = set()
    for _ in range(2):
        with served(run, address=Address(port=0)) as page:
            tokens.add(page.server.token)
            assert page.url.endswith(f"/#token={page.server.token}")
    assert len(tokens) == 2 and all(len(token) >= 40 for token in tokens)


@pytest.mark.parametrize("path", ["/runs/0/stop", "/enter"])
@pytest.mark.parametrize(
    "origin", ["", "null", "https://evil.example", "http://127.0.0.1", "http://localhost:1"]
)
def test_no_other_page_can_send_what_changes_something(
    path: str, origin: str, page_of_run: Served
) -> None:
    cookie = page_of_run.cookie()
    headers: dict[str, Any] = {"origin": origin} if origin else {}
    answer = page_of_run.ask(path, "POST", cookie=cookie, **headers)
    assert answer.status == 403


def test_stopping_needs_the_token_also_on_this_machine(page_of_run: Served) -> None:
    origin = f"http://{page_of_run.host}"
    assert page_of_run.ask("/runs/0/stop", "POST", origin=origin).status == 401
    stopped = page_of_run.ask("/runs/0/stop", "POST", origin=origin, cookie=page_of_run.cookie())
    assert stopped.status == 409 and stopped.json == {"error": "the run is not running"}


HOLDER = """
import fcntl, json, os, signal, socket, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
pid, host = int(sys.argv[2]) or os.getpid(), sys.argv[3] or socket.gethostname()
file.write(json.dumps({"pid": pid, "host": host}))
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def holder(lock: Path, pid: int = 0, host: str = "") -> "subprocess.Popen[str]":
    """A process that holds the lock, and says in the file that `pid` does (0: itself)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), str(pid), host], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_process_that_holds_the_lock_is_told_to_stop(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "output")
    with holder(folder / LOCK) as process, served(folder) as page:
        origin = f"http://{page.host}"
        answer = page.ask("/runs/0/stop", "POST", origin=origin, cookie=page.cookie())
        assert answer.status == 202
        assert process.wait(20) == -15


@pytest.mark.parametrize(
    "named, host", [("innocent", ""), ("itself", "another-machine"), ("none", "")]
)
def test_a_lock_file_that_names_another_process_stops_nobody(
    tmp_path: Path, named: str, host: str
) -> None:
    """A run folder of a stranger could name any process of the user."""
    folder = run_folder(tmp_path / "output")
    innocent = subprocess.Popen(["sleep", "60"])
    pid = {"innocent": innocent.pid, "itself": 0, "none": 2**31}[named]
    with holder(folder / LOCK, pid, host) as process, served(folder) as page:
        answer = page.ask(
            "/runs/0/stop", "POST", origin=f"http://{page.host}", cookie=page.cookie()
        )
        assert answer.status == 409 and answer.json["error"]
        assert innocent.poll() is None and process.poll() is None
        process.kill()
    innocent.kill()
    innocent.wait()


def test_looking_at_the_lock_leaves_it_to_the_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "output")
    (folder / LOCK).write_text("")
    with served(folder) as page:
        page.ask("/runs/0/stop", "POST", origin=f"http://{page.host}", cookie=page.cookie())
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_stream_has_all_runs_and_then_what_is_new(tmp_path: Path) -> None:
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", 5)
    with (
        served(first, second) as page,
        socket.create_connection(("127.0.0.1", page.port), 20) as link,
    ):
        link.sendall(f"GET /live HTTP/1.1\r\nHost: {page.host}\r\n\r\n".encode())
        stream = link.makefile("rb")

        def until_pause() -> list[tuple[str, dict[str, object]]]:
            name, found = "", list[tuple[str, dict[str, object]]]()
            while True:
                line = stream.readline().decode().strip()
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: ") and name == "pause":
                    return found
                elif line.startswith("data: "):
                    found.append((name, json.loads(line[6:])))

        everything = until_pause()
        assert {data["run"] for _, data in everything} == {"0", "1"}
        assert [data["rows"] for name, data in everything if name == "curves"] == [120, 5]
        picture(first / "validation_images/step_110_cat_0_128x128.png", "a red circle")
        checkpoint(second, 5)
        news: list[tuple[str, dict[str, object]]] = []
        while len(news) < 2:
            news += until_pause()
        changed = {(data["run"], data["name"]) for name, data in news if name == "section"}
        assert {("0", "pictures"), ("1", "checkpoints")} <= changed
        assert not any(name == "curves" for name, _ in news), "no row was added"


def test_what_the_page_needs_is_small_and_comes_from_nowhere_else() -> None:
    files = list(ASSETS.iterdir())
    assert sum(path.stat().st_size for path in files) <= 150 * 1000
    for path in files:
        if (
            path.suffix in (".js", ".css", ".html")
            and "min" not in path.name
            and "slider" not in path.name
        ):
            text = path.read_text()
            assert "//cdn" not in text and "http" not in text.replace("http-equiv", ""), path
            assert (
                ".innerHTML =" not in text
                and "eval(" not in text
                and "insertAdjacentHTML" not in text
            )
            assert len(text.splitlines()) <= 400, path
    licences = (ASSETS / "LICENSES.txt").read_text()
    for name, version, author in (
        ("uPlot", "1.6.32", "Leon Sorokin"),
        ("img-comparison-slider", "8.0.7", "Snisarenko"),
    ):
        assert f"{name} {version}" in licences and author in licences


def test_no_module_of_the_page_can_ask_another_machine() -> None:
    """The server has no client: nothing that a run or a webhook says makes it open an address."""
    for path in ASSETS.parent.glob("*.py"):
        source = path.read_text()
        for client in (
            "urllib.request",
            "httpx",
            "httpcore",
            "requests\n",
            "http.client",
            "aiohttp",
            "create_connection",
        ):
            assert client not in source, path
    assert os.environ.get("HF_HUB_OFFLINE") == "1"
